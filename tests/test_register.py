"""Who sees operators, and that plain tensors in eager mode need not pay for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from sslspec_fast.primitives.pairwise import prefixes
from sslspec_fast.primitives.rows.unit_rows import unit_rows

from .support.versions import knows_plain_tensors

OPERATOR = torch.ops.sslspec_fast.unit_rows.default


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operators.append(func)
        return func(*args, **(kwargs or {}))


def rows() -> Tensor:
    return torch.randn(5, 3, dtype=torch.float64, requires_grad=True)


@knows_plain_tensors
def test_lists_of_numbers_are_plain_too() -> None:
    z = rows()
    ids = torch.zeros(5, dtype=torch.int32)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        prefixes.lse_prefixes(z, None, z.new_ones(2, 5), None, [1, 3], ids=ids)
    assert not [e for e in record.events() if e.name.startswith("sslspec_fast::")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tracing_sees_the_operator() -> None:
    graph = torch.jit.trace(unit_rows, rows().detach()).graph
    assert "sslspec_fast::unit_rows" in str(graph)


@knows_plain_tensors
def test_plain_tensors_go_past_the_dispatcher() -> None:
    z = rows()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        unit_rows(z).sum().backward()
    assert not [e for e in record.events() if e.name.startswith("sslspec_fast::")]


def test_both_ways_give_the_same_bits() -> None:
    z = rows()
    results = [OPERATOR(z, None, 0.0)[0], unit_rows(z)]
    assert torch.equal(*results)
    grads = [torch.autograd.grad(x.square().sum() + x[0, 0], z)[0] for x in results]
    assert torch.equal(*grads)


def test_modes_see_operators() -> None:
    with Seen() as mode:
        unit_rows(rows())
    assert OPERATOR in mode.operators


def test_tensors_without_data_stay_so() -> None:
    assert unit_rows(torch.empty(5, 3, device="meta")).is_meta
    with FakeTensorMode():
        assert unit_rows(torch.empty(5, 3)).shape == (5, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_derivatives_that_are_not_there_are_refused() -> None:
    # silence would be wrong: an operator without a rule drops the tangents, or reads a wrapper
    z, v = rows().detach(), torch.ones(5, 3, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match=r"unit_rows.*forward-mode .* impl='torch'"):
        torch.func.jvp(unit_rows, (z,), (v,))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        unit_rows(forward_ad.make_dual(z, v))
    with forward_ad.dual_level():
        assert torch.equal(unit_rows(z), unit_rows(z.clone()))
    for transform in (torch.func.grad, torch.func.jacrev):
        with pytest.raises(NotImplementedError, match=r"derivatives by torch.func"):
            transform(lambda x: unit_rows(x)[0, 0])(z)


def test_inference_mode() -> None:
    z = rows().detach()
    with torch.inference_mode():
        assert torch.equal(unit_rows(z), unit_rows(z.clone()))


def test_lazy_bits_are_resolved() -> None:
    z = torch.randn(5, 3, dtype=torch.complex128).conj().imag  # a negative that is not yet made
    assert z.is_neg()
    assert torch.equal(unit_rows(z), unit_rows(z.clone()))


def test_no_record_where_no_gradient_is_wanted() -> None:
    with torch.no_grad():
        assert not unit_rows(rows()).requires_grad
    assert unit_rows(rows().detach()).grad_fn is None
