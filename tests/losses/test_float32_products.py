"""`set_float32_products`: float32 rows on a CPU multiplied as bfloat16 ones are, only when asked.
The errors are in test_bf16_products.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
from sslspec_fast import _C

from ..support.cases import CASES
from ..support.inputs import unit
from .test_dtypes import MULTIPLIED

needs_products = pytest.mark.skipif(
    not _C.bf16_products(), reason="a processor without products of bfloat16"
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = sf.set_float32_products(torch.float32)
    yield
    sf.set_float32_products(before)


def rows_of(name: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    case = CASES[name]
    inputs, _ = case.make(max(40, case.min_rows), 24)
    return [(unit(x) if case.unit else x).to(dtype).requires_grad_() for x in inputs]


def value_and_gradients(
    name: str, leaves: list[Tensor], backward: torch.dtype | None = None, **options: str
) -> list[Tensor]:
    """backward: what is set between the two passes."""
    value = CASES[name].make(max(40, CASES[name].min_rows), 24)[1](*leaves, **options).sum()
    if backward is not None:
        sf.set_float32_products(backward)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


# a threshold is compared with products of wide rows, which are the logits as well
WIDE = ("info_nce_filtered",)
ROUNDED = [name for name in CASES if name.startswith(MULTIPLIED) and name not in WIDE]


@needs_products
@pytest.mark.parametrize("name", ROUNDED)
def test_float32_rows_follow_it_in_both_passes(name: str) -> None:
    """The backward pass does what the forward pass did, whatever is set by then; autocast changes
    nothing; and what is not set changes no bit.
    """
    leaves = rows_of(name)
    exact = value_and_gradients(name, leaves)
    assert sf.set_float32_products(torch.bfloat16) == torch.float32
    rounded = value_and_gradients(name, leaves)
    assert not same(rounded, exact)
    for found, wanted in zip(rounded, exact, strict=True):
        assert found.dtype == torch.float32
        limit = 2**-6 * float(wanted.abs().max()) + 1e-5
        torch.testing.assert_close(found, wanted, rtol=5e-3, atol=limit)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(value_and_gradients(name, leaves), rounded)
    assert same(value_and_gradients(name, leaves, torch.float32), rounded)
    assert same(value_and_gradients(name, leaves, torch.bfloat16), exact)


@needs_products
@pytest.mark.parametrize("name", CASES)
def test_other_rows_and_the_plain_form_do_not(name: str) -> None:
    chosen = [(torch.float64, "fused"), (torch.float16, "fused"), (torch.float32, "torch")]
    if name in WIDE:
        chosen.append((torch.float32, "fused"))
    before = [value_and_gradients(name, rows_of(name, t), impl=impl) for t, impl in chosen]
    sf.set_float32_products(torch.bfloat16)
    for (dtype, impl), wanted in zip(chosen, before, strict=True):
        assert same(value_and_gradients(name, rows_of(name, dtype), impl=impl), wanted)


@needs_products
@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "vicreg", "barlow_twins"])
def test_rows_that_bfloat16_holds_are_multiplied_as_those(name: str) -> None:
    """The value of the same rows in bfloat16, bit for bit; of unit rows to their rounding."""
    wide = [x.detach().bfloat16().float().requires_grad_() for x in rows_of(name)]
    half = [x.detach().bfloat16().requires_grad_() for x in wide]
    sf.set_float32_products(torch.bfloat16)
    found, wanted = value_and_gradients(name, wide), value_and_gradients(name, half)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=1e-6)
    for got, want in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(got, want.float(), rtol=2**-7, atol=1e-5)


@needs_products
@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "dcl", "barlow_twins"])
def test_a_compiled_loss_follows_it(name: str) -> None:
    leaves = rows_of(name)
    loss = CASES[name].make(40, 24)[1]
    compiled = torch.compile(lambda *x: loss(*x), fullgraph=True, backend="aot_eager")
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        sf.set_float32_products(dtype)
        value = compiled(*leaves)
        found = [value.detach(), *torch.autograd.grad(value, leaves)]
        assert same(found, value_and_gradients(name, leaves))


@needs_products
def test_second_derivatives_are_those_of_the_same_products() -> None:
    leaves = rows_of("nt_xent")
    loss = CASES["nt_xent"].make(40, 24)[1]

    def second(between: torch.dtype) -> tuple[Tensor, ...]:
        sf.set_float32_products(torch.bfloat16)
        value = loss(*leaves)
        sf.set_float32_products(between)
        slope = torch.autograd.grad(value, leaves, create_graph=True)
        return torch.autograd.grad(slope[0].square().sum(), leaves)

    assert same([*second(torch.float32)], [*second(torch.bfloat16)])


def test_what_it_takes() -> None:
    assert sf.set_float32_products(torch.float32) == torch.float32
    assert sf.show_config()["float32_products"] == "float32"
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype, got str"):
        sf.set_float32_products("bfloat16")  # type: ignore
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.bfloat16, got torch\.float16"):
        sf.set_float32_products(torch.float16)
    if _C.bf16_products():
        sf.set_float32_products(torch.bfloat16)
        assert sf.show_config()["float32_products"] == "bfloat16"
    else:
        with pytest.raises(RuntimeError, match=f"works with {_C.isa()}"):
            sf.set_float32_products(torch.bfloat16)
        assert sf.show_config()["float32_products"] == "float32"
