"""Choices of the solver, made for sizes that tests can afford."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sslspec_fast.solvers.linalg import cost


def polynomials_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that is kept is one of a polynomial, however little memory its blocks take."""
    cpu = replace(cost.MACHINES["cpu"], polynomial_bytes=0)
    monkeypatch.setitem(cost.MACHINES, "cpu", cpu)
