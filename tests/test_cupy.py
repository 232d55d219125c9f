"""The CuPy face, run with NumPy standing in for CuPy: sharing, order of the gradients, errors."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

import sslspec_fast.cupy as sfc
import sslspec_fast.functional as F


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("cupy")
    module.ndarray = np.ndarray  # type: ignore[attr-defined]
    module.from_dlpack = np.from_dlpack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)


def pair(n: int = 6, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d)), rng.standard_normal((n, d))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", ["nt_xent", "vicreg", "barlow_twins", "info_nce"])
def test_losses_and_gradients_are_those_of_torch(name: str) -> None:
    z1, z2 = pair()
    loss, grads = getattr(sfc, name)(z1, z2)
    t1, t2 = (torch.from_numpy(z).requires_grad_() for z in (z1, z2))
    expected = getattr(F, name)(t1, t2)
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-12)
    assert isinstance(grads[0], np.ndarray)
    for grad, t in zip(grads, (t1, t2), strict=True):
        np.testing.assert_allclose(grad, t.grad, rtol=1e-12)


@pytest.mark.usefixtures("stand_in")
def test_keywords_get_gradients_and_terms_come_back() -> None:
    z1, z2 = pair()
    scale = np.array(3.0)
    (loss, terms), grads = sfc.clip(z1, z2, logit_scale=scale, return_terms=True)
    assert len(grads) == 3
    assert grads[2].shape == ()
    assert set(terms) == {"alignment", "uniformity"}
    np.testing.assert_allclose(terms["alignment"] + terms["uniformity"], loss, rtol=1e-12)


@pytest.mark.usefixtures("stand_in")
def test_something_must_be_differentiable() -> None:
    with pytest.raises(TypeError, match=r"nt_xent: at least one argument .* got \['Tensor', "):
        sfc.nt_xent(torch.zeros(3, 2), torch.zeros(3, 2))


def test_without_cupy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="pip install cupy-cuda13x"):
        sfc.nt_xent(*pair())
