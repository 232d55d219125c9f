"""Products that the forward pass keeps: the same bits with and without, and when they are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.primitives import pairwise
from sslspec_fast.primitives.pairwise.common import pair_workspace

from ...support.row_cases import leaves, rows, weights

pytestmark = pytest.mark.usefixtures("default_kept_limit")

LIMITS = (0, 200_000, 64 << 20)  # nothing, some blocks, all of them


def forms(scale: float, dtype: torch.dtype) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    c = torch.tensor(scale, dtype=dtype, requires_grad=True)
    ids = torch.arange(300, dtype=torch.int32) % 7
    own = pairwise.LeftOut(self_pairs=True)
    pattern = pairwise.LeftOut(indptr=torch.arange(301), indices=torch.arange(300) // 2)

    def total(*stats: Tensor) -> Tensor:
        return sum((weights(len(s), dtype=dtype) * s).sum() for s in stats)  # type: ignore

    return {
        "rows": lambda a, b: total(pairwise.lse(a, b, c, own)[0]),
        "rows and columns": lambda a, b: total(*pairwise.lse(a, b, c, own, cols=True)),
        "ids": lambda a, b: total(pairwise.lse(a, b, c, pairwise.LeftOut(ids, ids))[0]),
        "pattern": lambda a, b: total(pairwise.lse(a, b, c, pattern)[0]),
        "itself": lambda a, b: total(pairwise.lse_self(a, c, ids)) + b.sum(),
        "nt_xent": lambda a, b: F.nt_xent(a, b, temperature=1 / scale),
        "clip": lambda a, b: F.clip(a.bfloat16(), b.bfloat16(), scale),
    }


def made(f: Callable[..., Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    value = f(*tensors)
    return [value, *torch.autograd.grad(value, tensors)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [3.0, 150.0])  # without a shift, and with one
@pytest.mark.parametrize("form", list(forms(1.0, torch.float64)))
def test_same_bits_for_every_limit(
    form: str, scale: float, dtype: torch.dtype, threads: int
) -> None:
    """Kept products are those that would be computed again, and never change a gradient."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tensors = leaves(*(rows(300, 90, dtype, seed) for seed in (0, 1)))
        f, results = forms(scale, dtype)[form], []
        for limit in LIMITS:
            sf.set_kept_limit(limit)
            results.append(made(f, tensors))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_steps_in_any_order() -> None:
    """The last forward pass owns the buffer; the others compute again, also after its release."""
    a, b = leaves(rows(300, 90, torch.float32), rows(300, 90, torch.float32, 1))
    alone = [made(lambda x: F.nt_xent(x, x.detach() + 1), (x,))[1] for x in (a, b)]

    def forward() -> list[Tensor]:
        return [F.nt_xent(x, x.detach() + 1) for x in (a, b)]

    for order in ((0, 1), (1, 0)):
        values = forward()
        for which in order:
            (grad,) = torch.autograd.grad(values[which], (a, b)[which])
            assert torch.equal(grad, alone[which])
    values = forward()
    for _ in range(2):  # a graph that is kept reads them twice
        (grad,) = torch.autograd.grad(values[1], b, retain_graph=True)
        assert torch.equal(grad, alone[1])
        sf.release_kept()


def backward_of_other_rows(kept: Tensor, a: Tensor, b: Tensor, row: Tensor) -> Tensor:
    """W b for the products that were kept, or else for those of zeros, which are 0."""
    zeros, grad_a = torch.zeros_like(a), torch.empty_like(a)
    one, weight = torch.tensor(1.0), torch.ones(len(a))
    work = pair_workspace(a, b, backward=True)
    _C.pairwise_backward(
        pairwise.Logits(zeros, b, one).view(),
        (view(row), None),
        (view(weight), None),
        (view(grad_a), None),
        view(kept),
        (view(work), 1),
    )
    return grad_a


def test_what_is_kept_is_read_until_the_next_forward_pass() -> None:
    a, b, c = rows(100, 64, torch.float32), rows(80, 64, torch.float32, 1), torch.tensor(1.0)
    softmax = torch.softmax(a @ b.T, 1) @ b
    row = torch.logsumexp(a @ b.T, 1)
    again = torch.exp(-row)[:, None] * b.sum(0)

    def forward(keep: bool) -> Tensor:
        x = a.clone().requires_grad_(keep)
        out = pairwise.softmax._lse(x, b, c, *(None,) * 4, False, False, False, keep)
        return out[2]  # type: ignore

    kept = forward(True)
    torch.testing.assert_close(backward_of_other_rows(kept, a, b, row), softmax)
    assert forward(False).shape == (0,)  # no gradient is wanted: the buffer is left alone
    torch.testing.assert_close(backward_of_other_rows(kept, a, b, row), softmax)
    newer = forward(True)
    torch.testing.assert_close(backward_of_other_rows(kept, a, b, row), again)
    torch.testing.assert_close(backward_of_other_rows(newer, a, b, row), softmax)
    sf.release_kept()
    torch.testing.assert_close(backward_of_other_rows(newer, a, b, row), again)
    sf.set_kept_limit(0)
    torch.testing.assert_close(backward_of_other_rows(forward(True), a, b, row), again)


def test_double_backward_and_checkpoints() -> None:
    a, b = leaves(rows(40, 40, torch.float64), rows(40, 40, torch.float64, 1))
    assert torch.autograd.gradgradcheck(
        lambda x, y: F.nt_xent(x[:5, :4], y[:5, :4], temperature=0.5), (a, b), atol=1e-6
    )
    plain = made(lambda x, y: F.clip(x, y, 2.0), (a, b))
    again = made(
        lambda x, y: torch.utils.checkpoint.checkpoint(F.clip, x, y, 2.0, use_reentrant=False),
        (a, b),
    )
    assert all(torch.equal(x, y) for x, y in zip(plain, again, strict=True))


def test_limits_are_checked() -> None:
    assert sf.set_kept_limit(5 << 20) == 64 << 20
    assert sf.show_config()["kept_limit"] == 5 << 20
    for limit in (-1, 1 << 63):
        with pytest.raises(ValueError, match=rf"in 0 ... {sys.maxsize} bytes, got {limit}"):
            sf.set_kept_limit(limit)
    with pytest.raises(TypeError, match="limit must be an int, got float"):
        sf.set_kept_limit(1e6)  # type: ignore
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got 'gpu'"):
        sf.set_kept_limit(1, "gpu")


def test_a_gpu_has_a_limit_of_its_own() -> None:
    assert sf.set_kept_limit(5 << 20, "cuda") == 256 << 20
    assert sf.show_config()["cuda_kept_limit"] == sf.set_kept_limit(256 << 20, "cuda") == 5 << 20
    assert sf.show_config()["kept_limit"] == 64 << 20
