"""Soft cross-entropy over prototypes: golden values, pairs, terms, temperatures, bad arguments."""

import itertools

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows
from ..support.prototypes import assert_values, golden

IMPLEMENTATIONS = ("fused", "torch")
# in fp64: dinov2's DINOLoss, which sums the means of all four pairs of views, with centering (both
# centers) and with Sinkhorn's codes; lightly's DINOLoss on logits that are cosines with prototypes
GOLDEN = {
    (8, 5): (
        (42.1390537595, 8.08386535637),
        (42.14297244, 8.08095258007),
        (41.1673322518, 7.53222315706),
        (5.70922103084, 0.378398935262, 1.12693911856),
    ),
    (6, 16): (
        (43.5868622981, 7.02087372345),
        (43.2251979685, 7.03487767919),
        (43.416523244, 6.12197420427),
        (2.93100962142, 0.345472901415, 0.684916755286),
    ),
}


def all_pairs(n, students, teachers, but_own=False):
    """Views are stacked: row v n + i is view v of image i."""
    image = torch.arange(n)
    views = itertools.product(range(students), range(teachers))
    kept = [(s, t) for s, t in views if not (but_own and s == t)]
    rows = torch.cat([s * n + image for s, _ in kept])
    return rows, torch.cat([t * n + image for _, t in kept])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    g, n = golden(*shape), shape[0]
    students, teachers = torch.cat([g.z1, g.z3]), torch.cat([g.t1, g.t2])
    first, second, sinkhorn, fused = GOLDEN[shape]
    center = 0.1 * F.column_mean(teachers)
    biases = (
        (None, first),
        (F.center_bias(center, 0.07), second),
        (F.sinkhorn_bias(teachers, temperature=0.07), sinkhorn),
    )
    how = {"teacher_temperature": 0.07, "reduction": "sum", "impl": impl}
    for bias, values in biases:
        loss = F.prototype_cross_entropy(
            students, teachers, None, pairs=all_pairs(n, 2, 2), bias=bias, **how
        )
        assert_values(loss / n, [g.z1], *values)
    how["reduction"] = "mean"
    students = torch.cat([g.z1, g.z2, g.z3])
    pairs = all_pairs(n, 3, 2, but_own=True)
    loss = F.prototype_cross_entropy(students, teachers, g.w, g.v, pairs=pairs, **how)
    assert_values(loss, [g.z1, g.w], *fused)


def inputs(n=6, m=4, k=9, d=3, e=5):
    student, prototypes = pair_rows(n, d)[0], pair_rows(k, d, 1)[0]
    return student, pair_rows(m, e, 2)[0], prototypes, pair_rows(k, e, 3)[0]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("normalize", [True, False])
def test_every_reduction_is_its_sum_over_pairs(normalize, impl):
    student, teacher, w, v = inputs()
    rows, columns = torch.tensor([0, 1, 1, 5, 0]), torch.tensor([3, 0, 2, 1, 3])
    weights, factor = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0]), torch.linspace(0.5, 1, 6)
    t_s, t_t = torch.linspace(0.2, 0.4, 6), torch.linspace(0.1, 0.3, 4)
    bias = torch.linspace(-1, 1, 9).double()
    unit = torch.nn.functional.normalize if normalize else lambda x: x
    log_p = (unit(student) @ unit(w).T / t_s[:, None].double()).log_softmax(1)
    q = (unit(teacher) @ unit(v).T / t_t[:, None].double() + bias).softmax(1)
    each = -(q[columns] * log_p[rows]).sum(1) * weights.double()
    how = {
        "pairs": (rows, columns, weights),
        "student_temperature": t_s,
        "teacher_temperature": t_t,
        "bias": bias,
        "normalize": normalize,
        "impl": impl,
    }
    for sample_weight in (None, factor.double()):
        own = each if sample_weight is None else each * sample_weight[rows]
        total = weights.double() if sample_weight is None else weights * sample_weight[rows]
        by_row = torch.zeros(6, dtype=torch.float64).index_add(0, rows, own)
        for reduction, wanted in (
            ("mean", own.sum() / total.sum()),
            ("sum", own.sum()),
            ("none", by_row),
        ):
            call = {**how, "reduction": reduction, "sample_weight": sample_weight}
            got = F.prototype_cross_entropy(student, teacher, w, v, **call)
            torch.testing.assert_close(got, wanted)


