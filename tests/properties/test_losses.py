"""Every loss against its plain form in float64, on drawn shapes, layouts, scales, options, special
values and gradients.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sslspec_fast.functional as F

from ..support.budget import budget
from ..support.cases import CASES

LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "column-major": lambda x: x.T.contiguous().T,
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every third column": lambda x: x.repeat_interleave(3, 1)[:, ::3],
    "inside wider rows": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}
# Of a value that no loss may hide, or that makes squares leave the range of its dtype.
SPECIAL = {
    torch.float64: [math.nan, math.inf, -math.inf, 5e-324, 1e-310, 1e-30, 1e30, -1e30],
    torch.float32: [math.nan, math.inf, -math.inf, 1e-45, 1e-42, 1e-30, 1e30, -1e30],
}


@functools.cache
def keywords_of(name: str) -> frozenset[str]:
    """Of the function behind a case: the longest name that either starts with the other."""
    found = [f for f in F.__all__ if name.startswith(f) or f.startswith(name)]
    return frozenset(inspect.signature(getattr(F, max(found, key=len))).parameters)


def gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    wanted = [x for x in leaves if x.requires_grad]
    if not wanted:
        return []
    grads = torch.autograd.grad(value.sum(), wanted, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, wanted, strict=True)]


def drawn_options(data: st.DataObject, name: str, rows: int) -> dict[str, Any]:
    known, out = keywords_of(name), {}
    if name.endswith(
        ("_dcl", "_ids", "_filtered", "_guided", "_hard", "_per_positive")
    ):  # exclude them
        known -= {"label_smoothing", "tau_plus"}
    if CASES[name].softmax:
        out["temperature"] = data.draw(st.sampled_from([0.05, 0.5, 3.0]), "temperature")
    if "label_smoothing" in known and "tau_plus" in known:
        which = data.draw(st.sampled_from(["", "", "label_smoothing", "tau_plus"]), "which")
        if which:
            out[which] = data.draw(st.sampled_from([0.01, 0.3]), which)
    elif "label_smoothing" in known:
        out["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.3]), "label_smoothing")
    if "reduction" in known:
        forms = ["mean", "sum"] if "mean_entropy" in name else ["mean", "mean", "sum", "none"]
        out["reduction"] = data.draw(st.sampled_from(forms), "reduction")
    if "sample_weight" in known and data.draw(st.booleans(), "sample_weight"):
        out["sample_weight"] = torch.arange(rows, dtype=torch.float64) % 3 + 0.5
    if "off_diagonal" in known:
        out["off_diagonal"] = data.draw(st.sampled_from([0.0, 5e-3, 1.0]), "off_diagonal")
    return out


@pytest.mark.parametrize("name", CASES)
@budget(12)
@given(data=st.data())
def test_fused_equals_plain_in_float64(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    n = data.draw(st.integers(max(case.min_rows, 2), 40), "n")
    d = data.draw(st.integers(1, 40), "d")
    inputs, loss = case.make(n, d, data.draw(st.integers(0, 99), "seed"))
    scales = [scale for scale in (1e-3, 1.0, 30.0) if scale <= case.largest]
    scale = data.draw(st.sampled_from(scales), "scale")
    leaves = [LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))](x * scale) for x in inputs]
    if len(leaves) > 1 and leaves[0].shape == leaves[1].shape and data.draw(st.booleans(), "alias"):
        leaves[1] = leaves[0]
    needs = data.draw(st.lists(st.booleans(), min_size=len(leaves), max_size=len(leaves)), "needs")
    for x, need in zip(leaves, needs, strict=True):
        x.requires_grad_(need or x.requires_grad)
    keywords = drawn_options(data, name, len(leaves[0]))
    fused, plain = loss(*leaves, **keywords), loss(*leaves, impl="torch", **keywords)
    size = plain.detach().abs().max()
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=float(1e-11 * size) + 1e-12)
    ours, theirs = gradients(fused, leaves), gradients(plain, leaves)
    for got, want in zip(ours, theirs, strict=True):
        # rounding of a loss of normalised rows is divided by their length
        slack = 1e-9 * float(want.abs().max()) + 1e-11 / min(scale, 1.0)
        torch.testing.assert_close(got, want, rtol=1e-7, atol=slack)


@pytest.mark.parametrize("name", CASES)
@budget(12)
@given(data=st.data())
def test_special_values_are_never_hidden(name: str, data: st.DataObject) -> None:
    """One entry is NaN, infinite, subnormal or 1e±30. The value and the gradients are finite where
    those of the plain form in float64 are, and then near them (float32: unless they left its
    range); a loss that is not finite is not finite in both.
    """
    case = CASES[name]
    n = data.draw(st.integers(max(case.min_rows, 4), 24), "n")
    d = data.draw(st.integers(2, 12), "d")
    inputs, loss = case.make(n, d, data.draw(st.integers(0, 99), "seed"))
    dtype = data.draw(st.sampled_from(list(SPECIAL)), "dtype")
    allowed = [v for v in SPECIAL[dtype] if math.isnan(v) or abs(v) <= case.largest]
    special = data.draw(st.sampled_from(allowed), "special")
    inputs = [x.to(dtype) for x in inputs]
    which = inputs[data.draw(st.integers(0, len(inputs) - 1), "input")]
    row, column = data.draw(st.integers(0, len(which) - 1)), data.draw(st.integers(0, d - 1))
    which[row, column] = special
    ours = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    fused, plain = loss(*ours), loss(*exact, impl="torch")
    got, want = gradients(fused, ours), gradients(plain, exact)
    if fused.numel() == 1 and not torch.isfinite(plain).all():
        assert not torch.isfinite(fused).all()
        return
    if not all(torch.isfinite(x).all() for x in (plain, *want)):
        assert not all(torch.isfinite(x).all() for x in (fused, *got))
        return
    small = abs(special) <= 1
    accurate = dtype == torch.float64 or small
    if not accurate and CASES[name].unit:
        return  # their cases normalise the rows by torch, whose squares left the range
    for found, expected in zip((fused, *got), (plain, *want), strict=True):
        size = float(expected.detach().abs().max())
        if not accurate and not torch.isfinite(found).all():
            continue  # and says so
        torch.testing.assert_close(
            found.double(),
            expected,
            rtol=1e-6 if dtype == torch.float64 else 1e-3,
            atol=(1e-6 if dtype == torch.float64 else 1e-3) * size + 1e-12,
        )
