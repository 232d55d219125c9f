"""``sslspec``, or ``python -m sslspec_fast``: what was installed and whether it works.


sslspec          versions, instruction set, CUDA architectures, smoke checks
sslspec demo     train on real images with fused losses, against closed forms
sslspec bench    fused losses against plain, compiled and smart PyTorch
sslspec embed    closed-form embedding of a file of features or of a graph
sslspec gap      how far a saved embedding is from the optimum of a loss
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable, Sequence

import torch

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast._outputs import program

SUBCOMMANDS = ("demo", "bench", "embed", "gap")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the self-check or a subcommand; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in SUBCOMMANDS:
        return _subcommand(arguments[0])(arguments[1:])
    parser = argparse.ArgumentParser(
        prog=program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subcommand", nargs="?", choices=SUBCOMMANDS, help="see above")
    parser.add_argument("--version", action="version", version=sf.__version__)
    parser.parse_args(arguments)
    return self_check()


def _subcommand(name: str) -> Callable[[list[str]], int]:
    # Imported on demand: each pulls in packages that the self-check does not need.
    if name == "demo":
        from .demo import main as demo

        return demo
    if name == "bench":
        from .bench import main as bench

        return bench
    from .spectral import cli

    return {"embed": cli.embed, "gap": cli.gap}[name]


def self_check() -> int:
    """Print the facts and run the smoke checks; 0 when all pass."""
    print(f"sslspec_fast {sf.__version__} on Python {platform.python_version()}")
    print(f"{'torch':>18}: {torch.__version__}, {torch.get_num_threads()} threads")
    for key, value in sf.show_config().items():
        print(f"{key:>18}: {value}")
    failures = 0
    for name, check in CHECKS:
        try:
            error = check()
            verdict = "ok" if error <= 1e-9 else "WRONG"
        except Exception as problem:  # a self-check reports everything that can go wrong
            error, verdict = math.nan, f"FAILED: {type(problem).__name__}: {problem}"
        failures += verdict != "ok"
        print(f"{name:>18}: {verdict} (error {error:.0e})")
    print("all checks passed" if not failures else f"{failures} of {len(CHECKS)} checks failed")
    return 1 if failures else 0


# ---- smoke checks: each returns the absolute error against a value known in closed form ----


def _nt_xent() -> float:
    # Orthonormal pairs: each row sees its twin at cosine 1 and 2n - 2 rows at cosine 0.
    n, tau = 16, 0.5
    z = torch.eye(n, 32, dtype=torch.float64)
    known = math.log(math.exp(1 / tau) + 2 * n - 2) - 1 / tau
    return abs(float(F.nt_xent(z, z, temperature=tau)) - known)


def _vicreg() -> float:
    # Whitened identical views have no invariance, variance or covariance term.
    z = _whitened(24, 5)
    return abs(float(F.vicreg(z, z)))


def _barlow_twins() -> float:
    # Whitened identical views have the identity as cross-correlation.
    z = _whitened(24, 5)
    return abs(float(F.barlow_twins(z, z, eps=1e-15)))


def _graph_covariance() -> float:
    # Two rows joined by one edge of weight 3: Z^T G Z = 3 (a b^T + b a^T).
    graph = sf.PairGraph.from_edges([0, 1], [1, 0], [3.0, 3.0], n=2)
    z = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    known = torch.tensor([[18.0, 30.0], [30.0, 48.0]], dtype=torch.float64)
    return float((F.graph_covariance(z, graph, center=False) - known).abs().max())


def _closed_form() -> float:
    # Two cliques of four with self loops: the best rank-2 factor of G reproduces it exactly.
    labels = torch.arange(8) % 2
    graph = sf.PairGraph.from_labels(labels, self_loops=True)
    z = sf.spectral.simclr(graph, 2).embedding
    known = (labels[:, None] == labels[None, :]).double()
    return float((z @ z.T - known).abs().max())


def _gradient() -> float:
    # d/dz of a loss that does not see the length of a row is orthogonal to that row.
    z = torch.randn(2, 20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    (grad,) = torch.autograd.grad(F.nt_xent(z[0], z[1]), z)
    return float((grad * z).detach().sum(-1).abs().max())


def _whitened(n: int, d: int) -> torch.Tensor:
    z = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, _, _ = torch.linalg.svd(z - z.mean(0), full_matrices=False)
    return left * math.sqrt(n - 1)


CHECKS: tuple[tuple[str, Callable[[], float]], ...] = (
    ("nt_xent", _nt_xent),
    ("its gradient", _gradient),
    ("vicreg", _vicreg),
    ("barlow_twins", _barlow_twins),
    ("graph_covariance", _graph_covariance),
    ("closed form", _closed_form),
)


if __name__ == "__main__":
    sys.exit(main())
