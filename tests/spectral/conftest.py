"""Small graphs, a gradient-descent opponent and subspace angles for the closed-form tests."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import torch
from scipy.optimize import minimize

from sslspec_fast.graph import PairGraph


class Lab:
    """What every closed-form test needs, on fixed seeds."""

    @staticmethod
    def random_weights(n: int, p: float = 0.2, seed: int = 0) -> np.ndarray:
        """(n, n) symmetric weights of a connected random graph, zero diagonal."""
        rng = np.random.default_rng(seed)
        while True:
            a = np.triu(rng.random((n, n)) < p, 1) * (rng.random((n, n)) + 0.1)
            a = a + a.T
            if sp.csgraph.connected_components(sp.csr_array(a))[0] == 1:
                return a

    @staticmethod
    def knn_weights(x: np.ndarray, k: int) -> np.ndarray:
        distance = ((x[:, None] - x[None]) ** 2).sum(-1)
        near = np.argsort(distance, axis=1)[:, 1 : k + 1]
        a = np.zeros_like(distance)
        a[np.arange(len(x))[:, None], near] = 1.0
        return np.maximum(a, a.T)

    @staticmethod
    def spectrum(values, n: int) -> np.ndarray:
        """(n, n) weights with row sums 1 whose centred eigenvalues are `values`, else zero.

        A Helmert basis is a Soules basis: with the larger eigenvalues on its later rows the matrix
        is non-negative (Soules 1983, Linear and Multilinear Algebra 13); a few small negative
        values are possible too.
        """
        lam = np.zeros(n - 1)
        lam[: len(values)] = values
        basis = sla.helmert(n, full=True)
        w = basis.T @ np.diag([1.0, *np.sort(lam)]) @ basis
        assert w.min() > -1e-15, "these eigenvalues have no such graph"
        return np.where(w > 1e-15, (w + w.T) / 2, 0.0)

    @staticmethod
    def graph(weights: np.ndarray) -> PairGraph:
        return PairGraph.from_sparse(sp.csr_array(weights))

    @staticmethod
    def minimise(loss, shape, starts=2, scale=1.0, seed=0, at=None, iterations=800):
        """Best (value, z, all values) of L-BFGS on loss(z) from random starts, or from `at`."""
        rng = np.random.default_rng(seed)

        def cost(flat):
            z = torch.from_numpy(flat.reshape(shape)).requires_grad_()
            value = loss(z)
            (grad,) = torch.autograd.grad(value, z)
            return value.item(), grad.numpy().ravel()

        runs = []
        for _ in range(starts if at is None else 1):
            start = scale * rng.standard_normal(shape) if at is None else np.asarray(at)
            runs.append(
                minimize(
                    cost,
                    start.ravel(),
                    jac=True,
                    method="L-BFGS-B",
                    options={
                        "maxiter": iterations,
                        "maxfun": 2 * iterations,
                        "ftol": 1e-16,
                        "gtol": 1e-10,
                        "maxcor": 30,
                    },
                )
            )
        best = min(runs, key=lambda run: run.fun)
        values = np.array([run.fun for run in runs])
        return float(best.fun), torch.from_numpy(best.x.reshape(shape)), values

    @staticmethod
    def gradient(loss, z: torch.Tensor) -> float:
        """Largest entry of the gradient of loss at z."""
        z = z.detach().clone().requires_grad_()
        return float(torch.autograd.grad(loss(z), z)[0].abs().max())

    @staticmethod
    def sine(a, b) -> float:
        """Sine of the largest principal angle between two column spans."""
        qa, qb = np.linalg.qr(np.asarray(a))[0], np.linalg.qr(np.asarray(b))[0]
        return float(np.linalg.norm(qb - qa @ (qa.T @ qb), 2))

    @staticmethod
    def laplacian_modes(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenpairs of L on the complement of the constant, ascending: the test's own solver."""
        n = len(weights)
        q = sla.null_space(np.ones((1, n)))
        w, v = sla.eigh(q.T @ (np.diag(weights.sum(1)) - weights) @ q)
        return w, q @ v

    @staticmethod
    def close(a, b, atol: float = 1e-8) -> bool:
        return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=atol))

    @staticmethod
    def agree(closed_form, loss, rel: float = 1e-9) -> None:
        """`.loss` is the loss of `.embedding`."""
        found = float(loss(closed_form.embedding))
        assert abs(found - closed_form.loss) <= rel * max(1.0, abs(closed_form.loss))

    @staticmethod
    def matched(best: float, optimum: float, rel: float = 1e-6) -> None:
        """Descent reached the optimum and did not beat it."""
        size = max(abs(optimum), 1e-3)
        assert best >= optimum - 1e-8 * max(1.0, abs(optimum)), "descent beat the closed form"
        assert best <= optimum + rel * size


@pytest.fixture
def lab() -> type[Lab]:
    return Lab
