"""CAPI: lightly's values, codes balanced at each position, gradients, the module, bad arguments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows, unit
from ..support.prototypes import assert_values, golden

IMPLEMENTATIONS = ("fused", "torch")
# lightly 1.6.0 in fp64, of two images
GOLDEN = {
    (8, 5): (7.49595503804, 2.74816992945),
    (6, 16): (8.75639860895, 1.84922391902),
}


def defined(student: Tensor, teacher: Tensor, eps: float = 0.0, iterations: int = 3) -> Tensor:
    """Of logits over their temperatures (b, tokens, k), as the paper's code has it: eps is added
    to every sum that it divides by.
    """
    q = (teacher - teacher.amax(0)).exp()
    for _ in range(iterations):
        q = q / (q.sum(0) + eps)
        q = q / (q.sum(2, keepdim=True) + eps)
    return -(q * nnf.log_softmax(student, 2)).sum(2).mean()


@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape):
    """lightly's value is that of the definition with its eps, and ours that without."""
    g, (n, d) = golden(*shape), shape
    student, teacher = (x.view(2, n // 2, d) for x in (g.z1, g.t1))
    assert_values(defined(student / 0.12, teacher / 0.06, 1e-8), [g.z1], *GOLDEN[shape])
    exact = defined(student / 0.12, teacher / 0.06)
    assert abs(exact.item() - GOLDEN[shape][0]) < 1e-5
    (norm,) = torch.autograd.grad(exact, g.z1, retain_graph=True)
    for impl in IMPLEMENTATIONS:
        values = exact.item(), norm.norm().item()
        assert_values(F.capi(student, teacher, impl=impl), [g.z1], *values)
    assert_values(sf.CAPILoss()(teacher, student), [g.z1], exact.item(), norm.norm().item())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("iterations", [1, 4])
def test_targets_of_an_index(iterations, impl):
    """The codes are balanced over all tokens of the teacher, also those that nothing predicts."""
    b, p, s = 5, 2, 3
    student = pair_rows(b * p, 4)[0].view(b, p, 4).requires_grad_()
    teacher = pair_rows(b * s, 6, 1)[0].view(b, s, 6)
    w, v = pair_rows(9, 4, 2)[0].requires_grad_(), pair_rows(9, 6, 3)[0]
    index = torch.tensor([[0, 2], [2, 1], [1, 1], [0, 1], [2, 0]])
    logits = nnf.normalize(student, dim=2) @ unit(w).T / 0.2
    of_teacher = nnf.normalize(teacher, dim=2) @ unit(v).T / 0.1
    q = of_teacher.exp()
    for _ in range(iterations):
        q = q / q.sum(0)
        q = q / q.sum(2, keepdim=True)
    q = q.gather(1, index[:, :, None].expand(-1, -1, 9))
    want = -(q * logits.log_softmax(2)).sum(2).mean()
    how = {"student_temperature": 0.2, "teacher_temperature": 0.1, "iterations": iterations}
    loss, terms = F.capi(student, teacher, w, v, index=index, impl=impl, return_terms=True, **how)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(terms["entropy"] + terms["divergence"], loss)
    leaves = [student, w]
    ours, theirs = (torch.autograd.grad(x, leaves, retain_graph=True) for x in (loss, want))
    torch.testing.assert_close(ours, theirs)


def test_without_an_index_token_i_is_that_of_token_i():
    student, teacher = (pair_rows(12, 4, seed)[0].view(4, 3, 4) for seed in (0, 1))
    w = pair_rows(7, 4, 2)[0]
    index = torch.arange(3).expand(4, 3)
    torch.testing.assert_close(
        F.capi(student, teacher, w), F.capi(student, teacher, w, index=index)
    )


def test_the_same_tokens_train_the_prototypes():
    tokens, w = pair_rows(12, 4)[0].view(4, 3, 4), pair_rows(7, 4, 2)[0].requires_grad_()
    loss = F.capi(tokens, tokens, w, student_temperature=0.06)
    (grad,) = torch.autograd.grad(loss, w)
    assert F.capi(tokens, tokens, w - 0.05 * grad, student_temperature=0.06) < loss


def test_a_code_cannot_stand_for_a_position():
    """Tokens that only their position tells apart: balanced at each position, codes say nothing."""
    positions = 3 * torch.eye(3, 4).double()
    tokens = positions.expand(8, 3, 4)
    _, terms = F.capi(tokens, tokens, return_terms=True)
    torch.testing.assert_close(terms["entropy"], torch.tensor(4.0).double().log())


def test_the_module_with_its_last_layers():
    student, teacher = (pair_rows(12, 4, seed)[0].view(4, 3, 4) for seed in (0, 1))
    w, v, index = pair_rows(7, 4, 2)[0], pair_rows(7, 4, 3)[0], torch.tensor([[2, 0]] * 4)
    scores = [nnf.normalize(x, dim=2) @ unit(y).T for x, y in ((teacher, v), (student[:, :2], w))]
    module = sf.CAPILoss(0.1, 0.2, 2)
    got = module(teacher, student[:, :2], index, prototypes=w, teacher_prototypes=v)
    torch.testing.assert_close(got, module(*scores, index))
    assert "sinkhorn_iterations=2" in repr(module)
    assert sf.CAPILoss(gather_distributed=True)(*scores, index) == sf.CAPILoss()(*scores, index)


Z = torch.eye(4).view(2, 2, 4)
BAD = [
    ((Z[0], Z), {}, ValueError, r"student must be \(images, tokens, features\).*got \(2, 4\)"),
    ((Z, Z[:1]), {}, ValueError, "teacher must have the 2 images of student, got 1"),
    ((Z, Z[:, :1]), {}, ValueError, "teacher must have the 2 tokens of student, got 1"),
    ((Z, 3.0), {}, TypeError, "teacher must be a torch.Tensor, got float"),
    ((Z, Z), {"index": [[0, 1]]}, TypeError, "index must be a torch.Tensor, got list"),
    ((Z, Z), {"index": torch.zeros(2, 1).long()}, ValueError, r"index must be \(2, 2\), one"),
    ((Z, Z), {"index": torch.full((2, 2), 2)}, ValueError, r"index must lie in \[0, 2\), got 2"),
    ((Z, Z), {"iterations": -1}, ValueError, "iterations must be"),
    (
        (Z, Z),
        {"teacher_temperature": 0.0},
        ValueError,
        "teacher_temperature must be finite and > 0",
    ),
    ((Z, Z, torch.eye(3)), {}, ValueError, "prototypes must have the 4 features of student"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"capi: .*{message}|capi: {message}"):
        F.capi(*arguments, **options)
