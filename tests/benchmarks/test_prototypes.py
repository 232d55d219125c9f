"""The benchmark of losses over prototypes: its forms compute the same, its line has all of them."""

import re

import pytest
import torch

from benchmarks.cases import prototypes
from sslspec_fast.bench import cases, measure


@pytest.mark.parametrize(
    "case", [cases.dino(4, 8, 20, crops=3), cases.swav(5, 8, 20), cases.x_clr(24, 8)]
)
def test_the_forms_have_the_same_value_and_gradients(case: cases.Case) -> None:
    leaves = case.inputs("cpu", torch.float64)
    values = [variant(*leaves) for variant in case.variants.values()]
    torch.testing.assert_close(values[0], values[1])
    grads = [measure.forward_backward(variant, leaves) for variant in case.variants.values()]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_line_has_every_form() -> None:
    text = prototypes.line(cases.moco(8, 4, 32), 0.01, with_memory=False, with_compile=False)
    assert re.match(r"moco 8x4; fused [\d.]+ ms, CPU [\d.e-]+ ms; eager .* \(x[\d.]+, CPU x", text)


def test_sinkhorn_is_finite_where_exponentials_overflow() -> None:
    finite, error = prototypes.sinkhorn()
    assert finite
    assert error < 2e-6


def test_the_cases_are_those_of_the_table() -> None:
    names = [case.name for case in prototypes.all_cases()]
    assert len(set(names)) == len(names)
    assert {"dino 320x256", "prototypes 4900x256", "x_clr 4096x512", "moco 256x128"} <= set(names)
