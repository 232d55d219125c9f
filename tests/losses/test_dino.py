"""DINO: golden values, the pairs of views, the module and its center, bad arguments."""

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows
from ..support.prototypes import assert_values, golden

IMPLEMENTATIONS = ("fused", "torch")
# lightly 1.6.0 in fp64: logits of two views, in two calls of one object; the norm of the center
# after them; three views in epoch 10 of the warm-up; logits that are cosines with prototypes
GOLDEN = {
    (8, 5): (
        (10.7726804794, 2.09849845458),
        (10.7722526223, 2.09752515079),
        0.0227837221604,
        (10.6024716275, 1.04065628692),
        (5.70922103084, 0.378398935262, 1.12693911856),
    ),
    (6, 16): (
        (11.3147485113, 2.15073942939),
        (11.3491759287, 2.15108236324),
        0.103459209658,
        (11.2150580084, 1.04657042888),
        (2.93100962142, 0.345472901415, 0.684916755286),
    ),
}
# stable-pretraining's DINOv1Loss in fp64, three views, no center
STABLE = {(8, 5): (10.6286461445, 1.04924922729), (6, 16): (11.2770377125, 1.0753697147)}


@pytest.mark.parametrize("shape", GOLDEN)
def test_golden_module(shape):
    g, (first, second, norm, third, fused) = golden(*shape), GOLDEN[shape]
    module = sf.DINOLoss(shape[1]).double()
    assert_values(module([g.t1, g.t2], [g.z1, g.z2]), [g.z1], *first)
    assert_values(module([g.t1, g.t2], [g.z1, g.z2]), [g.z1], *second)
    assert abs(module.center.norm().item() - norm) <= 1e-10
    warm = sf.DINOLoss(shape[1], teacher_temp=0.07).double()
    assert_values(warm([g.t1, g.t2], [g.z1, g.z2, g.z3], epoch=10), [g.z1], *third)
    last = sf.DINOLoss(12, teacher_temp=0.07).double()
    loss = last([g.t1, g.t2], [g.z1, g.z2, g.z3], prototypes=g.w, teacher_prototypes=g.v)
    assert_values(loss, [g.z1, g.w], *fused)
    mean = F.column_mean(torch.cat([g.t1, g.t2]), g.v)
    torch.testing.assert_close(last.center.flatten(), 0.1 * mean)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    g = golden(*shape)
    students, teachers = [g.z1, g.z2, g.z3], [g.t1, g.t2]
    assert_values(F.dino(students, teachers, impl=impl), [g.z1], *STABLE[shape])
    how = {"teacher_temperature": 0.07, "impl": impl}
    assert_values(F.dino(students, teachers, g.w, g.v, **how), [g.z1, g.w], *GOLDEN[shape][4])
    center = torch.stack(teachers).mean((0, 1))
    centred = F.dino(students, teachers, center=0.1 * center, impl=impl)
    biased = F.dino(students, teachers, bias=-0.1 * center / 0.04, impl=impl)
    moved = F.dino(students, [t - 0.1 * center for t in teachers], impl=impl)
    torch.testing.assert_close(centred, moved)
    torch.testing.assert_close(biased, moved)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("students", "teachers"), [(2, 1), (1, 2), (2, 2), (5, 2), (2, 3)])
def test_every_view_with_every_other(students, teachers, impl):
    views = torch.stack([*pair_rows(6, 4), *pair_rows(6, 4, 1), *pair_rows(6, 4, 2)])
    s, t = views[:students], views[-teachers:]
    p, q = (s / 0.1).log_softmax(2), (t / 0.04).softmax(2)
    pairs = [(i, j) for i in range(students) for j in range(teachers) if i != j]
    want = torch.stack([-(q[j] * p[i]).sum(1).mean() for i, j in pairs]).mean()
    loss, terms = F.dino(s, list(t), impl=impl, return_terms=True)
    torch.testing.assert_close(loss, want)
    entropy = torch.stack([-torch.special.xlogy(q[j], q[j]).sum(1).mean() for _, j in pairs])
    torch.testing.assert_close(terms["entropy"], entropy.mean())
    torch.testing.assert_close(terms["divergence"], want - entropy.mean())


