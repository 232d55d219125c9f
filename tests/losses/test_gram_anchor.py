"""Gram anchoring: DINOv3's values, images, widths, digits near the teacher, module, arguments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast import GramAnchorLoss
from sslspec_fast.primitives.gram import difference
from sslspec_fast.primitives.gram.difference import gram_difference

from ..support.inputs import golden_rows

IMPLEMENTATIONS = ("fused", "torch")
# DINOv3's GramLoss in float64: the loss and the norm of its gradient, in images or together
GOLDEN = {
    (8, 5, True, False): (0.124454597279, 0.157667994306),
    (8, 5, False, False): (0.392416192544, 0.300378114623),
    (8, 5, False, True): (0.149394223048, 0.118540902561),
    (6, 16, True, False): (0.0551210246572, 0.0589123977552),
    (6, 16, False, False): (0.346855491261, 0.145224822887),
    (6, 16, False, True): (0.0886527173767, 0.0452410295643),
}


def rows(n: int, d: int) -> tuple[Tensor, Tensor]:
    k = torch.arange(n * d, dtype=torch.float64).view(n, d)
    return golden_rows(n, d)[0].requires_grad_(), torch.cos(0.5 * k + 0.2)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n", "d", "images", "clamp"), GOLDEN)
def test_golden(n: int, d: int, images: bool, clamp: bool, impl: str) -> None:
    z, t = rows(n, d)
    shape = (2, n // 2, d) if images else (n, d)
    loss = F.gram_anchor(z.view(shape), t.view(shape), clamp=clamp, impl=impl)
    found = torch.stack([loss.detach(), torch.autograd.grad(loss, z)[0].norm()])
    expected = torch.tensor(GOLDEN[n, d, images, clamp], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", [3, 16, 256])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 20, 6, 9), (2, 33, 40, 5)])
def test_blocks(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], clamp: bool, block: int
) -> None:
    """Any number of blocks, and a teacher of another width."""
    monkeypatch.setattr(difference, "_BLOCK", block)
    b, n, d, e = shape
    g = torch.Generator().manual_seed(0)
    x = torch.randn(b, n, d, generator=g, dtype=torch.float64).requires_grad_()
    y = torch.randn(b, n, e, generator=g, dtype=torch.float64)
    weight = torch.linspace(1, 2, b, dtype=torch.float64)
    for reduction in ("none", "sum", "mean"):
        ours, plain = (
            F.gram_anchor(x, y, clamp=clamp, reduction=reduction, impl=impl)
            for impl in IMPLEMENTATIONS
        )
        torch.testing.assert_close(ours, plain)
        weights = weight if reduction == "none" else None
        grads = [torch.autograd.grad(loss, x, weights)[0] for loss in (ours, plain)]
        torch.testing.assert_close(*grads)


def test_near_the_teacher_the_digits_stay() -> None:
    """A student that is 1e-4 away: in float32, no worse than torch's own dense form."""
    g = torch.Generator().manual_seed(0)
    exact = torch.randn(2, 300, 32, generator=g, dtype=torch.float64)
    y = exact.float()
    x = (exact + 1e-4 * torch.randn(exact.shape, generator=g, dtype=torch.float64)).float()
    truth = F.gram_anchor(x.double(), y.double(), impl="torch")
    errors = [abs(F.gram_anchor(x, y, impl=impl).double() / truth - 1) for impl in IMPLEMENTATIONS]
    assert errors[0] < max(2 * errors[1], 1e-4)


@pytest.mark.parametrize("clamp", [False, True])
def test_derivatives_and_operator(clamp: bool) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 3, generator=g, dtype=torch.float64).requires_grad_()
    y = torch.randn(2, 5, 4, generator=g, dtype=torch.float64)
    op = torch.ops.sslspec_fast.gram_difference.default
    torch.library.opcheck(op, (x, y, clamp, True))
    torch.library.opcheck(op, (x.detach(), y, clamp, False))

    def loss(x: Tensor) -> Tensor:
        return gram_difference(x, y, clamp=clamp)

    assert torch.autograd.gradcheck(loss, x)
    assert torch.autograd.gradgradcheck(loss, x)


def test_the_teacher_has_no_gradient() -> None:
    z, t = rows(6, 16)
    t.requires_grad_()
    for impl in IMPLEMENTATIONS:
        loss = F.gram_anchor(z, t, impl=impl)
        assert torch.autograd.grad(loss, [z, t], allow_unused=True)[1] is None


def test_orthogonal_rows_and_module() -> None:
    eye, ones = torch.eye(3), torch.ones(3, 2)
    assert F.gram_anchor(eye, 5 * eye) == 0
    torch.testing.assert_close(GramAnchorLoss()(eye, ones), torch.tensor(6 / 9))
    x = nnf.normalize(torch.tensor([[1.0, 0.0], [-1.0, 1e-3]]))
    assert GramAnchorLoss(clamp=True)(x, torch.eye(2)) == 0
    assert GramAnchorLoss(reduction="none")(eye[None], ones[None]).shape == (1,)


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (
            torch.ones(4),
            torch.ones(4),
            ValueError,
            r"student must be \(rows, features\)",
        ),
        (
            torch.ones(2, 4, 3),
            torch.ones(8, 3),
            ValueError,
            r"teacher must have the \(2, 4\) rows of student, got \(8,\)",
        ),
        (torch.ones(4, 3), torch.ones(4, 3).double(), TypeError, "teacher must have the dtype of"),
    ],
)
def test_bad_arguments(
    student: Tensor, teacher: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"gram_anchor: {message}"):
        F.gram_anchor(student, teacher)
