"""Choices of the solver, made for sizes that tests can afford."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sslspec_fast.solvers.linalg import cost


def polynomials_everywhere(
    monkeypatch: pytest.MonkeyPatch, size: int = 0, cluster: int | None = None
) -> None:
    """A probe that is kept is one of a polynomial from that many bytes of its blocks on; cluster:
    of those that count a cluster.
    """
    cluster = size if cluster is None else cluster
    cpu = replace(cost.MACHINES["cpu"], polynomial_bytes=size, cluster_bytes=cluster)
    monkeypatch.setitem(cost.MACHINES, "cpu", cpu)