def test_balanced_codes_of_all_views_of_the_teacher():
    """DINOv2 with Sinkhorn's iteration in place of a center."""
    views, w = torch.stack([*pair_rows(6, 4), pair_rows(6, 4, 2)[0]]), pair_rows(9, 4, 1)[0]
    bias = F.sinkhorn_bias(views[:2].flatten(0, 1), w, temperature=0.05)
    how = {"teacher_temperature": 0.05, "bias": bias}
    loss = F.dino(views, views[:2], w, **how)
    torch.testing.assert_close(loss, F.dino(views, views[:2], w, impl="torch", **how))
    assert abs(loss - F.dino(views, views[:2], w, teacher_temperature=0.05)) > 1e-3


def test_the_warm_up_has_equal_steps():
    module = sf.DINOLoss(4, 0.02, 0.08, 4)
    for epoch, value in ((0, 0.02), (1, 0.04), (3, 0.08), (4, 0.08), (None, 0.08)):
        assert module.temperature(epoch) == pytest.approx(value)
    assert sf.DINOLoss(4, 0.02, 0.08, 1).temperature(0) == 0.02
    views = list(pair_rows(3, 4))
    given = module(views, views, teacher_temp=0.03)
    module.center.zero_()
    torch.testing.assert_close(given, F.dino(views, views, teacher_temperature=0.03))


def test_the_center_is_a_buffer_of_lightlys_shape():
    module = sf.DINOLoss(4, center_momentum=0.75)
    assert module.state_dict()["center"].shape == (1, 1, 4)
    views = [v.float().requires_grad_() for v in pair_rows(3, 4)]
    loss = module(views, views)
    mean = torch.cat(views).detach().mean(0)
    torch.testing.assert_close(module.center.flatten(), 0.25 * mean)
    loss.backward()
    module([v.bfloat16() for v in views], views)
    assert module.center.dtype == torch.float32
    torch.testing.assert_close(module.center.flatten(), 0.4375 * mean, rtol=0.02, atol=0.01)
    assert "center_momentum=0.75" in repr(module)


VIEWS = list(pair_rows(6, 4))
BAD = [
    ((3, VIEWS), {}, TypeError, "student_views must be a tensor or a list of tensors, got int"),
    (([], VIEWS), {}, TypeError, "student_views must be .* got an empty one"),
    ((VIEWS, VIEWS[0]), {}, ValueError, "teacher_views must be .views, rows, features. or a list"),
    (([VIEWS[0], VIEWS[1][:3]], VIEWS), {}, ValueError, "student_views must match the first of"),
    ((VIEWS, [v[:3] for v in VIEWS]), {}, ValueError, "teacher_views must have the 6 rows of"),
    ((VIEWS[:1], VIEWS[:1]), {}, ValueError, "student_views must be at least 2 for 1 view"),
    ((VIEWS, VIEWS), {"teacher_temperature": 0.0}, ValueError, "finite and > 0, got 0.0"),
    ((VIEWS, VIEWS), {"center": torch.zeros(3)}, ValueError, r"center must be \(4,\).* got \(3,\)"),
    (
        (VIEWS, VIEWS),
        {"bias": torch.zeros(2, 4)},
        ValueError,
        r"bias must be \(4,\).*\(2, 4\)",
    ),
    ((VIEWS, VIEWS), {"bias": [0.0] * 4}, TypeError, "bias must be a torch.Tensor, got list"),
    (
        (VIEWS, VIEWS),
        {"center": torch.zeros(4), "bias": torch.zeros(4)},
        ValueError,
        "bias must be None with a center, got both",
    ),
    ((VIEWS, VIEWS, torch.eye(3)), {}, ValueError, "prototypes must have the 4 features of stud"),
    ((VIEWS, VIEWS), {"group": 3}, TypeError, "group must be a torch.distributed.ProcessGroup"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"dino: .*{message}|dino: {message}"):
        F.dino(*arguments, **options)


def test_bad_modules():
    with pytest.raises(ValueError, match="DINOLoss: center_mode must be one of 'mean', got 'max'"):
        sf.DINOLoss(4, center_mode="max")
    with pytest.raises(ValueError, match=r"DINOLoss: center_momentum must be in \[0, 1\], got 1.5"):
        sf.DINOLoss(4, center_momentum=1.5)
    with pytest.raises(ValueError, match="DINOLoss: output_dim must be at least 1, got 0"):
        sf.DINOLoss(0)
