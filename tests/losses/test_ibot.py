"""iBOT and iBOT++: golden values, weights of tokens, modules and center, bad arguments."""

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows
from ..support.prototypes import assert_values, golden

IMPLEMENTATIONS = ("fused", "torch")
# lightly 1.6.0 in fp64: IBOTPatchLoss in two calls of one object, IBOTPlusPlusPatchLoss
GOLDEN = {
    (8, 5): (
        (10.761260575, 4.28793999116),
        (10.7636085163, 4.28010413215),
        (21.5290288522, 9.60805179094),
    ),
    (6, 16): (
        (11.3279288127, 4.05582276073),
        (11.3983802249, 4.04174129301),
        (21.3263840417, 7.85234693229),
    ),
}


def masks(n):
    """(2, 2, width) with n / 2 + 1 and n / 2 - 1 masked tokens, and (2, n / 2) of n tokens."""
    few = torch.zeros(2, 2, n // 2, dtype=torch.bool)
    for image, count in zip(few.view(2, -1), (n // 2 + 1, n - n // 2 - 1), strict=True):
        image[:count] = True
    return few, torch.arange(n).remainder(3).eq(0).view(2, n // 2)


@pytest.mark.parametrize("shape", GOLDEN)
def test_golden_modules(shape):
    g, (first, second, plus) = golden(*shape), GOLDEN[shape]
    n, d = shape
    few, whole = masks(n)
    module = sf.IBOTPatchLoss(d).double()
    assert_values(module(g.t1, g.z1, few), [g.z1], *first)
    assert_values(module(g.t1, g.z1, few), [g.z1], *second)
    images = (g.t1.view(2, n // 2, d), g.z1.view(2, n // 2, d))
    assert_values(sf.IBOTPlusPlusPatchLoss(d).double()(*images, whole), [g.z1], *plus)
    flat = sf.IBOTPlusPlusPatchLoss(d).double()(g.t1, g.z1, whole[:, None])
    assert_values(flat, [g.z1], *plus)
    module = sf.IBOTPlusPlusPatchLoss(d).double()
    alone = module(*images, whole, visible_loss_weight=0.0)
    kept = whole.flatten()
    torch.testing.assert_close(alone, F.ibot(g.z1[kept], g.t1[kept], whole))
    torch.testing.assert_close(module.center.value, 0.1 * g.t1.mean(0))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    g, (few, whole) = golden(*shape), masks(shape[0])
    first, _, plus = GOLDEN[shape]
    assert_values(F.ibot(g.z1, g.t1, few, impl=impl), [g.z1], *first)
    assert_values(F.ibot(g.z1, g.t1, whole, visible_weight=1.0, impl=impl), [g.z1], *plus)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_the_mean_of_the_means_of_images(impl):
    """The third image has no masked token and counts with 0, the fourth has no visible one."""
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0] * 5, [1] * 5]).bool()
    student, teacher = pair_rows(20, 3)
    w, v = pair_rows(7, 3, 1)
    unit = torch.nn.functional.normalize
    q = (unit(teacher) @ unit(v).T / 0.04).softmax(1)
    c = -(q * (unit(student) @ unit(w).T / 0.1).log_softmax(1)).sum(1).view(4, 5)
    masked = [c[0, [0, 2, 3]].mean(), c[1, 4], 0 * c[0, 0], c[3].mean()]
    visible = [c[0, [1, 4]].mean(), c[1, :4].mean(), c[2].mean(), 0 * c[0, 0]]
    kept, want = mask.flatten(), torch.stack(masked).mean()
    loss, terms = F.ibot(student[kept], teacher[kept], mask, w, v, return_terms=True, impl=impl)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(terms["entropy"] + terms["divergence"], want)
    how = {"visible_weight": 0.3, "impl": impl}
    both = F.ibot(student, teacher, mask.view(4, 1, 5), w, v, **how)
    torch.testing.assert_close(both, want + 0.3 * torch.stack(visible).mean())


def test_without_a_mask_all_tokens_count():
    student, teacher = (x.view(3, 4, 5) for x in pair_rows(12, 5))
    loss = sf.IBOTPlusPlusPatchLoss(5)(teacher, student)
    want = F.prototype_cross_entropy(student.flatten(0, 1), teacher.flatten(0, 1), None)
    torch.testing.assert_close(loss, want)


def test_prototypes_and_the_center_of_a_module():
    mask = torch.tensor([[True, True, False], [True, False, True]])
    student, teacher = pair_rows(4, 3)
    w, v = pair_rows(7, 3, 1)
    module = sf.IBOTPatchLoss(7, center_momentum=0.5).double()
    assert module.state_dict()["center.center"].shape == (1, 7)  # lightly's name and shape
    loss = module(teacher, student, mask, prototypes=w, teacher_prototypes=v)
    torch.testing.assert_close(loss, F.ibot(student, teacher, mask, w, v))
    mean = F.column_mean(teacher, v)
    torch.testing.assert_close(module.center.value, 0.5 * mean)
    loss = module(teacher, student, mask, 0.07, prototypes=w, teacher_prototypes=v)
    how = {"center": 0.5 * mean, "teacher_temperature": 0.07}
    torch.testing.assert_close(loss, F.ibot(student, teacher, mask, w, v, **how))
    assert "center_momentum=0.5" in repr(module)


def test_a_batch_without_masked_tokens_of_some_images_compiles():
    mask = torch.tensor([[False, False, False], [True, False, True]])
    student, teacher = pair_rows(2, 5)

    def loss(student, teacher, mask):
        return F.ibot(student, teacher, mask)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(student, teacher, mask), loss(student, teacher, mask))
    torch._dynamo.reset()


Z, MASK = torch.eye(4), torch.tensor([[True, True, False], [True, False, True]])
BAD = [
    ((Z, Z, MASK.long()), {}, TypeError, "mask must be a bool tensor, got torch.int64"),
    ((Z, Z, [True]), {}, TypeError, "mask must be a bool tensor, got list"),
    ((Z, Z, MASK[0]), {}, ValueError, r"mask must be \(images, tokens\) or .*, got \(3,\)"),
    ((Z, Z, ~MASK), {}, ValueError, "a row for each of the 2 masked tokens, got .4, 4."),
    ((Z, Z, MASK), {"visible_weight": 1.0}, ValueError, "a row for each of the 6 tokens of mask"),
    ((Z, Z, MASK[:, :2]), {"visible_weight": -1.0}, ValueError, "visible_weight must be finite"),
    ((Z, Z[:3], MASK), {}, ValueError, "a teacher row for each student row, got 4 and 3"),
    ((Z, Z, MASK.to("meta")), {}, ValueError, "mask must be on the device of student, cpu"),
    ((Z, Z, MASK), {"teacher_temperature": -1.0}, ValueError, "finite and > 0, got -1.0"),
    ((Z, Z, MASK), {"center": Z[0], "bias": Z[0]}, ValueError, "bias must be None with a center"),
    ((Z, Z, MASK), {"center": Z}, ValueError, r"center must be \(4,\), .* got \(4, 4\)"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"ibot: .*{message}|ibot: {message}"):
        F.ibot(*arguments, **options)


def test_bad_modules():
    plus = sf.IBOTPlusPlusPatchLoss(4)
    with pytest.raises(ValueError, match="IBOTPlusPlusPatchLoss: mask must be given for tokens"):
        plus(Z, Z)
    with pytest.raises(ValueError, match="student_out must have the tokens of teacher_out"):
        plus(Z[None], Z[None, :3])
    with pytest.raises(ValueError, match=r"IBOTPatchLoss: center_momentum must be in \[0, 1\]"):
        sf.IBOTPatchLoss(4, center_momentum=2.0)