def test_a_graph_is_the_same_as_its_pairs():
    student, teacher, w, _ = inputs(n=6, m=6, e=3)
    graph = sf.PairGraph.from_edges([0, 1, 1, 5], [3, 0, 2, 5], [1.0, 2.0, 0.5, 1.0], n=6)
    pairs = ([0, 1, 1, 5], [3, 0, 2, 5], [1.0, 2.0, 0.5, 1.0])
    torch.testing.assert_close(
        F.prototype_cross_entropy(student, teacher, w, pairs=graph),
        F.prototype_cross_entropy(student, teacher, w, pairs=pairs),
    )
    identity = (range(6), range(6))
    torch.testing.assert_close(
        F.prototype_cross_entropy(student, teacher, w),
        F.prototype_cross_entropy(student, teacher, w, pairs=[list(x) for x in identity]),
    )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_terms(reduction, impl):
    student, teacher, w, v = inputs()
    pairs = (torch.arange(6), torch.arange(6) % 4)
    how = {"pairs": pairs, "reduction": reduction, "return_terms": True, "impl": impl}
    loss, terms = F.prototype_cross_entropy(student, teacher, w, v, **how)
    logits = torch.nn.functional.normalize(teacher) @ torch.nn.functional.normalize(v).T / 0.04
    q = logits.softmax(1)
    entropy = -torch.special.xlogy(q, q).sum(1)[pairs[1]]
    torch.testing.assert_close(terms["entropy"], entropy.mean() if reduction == "mean" else entropy)
    torch.testing.assert_close(terms["entropy"] + terms["divergence"], loss)
    assert not any(x.requires_grad for x in terms.values())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_mean_entropy(impl):
    student, teacher, w, v = inputs(m=6)
    plain = F.prototype_cross_entropy(student, teacher, w, v, impl=impl)
    unit = torch.nn.functional.normalize
    for prototypes in ((w, v), (None, None)):
        s, t = (student, teacher) if prototypes[0] is not None else (unit(student) @ unit(w).T,) * 2
        how = {"impl": impl, "return_terms": True}
        loss, terms = F.prototype_cross_entropy(s, t, *prototypes, mean_entropy=0.5, **how)
        p = (unit(student) @ unit(w).T / 0.1).softmax(1).mean(0)
        surplus = torch.log(torch.tensor(9.0)) + (p * p.log()).sum()
        torch.testing.assert_close(terms["mean_entropy"], surplus)
        if prototypes[0] is not None:
            torch.testing.assert_close(loss, plain + 0.5 * surplus)


def test_the_loss_is_at_least_the_entropy_of_its_targets():
    """Equal codes attain it, whatever their logits."""
    student, _, w, _ = inputs()
    how = {"teacher_temperature": 0.1, "return_terms": True}
    loss, terms = F.prototype_cross_entropy(student, student, w, **how)
    torch.testing.assert_close(loss, terms["entropy"])
    assert terms["divergence"].abs() < 1e-14
    other = F.prototype_cross_entropy(student.flip(0), student, w, **how)[1]
    assert other["divergence"] > 0.1


def test_temperatures_and_weights_have_gradients():
    student, teacher, w, v = inputs()
    pairs = (torch.arange(6), torch.arange(6) % 4)
    for shape in ((), (6,)):
        t = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
        weight = torch.linspace(0.5, 1, 6, dtype=torch.float64).requires_grad_()
        for reduction in ("mean", "sum", "none"):

            def loss(t, weight, reduction=reduction):
                return F.prototype_cross_entropy(
                    student,
                    teacher,
                    w,
                    v,
                    pairs=pairs,
                    student_temperature=t,
                    sample_weight=weight,
                    reduction=reduction,
                )

            assert torch.autograd.gradcheck(loss, (t, weight))


def test_the_teacher_has_no_gradient():
    student, teacher, w, _ = (x.requires_grad_() for x in inputs(m=6, e=3))
    loss = F.prototype_cross_entropy(student, teacher, w)
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        torch.autograd.grad(loss, teacher)


def test_half_precision_rows_with_wide_prototypes():
    """As in mixed precision: features in bfloat16, the last layer's weight in float32."""
    student, teacher, w, _ = inputs(m=6, e=3)
    half = student.bfloat16().requires_grad_()
    wide = half.detach().float().requires_grad_()
    prototypes = w.float().requires_grad_()
    loss = F.prototype_cross_entropy(half, teacher.bfloat16(), prototypes)
    same = F.prototype_cross_entropy(wide, teacher.bfloat16().float(), prototypes)
    torch.testing.assert_close(loss, same)
    ours = torch.autograd.grad(loss, (half, prototypes))
    theirs = torch.autograd.grad(same, (wide, prototypes))
    assert ours[0].dtype == torch.bfloat16
    torch.testing.assert_close(ours[0], theirs[0].bfloat16())
    torch.testing.assert_close(ours[1], theirs[1])


