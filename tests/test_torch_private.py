"""Older torch lacks some private functions that are used where they exist: without them, the same
values and gradients.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch

from sslspec_fast import _register, _torch_private
from sslspec_fast.primitives import _value_and_grad

from .support.cases import CASES

PRIVATE = {
    "2.7": [(torch._C, "_any_requires_grad")],
    "2.6": [(torch._C, "_any_requires_grad"), (torch._C.DispatchKeySet, "raw_repr")],
    "none": [
        (torch._C, "_any_requires_grad"),
        (torch._C.DispatchKeySet, "raw_repr"),
        (torch._C._autograd, "_get_current_graph_task_keep_graph"),
    ],
}


def without(names: list[tuple[object, str]]) -> ModuleType:
    """`_torch_private` as it is imported where torch has none of these."""
    spec = importlib.util.spec_from_file_location("private", _torch_private.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in names:
            patch.delattr(owner, name, raising=False)
            assert not hasattr(owner, name)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(params=PRIVATE)
def older(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Every user of the private functions as with that torch."""
    module = without(PRIVATE[request.param])
    for user in (_register, _value_and_grad):
        for name in _torch_private.__all__:
            if hasattr(user, name):
                monkeypatch.setattr(user, name, getattr(module, name))
    return module


def test_the_fallbacks_say_the_same_where_they_know(older: ModuleType) -> None:
    x, y = torch.ones(2), torch.ones(2, requires_grad=True)
    assert not older.any_requires_grad(x, 1.0, None, [x, x])
    assert older.any_requires_grad(x, y)
    assert older.any_requires_grad(x, [x, y])
    plain = older.dispatch_bits(x) in older.PLAIN_TENSORS
    assert plain == bool(older.PLAIN_TENSORS)  # unknown: nothing is plain, all is dispatched
    meta = torch.ones(2, device="meta")
    assert older.dispatch_bits(meta) not in older.PLAIN_TENSORS


@pytest.mark.parametrize("name", CASES)
def test_losses_without_private_functions(name: str, older: ModuleType) -> None:
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), 5)
    inputs = [x.requires_grad_() for x in inputs]
    value = loss(*inputs)
    grads = torch.autograd.grad(value.sum(), inputs, retain_graph=True)
    again = torch.autograd.grad(value.sum(), inputs)
    expected = loss(*inputs, impl="torch")
    wanted = torch.autograd.grad(expected.sum(), inputs)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(grads, wanted, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(again, grads, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(value.sum(), inputs)
