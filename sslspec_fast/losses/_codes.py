"""The code words of FALCON, and what its loss sums over rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import _checks as check

_BLOCK = 1 << 21  # entries of a block of probabilities: 8 MiB in float32


def random_codes(f: int, n_codes: int, seed: int = 0) -> Tensor:
    """(f, n_codes) random signs in float32; the same for the same arguments."""
    f = check.count("random_codes", "f", f, 1)
    n_codes = check.count("random_codes", "n_codes", n_codes, 1)
    seed = check.count("random_codes", "seed", seed, 0)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (f, n_codes), generator=generator).float() * 2 - 1


def given_codes(
    codes: Tensor | None, n_codes: int | None, seed: int, eps: float, x: Tensor
) -> Tensor:
    """Checked codes beside the rows x (n, f), or random ones."""
    op, f = "falcon", x.shape[1]
    if codes is None:
        codes = random_codes(f, 8 * f if n_codes is None else n_codes, seed).to(x.device)
    check.matrix(op, "codes", codes)
    codes = codes.to(x.dtype)
    check.same_kind(op, "codes", codes, "h1", x)
    if codes.shape[0] != f:
        raise ValueError(
            f"{op}: codes must have a row per feature of h1 ({f}), got {tuple(codes.shape)}"
        )
    c = codes.shape[1]
    if eps * c >= 1:
        raise ValueError(f"{op}: eps must be < 1 / c = {1 / c:g} for c = {c} codes, got {eps}")
    return codes


def code_sums(u1: Tensor, u2: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows: the probabilities of both views (c,), and both cross-entropies."""
    rows = max(1, _BLOCK // codes.shape[1])
    if u1.shape[0] <= rows:
        return _block(u1, u2, codes)
    parts = [
        checkpoint(_block, a, b, codes, use_reentrant=False)
        for a, b in zip(u1.split(rows), u2.split(rows), strict=True)
    ]
    first, second, cross = (torch.stack(x).sum(0) for x in zip(*parts, strict=True))
    return first, second, cross


def _block(u1: Tensor, u2: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(u1.device.type, enabled=False):
        log_p, log_q = F.log_softmax(u1 @ codes, dim=1), F.log_softmax(u2 @ codes, dim=1)
    p, q = log_p.exp(), log_q.exp()
    return p.sum(0), q.sum(0), -(p * log_q + q * log_p).sum()


def divergence(p: Tensor) -> Tensor:
    """KL(p || uniform), with a finite slope at a probability that underflowed."""
    return (p * torch.log(p.clamp_min(torch.finfo(p.dtype).tiny) * p.shape[0])).sum()


def divergence_of_law(law: Tensor, p: Tensor) -> Tensor:
    """KL(law || p), with a finite slope at a probability that underflowed."""
    return (law * (law / p.clamp_min(torch.finfo(p.dtype).tiny)).log()).sum()
