"""Every loss against its plain form in float64, on drawn shapes, layouts, scales and gradients.

The same examples in every run; SSLSPEC_FUZZ=N draws N new ones per loss instead.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ..support.cases import CASES

EXAMPLES = int(os.environ.get("SSLSPEC_FUZZ") or 0)
fixed_budget = settings(
    max_examples=EXAMPLES or 12,
    derandomize=EXAMPLES == 0,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "column-major": lambda x: x.T.contiguous().T,
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "inside wider rows": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}


def gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    wanted = [x for x in leaves if x.requires_grad]
    if not wanted:
        return []
    grads = torch.autograd.grad(value.sum(), wanted, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, wanted, strict=True)]


@pytest.mark.parametrize("name", CASES)
@fixed_budget
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
    keywords = {}
    if case.softmax:
        keywords["temperature"] = data.draw(st.sampled_from([0.05, 0.5, 3.0]), "temperature")
    fused, plain = loss(*leaves, **keywords), loss(*leaves, impl="torch", **keywords)
    size = plain.detach().abs().max()
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=float(1e-11 * size) + 1e-12)
    ours, theirs = gradients(fused, leaves), gradients(plain, leaves)
    for got, want in zip(ours, theirs, strict=True):
        # rounding of a loss of normalised rows is divided by their length
        slack = 1e-9 * float(want.abs().max()) + 1e-11 / min(scale, 1.0)
        torch.testing.assert_close(got, want, rtol=1e-7, atol=slack)
