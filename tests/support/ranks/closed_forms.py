"""What the ranks do; see test_closed_forms.py. Every function takes the group first."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import scipy.sparse
import torch
import torch.distributed as dist

import sslspec_fast as sf
from sslspec_fast.operators import partitioned

from .eigsh import here

N, K = 800, 5


@functools.lru_cache
def graph(name: str) -> Any:
    """Planted groups of unlike weights; "pieces": in three components, beside isolated nodes."""
    rng = np.random.default_rng(2)
    label = np.sort(rng.integers(0, 8, N))
    i, j = rng.integers(0, N, (2, 60 * N))
    keep = (label[i] == label[j]) | (rng.random(len(i)) < 0.1)
    if name == "pieces":
        keep &= (i % 3 == j % 3) & (i >= 10) & (j >= 10)
    weight = rng.random(len(i))
    a = scipy.sparse.coo_array((weight[keep], (i[keep], j[keep])), shape=(N, N)).tocsr()
    a = a + a.T
    if name == "signed":
        a.data[np.abs(a.data) < 0.05] *= -1.0
        a = (a + a.T) / 2
    return scipy.sparse.csr_array(a)


CALLS: dict[str, Any] = {
    "vicreg": lambda g, **kw: sf.spectral.vicreg(g, K, invariance=0.01, **kw),
    "vicreg by degree": lambda g, **kw: sf.spectral.vicreg(g, K, measure="degree", **kw),
    "vicreg, multistart": lambda g, **kw: sf.spectral.vicreg(
        g, K, penalty="ls_std", covariance=0.3, invariance=0.01, starts=3, **kw
    ),
    "simclr": lambda g, **kw: sf.spectral.simclr(g, K, **kw),
    "simclr, centred": lambda g, **kw: sf.spectral.simclr(g, K, center=True, **kw),
    "spectral_contrastive": lambda g, **kw: sf.spectral.spectral_contrastive(g, K, **kw),
    "barlow_twins": lambda g, **kw: sf.spectral.barlow_twins(g, K, **kw),
    "barlow_twins, whitened": lambda g, **kw: sf.spectral.barlow_twins(
        g, K, whitened=True, center=False, **kw
    ),
}


def compare(group: Any, split: tuple[int, ...], name: str, kind: str) -> dict[str, Any]:
    """A closed form over ranks and on one process."""
    own, a = here(group, split), graph(kind)
    one = CALLS[name](a)
    ours = CALLS[name](a[own], group=group)
    size = float(np.abs(one.embedding).max())
    apart = np.abs(one.embedding[own] - ours.embedding)
    facts = ("converged", "regime", "certified", "components", "isolated", "cluster_cut")
    return {
        "shape": ours.embedding.shape == (own.stop - own.start, K),
        "embedding": float(apart.max(initial=0.0)) / size,
        "loss": abs(one.loss - ours.loss) / max(abs(one.loss), 1.0),
        "eigenvalues": float(np.abs(one.eigenvalues - ours.eigenvalues).max()),
        "filter": float(np.abs(one.filter - ours.filter).max()),
        "rank": one.rank == ours.rank,
        "one": {fact: getattr(one.info, fact) for fact in facts},
        "ours": {fact: getattr(ours.info, fact) for fact in facts},
        "bits": ours.eigenvalues.tobytes() + np.float64(ours.loss).tobytes(),
    }


def components(group: Any, split: tuple[int, ...]) -> bool:
    """Paths that go to and fro between ranks, isolated nodes and pieces inside one rank."""
    n, own = sum(split), here(group, split)
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, n, (2, n // 2))
    a = scipy.sparse.coo_array((np.ones(len(i)), (i, j)), shape=(n, n)).tocsr()
    a = scipy.sparse.csr_array(a + a.T)
    count, labels = scipy.sparse.csgraph.connected_components(a, directed=False)
    got, mine = partitioned(a[own], group).components()
    return got == count and bool((mine.numpy() == labels[own]).all())


def tensor(group: Any) -> Any:
    """torch in, torch out."""
    own, a = here(group, (300, 500)), graph("whole")[here(group, (300, 500))]
    arrays = (torch.from_numpy(x) for x in (a.indptr, a.indices, a.data))
    found = sf.spectral.simclr(torch.sparse_csr_tensor(*arrays, size=a.shape), K, group=group)
    with_arrays = sf.spectral.simclr(a, K, group=group)
    return (
        isinstance(found.embedding, torch.Tensor)
        and len(found.embedding) == own.stop - own.start
        and float(np.abs(found.embedding.numpy() - with_arrays.embedding).max()) < 1e-12
    )


def error(group: Any, name: str) -> str:
    """The text of the error that this rank raises; only rank 1 has made a mistake."""
    wrong = dist.get_rank(group) == 1
    own, a = here(group, (300, 500)), graph("whole")
    rows, spectral = a[own], sf.spectral
    x = np.ones((own.stop - own.start, 2))
    calls: dict[str, Any] = {
        "option": lambda: spectral.vicreg(rows, K, variance=2.0 if wrong else 1.0, group=group),
        "k": lambda: spectral.simclr(rows, K + wrong, group=group),
        "features": lambda: spectral.barlow_twins(rows, K, features=x, group=group),
        "graph": lambda: spectral.spectral_contrastive(x if wrong else rows, K, group=group),
        "symmetric": lambda: spectral.simclr(rows * (1.0 + wrong), K, group=group),
        "edges": lambda: spectral.spectral_contrastive(rows * 0.0, K, group=group),
        "transform": lambda: spectral.simclr(rows, K, group=group).transform(rows),
    }
    try:
        calls[name]()
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as found:
        return f"{type(found).__name__}: {found}"
    return "nothing"