def test_a_batch_without_pairs_of_some_students():
    student, teacher, w, v = inputs()
    leaf = student.clone().requires_grad_()
    loss = F.prototype_cross_entropy(leaf, teacher, w, v, pairs=([2], [0]), reduction="none")
    assert loss[[0, 1, 3, 4, 5]].abs().max() == 0
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    assert grad[[0, 1, 3, 4, 5]].abs().max() == 0
    assert grad[2].abs().max() > 0


S, T, W, V = (x.float() for x in inputs())
BAD = [
    ((S, T[:, :2], W, V), {}, ValueError, "teacher_prototypes must have the 2 features of teacher"),
    ((S, T, W[:, :2], V), {}, ValueError, "prototypes must have the 3 features of student"),
    ((S, T, W, V[:5]), {}, ValueError, "teacher_prototypes must have the 9 rows of prototypes"),
    ((S, T, None, V), {}, ValueError, "teacher_prototypes need prototypes, got None"),
    ((S, T, None), {}, ValueError, "without prototypes, teacher must have the 3 logits of student"),
    ((S, T, W), {}, ValueError, "prototypes must have the 5 features of teacher"),
    ((S, T, W, V), {}, ValueError, "a teacher row for each student row, got 6 and 4"),
    ((S, T.to("meta"), W, V), {}, ValueError, "teacher must be on the device of student, cpu"),
    ((S, [1.0], W, V), {}, TypeError, "teacher must be a torch.Tensor, got list"),
    ((S, T, W, V), {"pairs": 3}, TypeError, r"or \(rows, columns, weights\), got int"),
    ((S, T, W, V), {"pairs": ([0], [0, 1])}, ValueError, r"pairs\[1\] must have one value per row"),
    ((S, T, W, V), {"pairs": ([0, 6], [0, 1])}, ValueError, r"pairs\[0\] must lie in \[0, 6\)"),
    ((S, T, W, V), {"pairs": ([0, 1], [0, -1])}, ValueError, r"pairs\[1\] must lie in \[0, 4\)"),
    (
        (S, T, W, V),
        {"pairs": ([0], [1], [-1.0])},
        ValueError,
        r"pairs\[2\] must be finite and >= 0",
    ),
    ((S, T, W, V), {"pairs": ([0], [1], [1.0, 2])}, ValueError, r"one weight per pair \(1,\)"),
    ((S, T, W, V), {"pairs": ([0], [1], [0.0])}, ValueError, "positive total weight for a mean"),
    (
        (S, T, W, V),
        {"pairs": sf.PairGraph.from_views(3)},
        ValueError,
        "need as many teacher rows as student rows, got 6 and 4",
    ),
    ((S, T, W, V), {"bias": torch.zeros(4)}, ValueError, r"bias must be \(9,\), or \(g, 9\)"),
    ((S, T, W, V), {"bias": torch.zeros(3, 9)}, ValueError, "a divisor of the 4 teacher rows"),
    ((S, T, W, V), {"teacher_temperature": 0.0}, ValueError, "finite and > 0, got 0"),
    ((S, T, W, V), {"mean_entropy": -1.0}, ValueError, "mean_entropy must be finite and >= 0"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"prototype_cross_entropy: .*{message}"):
        F.prototype_cross_entropy(*arguments, **options)


def test_gradients_that_are_not_there():
    for name in ("bias", "teacher_temperature"):
        value = torch.ones(9) if name == "bias" else torch.tensor(0.1)
        how = {name: value.requires_grad_(), "pairs": ([0], [0])}
        with pytest.raises(NotImplementedError, match=f"{name} must not require grad"):
            F.prototype_cross_entropy(S, T, W, V, **how)
    graph = sf.PairGraph.from_edges([0, 1], [1, 0], [1.0, -1.0], n=4)
    with pytest.raises(ValueError, match="pairs must have weights >= 0, got a negative one"):
        F.prototype_cross_entropy(S[:4], T, W, V, pairs=graph)
    with pytest.raises(ValueError, match=r"must be 0 for reduction='none', got mean_entropy=0\.5"):
        F.prototype_cross_entropy(S[:4], T, W, V, mean_entropy=0.5, reduction="none")
