"""What the ranks do; see test_eigsh.py. Every function takes the group first."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse
import torch
import torch.distributed as dist

import sslspec_fast as sf
from sslspec_fast.operators import CsrOperator, GroupVectors, KnownPairs, laplacian, partitioned
from sslspec_fast.solvers import ConvergenceWarning
from sslspec_fast.solvers.linalg import cost
from sslspec_fast.solvers.methods.chebyshev import ResidualFilter

from ..graphs import blocks_graph

N, K = 900, 7


@functools.lru_cache
def graph(n: int = N, parts: int = 1) -> sf.PairGraph:
    """Planted groups; `parts` copies side by side make as many connected components."""
    rng = np.random.default_rng(1)
    label = np.sort(rng.integers(0, 7, n))
    i, j = rng.integers(0, n, (2, 20 * n * parts))
    keep = ((label[i] == label[j]) | (rng.random(len(i)) < 0.1)) & (i % parts == j % parts)
    return sf.PairGraph.from_edges(i[keep], j[keep], n=n, symmetrize=True)


@functools.lru_cache
def normalized() -> Any:
    a = graph().to_scipy()
    scale = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(a.sum(1), 1e-300)))
    return scipy.sparse.csr_array(scale @ a @ scale)


def here(group: Any, split: tuple[int, ...]) -> slice:
    rank = dist.get_rank(group)
    return slice(sum(split[:rank]), sum(split[: rank + 1]))


def compare(group: Any, split: tuple[int, ...], one: Any, ours: Any, own: slice) -> dict[str, Any]:
    """What a test asks of a result over ranks and that of one process."""
    first, mine = (torch.as_tensor(x).double() for x in (one.vectors, ours.vectors))
    inner = first[own].T @ mine
    dist.all_reduce(inner, group=group)
    values = [torch.as_tensor(x).double().numpy() for x in (one.values, ours.values)]
    facts = ("converged", "n_iter", "n_matvec", "method")
    return {
        "rows": len(mine) == split[dist.get_rank(group)],
        "type": type(ours.vectors) is type(one.vectors) and ours.vectors.dtype == one.vectors.dtype,
        "values": float(np.abs(values[0] - values[1]).max()) / max(one.info.norm, 1e-300),
        "vectors": float((inner - torch.eye(inner.shape[0])).abs().max()),
        "one": {name: getattr(one.info, name) for name in facts},
        "ours": {name: getattr(ours.info, name) for name in facts},
        "gap": (one.info.gap / one.info.norm, ours.info.gap / one.info.norm),
        "bits": values[1].tobytes() + ours.info.residuals.tobytes(),
    }


def run(group: Any, split: tuple[int, ...], name: str) -> dict[str, Any]:
    """A case over ranks and on one process."""
    own, a = here(group, split), normalized()
    rng = np.random.default_rng(0)
    block = rng.normal(size=(N, 3))
    # in float64: the degree of a filter may follow the rounding of float32
    options: dict[str, Any] = {"method": "chebyshev", "tol": 1e-9, "precision": "float64"}
    rows: Any = a[own]
    if name in ("lanczos", "auto", "chebyshev"):
        options["method"] = name
    elif name == "smallest":
        options |= {"which": "SA", "tol": 1e-11}
    elif name == "mixed":
        options |= {"precision": "mixed", "tol": 1e-6}
    elif name == "float32 torch":
        a = torch.sparse_csr_tensor(
            *(torch.from_numpy(x) for x in (a.indptr, a.indices, a.data.astype(np.float32))),
            size=a.shape,
        )
        rows = rows.astype(np.float32)
        rows = torch.sparse_csr_tensor(
            *(torch.from_numpy(x) for x in (rows.indptr, rows.indices, rows.data)), size=rows.shape
        )
        options |= {"precision": "float32", "tol": 1e-4}
    elif name == "ones":  # entries that are all 1 are not stored
        a = graph().to_scipy()
        a.data[:] = 1.0
        rows = a[own]
    elif name == "tiny":
        a, rows = a * 1e-30, a[own] * 1e-30
    elif name == "angle":
        options |= {"angle_tol": 1e-6, "tol": 1e-4}
    mine = dict(options)
    if name == "x0":
        options["x0"], mine["x0"] = block, block[own]
    elif name == "deflate":
        vectors = sf.eigsh(a, 3, tol=1e-13).vectors @ rng.normal(size=(3, 3))
        options["deflate"], mine["deflate"] = vectors, vectors[own]
    if name == "groups":
        return known_vectors(group, split, own, as_deflate=True)
    if name == "known":
        return known_vectors(group, split, own, as_deflate=False)
    k = 1 if name == "one pair" else K
    return compare(
        group, split, sf.eigsh(a, k, **options), sf.eigsh(rows, k, group=group, **mine), own
    )


def known_vectors(group: Any, split: tuple[int, ...], own: slice, as_deflate: bool) -> Any:
    """The Laplacian of a graph of three components, whose null vectors are known."""
    g = graph(N, 3)
    op, whole = laplacian(g), laplacian(g).assemble()
    rows = whole[own]
    count, labels = g.connected_components()
    ours = GroupVectors(labels[own], None, count, group=group)
    options: dict[str, Any] = {
        "which": "SA",
        "tol": 1e-9,
        "method": "chebyshev",
        "precision": "float64",
    }
    if as_deflate:
        one = sf.eigsh(whole, K, deflate=GroupVectors(labels), **options)
        found = sf.eigsh(rows, K, deflate=ours, group=group, **options)
    else:
        arrays = (torch.from_numpy(x) for x in (whole.indptr, whole.indices, whole.data))
        one = sf.eigsh(
            CsrOperator(*arrays, n=N, bounds=op.bounds(), known=op.known()), K, **options
        )
        found = sf.eigsh(
            partitioned(rows, group, bounds=op.bounds(), known=(KnownPairs(0.0, ours),)),
            K,
            **options,
        )
    return compare(group, split, one, found, own)


def by_polynomial(group: Any, split: tuple[int, ...]) -> dict[str, Any]:
    """A probe by a polynomial of A, which only large problems have."""
    a, own = blocks_graph(sum(split), 20, degree=20), here(group, split)
    scale = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(a.sum(1), 1.0)))
    a = scipy.sparse.csr_array(scale @ a @ scale)
    options: dict[str, Any] = {"tol": 1e-6, "precision": "float64"}
    cpu = replace(cost.MACHINES["cpu"], polynomial_bytes=0, cluster_bytes=0)
    with mock.patch.dict(cost.MACHINES, {"cpu": cpu}):
        one = sf.eigsh(a, 20, **options)
        return compare(group, split, one, sf.eigsh(a[own], 20, group=group, **options), own)


def small(group: Any, split: tuple[int, ...], method: str) -> dict[str, Any]:
    """Gathered and solved by LAPACK; also with fewer rows than ranks."""
    n = sum(split)
    a = scipy.sparse.csr_array(np.diag(np.arange(n) + 1.0) + 0.1)
    own = here(group, split)
    x0 = np.ones((n, 1))
    one = sf.eigsh(a, 2, method=method, x0=x0)
    return compare(
        group, split, one, sf.eigsh(a[own], 2, method=method, x0=x0[own], group=group), own
    )


def stopped(group: Any) -> tuple[int, str, int]:
    """Only the first rank's callback asks to stop; it may call `eigsh` itself."""
    calls = []

    def callback(entry: dict[str, Any]) -> bool:
        calls.append(sf.eigsh(np.diag([1.0, 3.0, 2.0]), 1).values[0])
        return dist.get_rank(group) == 0 and len(calls) == 2

    own = here(group, (400, 500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = sf.eigsh(
            normalized()[own], K, method="lanczos", tol=1e-12, callback=callback, group=group
        )
    return len(calls), found.info.reason, int(sum(calls) == 3 * len(calls))


def operators(group: Any, split: tuple[int, ...]) -> float:
    """Products of a partitioned operator, its sums and multiples and H A H, as of one process."""
    own, a = here(group, split), normalized()
    x = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, whole = partitioned(a[own], group), sf.operators.as_operator(a)
    worst = 0.0
    for make in (
        lambda op: op,
        lambda op: 2.0 * op + op / 3.0,
        lambda op: sf.operators.shift(-op, 0.5, 2.0),
        sf.operators.centered,
    ):
        got, want = make(rows) @ x[own], make(whole) @ x
        worst = max(worst, float((got - want[own]).abs().max()) if len(got) else 0.0)
    single = (rows @ x[own].float()).double() - (whole @ x)[own]
    assert abs(rows.bounds()[1] - whole.bounds()[1]) < 1e-14
    assert rows.nnz() == whole.nnz()
    assert not len(single) or float(single.abs().max()) < 1e-6
    return worst


def error(group: Any, name: str) -> str:
    """The text of the error that this rank raises; only rank 1 has made a mistake."""
    wrong = dist.get_rank(group) == 1
    own, a = here(group, (400, 500)), normalized()
    rows, options = a[own], {}
    if name == "tol":
        options["tol"] = 1e-3 if wrong else 1e-4
    elif name == "negative":
        options["tol"] = -1.0 if wrong else 1e-4
    elif name == "columns":
        rows = rows[:, :-1] if wrong else rows
    elif name == "rows":
        rows = rows[1:] if wrong else rows
    elif name == "finite":
        rows = rows * (np.nan if wrong else 1.0)
    elif name == "symmetric":
        rows = rows * (2.0 if wrong else 1.0)
    elif name == "dense":
        rows = rows.toarray() if wrong else rows
    elif name == "method":
        options["method"] = "lobpcg"
    elif name == "certify":
        options["certify"] = True
    elif name == "which":
        options["which"] = "BE"
    elif name == "B":
        options["B"] = np.ones(N)
    elif name == "x0 rows":
        options |= {
            "x0": np.ones((len(range(own.start, own.stop)) - wrong, 2)),
            "method": "lanczos",
        }
    elif name == "x0 columns":
        options["x0"] = np.ones((own.stop - own.start, 2 + wrong))
    elif name == "dependent":
        options["deflate"] = np.ones((own.stop - own.start, 2))
    elif name == "local groups":
        options["deflate"] = GroupVectors(torch.zeros(own.stop - own.start, dtype=torch.int64))
    elif name == "callback":
        options |= {"callback": (lambda _: 1 / 0) if wrong else (lambda _: None)}
    k = N + 1 if name == "k" else 2

    def degree(self: ResidualFilter, *args: Any) -> int:
        return original(self, *args) + (name == "decision" and wrong)

    original = ResidualFilter._degree
    try:
        with mock.patch.object(ResidualFilter, "_degree", degree):
            sf.eigsh(rows, k, group=group, **{"method": "chebyshev", **options})
    except Exception as found:
        return f"{type(found).__name__}: {found}"
    return "nothing"
