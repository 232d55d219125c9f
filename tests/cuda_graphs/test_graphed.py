"""`sf.graphed` without a GPU: a stand-in for the recorder runs a function again where a GPU would
replay its launches. tests/gpu/test_cuda_graphed.py captures on a GPU.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.cuda_graphs import GraphedLoss
from sslspec_fast.cuda_graphs.recorder import CudaRecorder
from sslspec_fast.ranks import agree

from ..support.recorder import AgainRecorder


@pytest.fixture(autouse=True)
def again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphedLoss, "recorder", AgainRecorder)
    monkeypatch.setattr(AgainRecorder, "recorded", 0)


def rows(
    n: int = 12, d: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, n, d, generator=generator)
    return [torch.nn.functional.normalize(x, dim=1).to(dtype).requires_grad_() for x in views]


def both(loss: Callable[..., Any], wrapped: Any, *args: Any, **kw: Any) -> None:
    """Value and gradients of a loss and of the same one graphed have the same bits."""
    found = []
    for call in (loss, wrapped):
        leaves = [x for x in (*args, *kw.values()) if isinstance(x, Tensor) and x.requires_grad]
        value = call(*args, **kw)
        first = value[0] if isinstance(value, tuple) else value
        seed = torch.linspace(0.5, 1.5, first.numel()).to(first).reshape(first.shape)
        found.append([first.detach(), *torch.autograd.grad(first, leaves, seed)])
    assert all(map(torch.equal, *found))


TWO_VIEWS: dict[str, Callable[..., Tensor]] = {
    "nt_xent": F.nt_xent,
    "clip": functools.partial(F.clip, logit_scale=10.0),
    "siglip": functools.partial(F.siglip, logit_scale=10.0, logit_bias=-10.0),
    "vicreg": F.vicreg,
    "barlow_twins": F.barlow_twins,
    "module": sf.NTXentLoss(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", TWO_VIEWS)
def test_value_and_gradients_are_those_of_the_loss(name: str, dtype: torch.dtype) -> None:
    loss = TWO_VIEWS[name]
    wrapped = sf.graphed(loss)
    for seed in range(3):
        both(loss, wrapped, *rows(seed=seed, dtype=dtype))
    assert wrapped.calls == {"replayed": 3}
    assert AgainRecorder.recorded == 2  # forward and backward


def test_a_scale_is_an_input_with_a_gradient() -> None:
    wrapped = sf.graphed(F.clip)
    for scale in (5.0, 20.0):
        both(F.clip, wrapped, *rows(), torch.tensor(scale, requires_grad=True))
    assert AgainRecorder.recorded == 2


def test_a_number_or_an_option_is_another_kind() -> None:
    wrapped = sf.graphed(F.nt_xent)
    for temperature in (0.1, 0.5, 0.1):
        both(F.nt_xent, wrapped, *rows(), temperature=temperature)
    both(F.nt_xent, wrapped, *rows(), temperature=0.5, reduction="none")
    assert AgainRecorder.recorded == 6


def test_kinds_are_shapes_dtypes_and_wanted_gradients() -> None:
    wrapped = sf.graphed(F.nt_xent)
    z1, z2 = rows()
    both(F.nt_xent, wrapped, z1, z2)
    both(F.nt_xent, wrapped, z1, z2.detach())
    both(F.nt_xent, wrapped, *rows(n=7))
    both(F.nt_xent, wrapped, *rows(dtype=torch.float64))
    with torch.no_grad():
        assert torch.equal(wrapped(z1, z2), F.nt_xent(z1, z2))
    with torch.inference_mode():
        assert torch.equal(wrapped(z1, z2), F.nt_xent(z1, z2))
    assert wrapped.calls == {"replayed": 6}
    assert AgainRecorder.recorded == 9  # without gradients there is no backward graph


def test_terms_and_tuples_of_tensors_keep_their_structure() -> None:
    loss = functools.partial(F.nt_xent, return_terms=True)
    value, terms = sf.graphed(loss)(*rows())
    wanted, expected = loss(*rows())
    assert torch.equal(value, wanted)
    assert {k: float(v) for k, v in terms.items()} == {k: float(v) for k, v in expected.items()}
    assert value.requires_grad
    assert not any(v.requires_grad for v in terms.values())

    def of_pair(views: list[Tensor]) -> Tensor:
        return F.nt_xent(*views)

    wrapped, views = sf.graphed(of_pair), rows()
    grads = torch.autograd.grad(wrapped(views), views)
    assert all(map(torch.equal, grads, torch.autograd.grad(of_pair(views), views)))


def test_several_calls_before_a_backward_pass() -> None:
    # two losses of one kind in a step: the second replay overwrote what the first had kept
    a, b = rows(seed=1), rows(seed=2)
    wrapped = sf.graphed(F.nt_xent)
    first, second = wrapped(*a), wrapped(*b)
    (first + 2 * second).backward()
    got = [x.grad for x in (*a, *b)]
    for x in (*a, *b):
        x.grad = None
    (F.nt_xent(*a) + 2 * F.nt_xent(*b)).backward()
    assert all(torch.equal(x, y.grad) for x, y in zip(got, (*a, *b), strict=True))


def test_gradients_accumulate() -> None:
    z1, z2 = rows()
    wrapped = sf.graphed(F.nt_xent)
    for _ in range(3):
        wrapped(z1, z2).backward()
    (each,) = torch.autograd.grad(F.nt_xent(z1, z2), z1)
    torch.testing.assert_close(z1.grad, 3 * each)
    value = wrapped(z1, z2)
    first = torch.autograd.grad(value, z1, retain_graph=True)[0]
    second = torch.autograd.grad(value, z1, torch.tensor(4.0))[0]
    assert torch.equal(first, each)
    torch.testing.assert_close(second, 4 * each)


def test_what_a_caller_holds_is_never_overwritten() -> None:
    z1, z2 = rows()
    wrapped = sf.graphed(F.nt_xent)
    value = wrapped(z1, z2)
    (grad,) = torch.autograd.grad(value, z1)
    step = wrapped._kinds[0][2]
    static = {t.data_ptr() for t in (*step.inputs, *step.outputs, *step.grads) if t is not None}
    assert not static & {t.data_ptr() for t in (z1, z2, value, grad)}


CLIP = TWO_VIEWS["clip"]


def test_the_same_rows_twice_and_a_view_of_the_other() -> None:
    z, _ = rows()
    for loss in (lambda f: f(z, z), lambda f: f(z, z.tanh())):
        got, want = (torch.autograd.grad(loss(f), z)[0] for f in (sf.graphed(CLIP), CLIP))
        torch.testing.assert_close(got, want)  # terms of one tensor come in another order


def test_a_loss_scale_is_applied_before_rounding() -> None:
    # gradients of float16 rows below its smallest number, times 2^16
    z1, z2 = rows(n=512, dtype=torch.float16)
    scale = torch.tensor(2.0**16)
    got = torch.autograd.grad(sf.graphed(F.nt_xent)(z1, z2) * scale, (z1, z2))
    want = torch.autograd.grad(F.nt_xent(z1, z2) * scale, (z1, z2))
    assert all(map(torch.equal, got, want))


def test_second_derivatives_are_eager() -> None:
    z1, z2 = rows(n=5, d=3, dtype=torch.float64)
    wrapped = sf.graphed(F.nt_xent)
    assert torch.autograd.gradcheck(wrapped, (z1, z2))
    assert torch.autograd.gradgradcheck(wrapped, (z1, z2))


class Scaled(torch.nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.tensor(1.0))
        self.weight = 1.0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.weight * F.clip(a, b, self.log_scale.exp())


def test_parameters_of_a_module_are_inputs() -> None:
    module = Scaled()
    wrapped = sf.graphed(module)
    assert list(wrapped.parameters()) == [module.log_scale]
    for value in (1.0, 2.0):
        with torch.no_grad():
            module.log_scale.fill_(value)
        both_grads = []
        for call in (module, wrapped):
            module.log_scale.grad = None
            call(*rows()).backward()
            both_grads.append(module.log_scale.grad)
        assert torch.equal(*both_grads)
    assert AgainRecorder.recorded == 2


def test_attributes_of_a_module_are_part_of_the_kind() -> None:
    module = sf.NTXentLoss(temperature=0.5)
    wrapped = sf.graphed(module)
    both(module, wrapped, *rows())
    module.temperature = 0.1
    both(module, wrapped, *rows())
    module.options["reduction"] = "sum"
    both(module, wrapped, *rows())
    module.eval()
    both(module, wrapped, *rows())
    assert AgainRecorder.recorded == 8


def closed_over(temperature: Tensor) -> Callable[..., Tensor]:
    return lambda a, b: F.nt_xent(a, b, temperature=temperature)


def random_rows(a: Tensor, b: Tensor) -> Tensor:
    return F.nt_xent(a + torch.randn_like(a), b)


def over_ranks(a: Tensor, b: Tensor) -> Tensor:
    if torch.distributed.is_available():
        with contextlib.suppress(AttributeError):  # an eager call has no group here
            agree("loss", None, {}, len(a))
    return F.nt_xent(a, b)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (random_rows, "the loss draws random numbers"),
        (
            closed_over(torch.tensor(0.5, requires_grad=True)),
            "holds a tensor that requires a gradient",
        ),
        (sf.NTXentLoss(memory_bank_size=20), "buffer"),
        (over_ranks, "a loss over several ranks"),
        (lambda a, b: a.mul_(2).sum() if not a.requires_grad else a.sum(), "changes its inputs"),
    ],
)
def test_losses_that_differ_from_call_to_call_run_eagerly(
    loss: Callable[..., Tensor], reason: str
) -> None:
    wrapped = sf.graphed(loss)
    for _ in range(2):
        a, b = rows() if "inputs" not in reason else [x.detach() for x in rows()]
        state = torch.get_rng_state()
        got = wrapped(a, b)
        torch.set_rng_state(state)
        if isinstance(loss, torch.nn.Module):
            assert got.isfinite()
            continue
        a, b = (x.detach() for x in rows())
        torch.testing.assert_close(
            got.detach(), loss(a.requires_grad_("inputs" not in reason), b).detach()
        )
    assert all(reason in seen for seen in wrapped.calls)
    assert sum(wrapped.calls.values()) == 2


def test_a_queue_moves_once_a_call() -> None:
    a, b = rows()
    ours = sf.NTXentLoss(memory_bank_size=(30, 6))
    other = copy.deepcopy(ours)
    wrapped = sf.graphed(ours)
    for _ in range(4):
        assert torch.equal(wrapped(a, b), other(a, b))
    assert torch.equal(ours.bank, other.bank)
    assert int(ours.next) == int(other.next)


def test_arguments_that_are_no_kind_run_eagerly() -> None:
    z, graph = rows()[0], sf.PairGraph.from_views(6)
    wrapped = sf.graphed(sf.GraphLoss("graph_info_nce"))
    assert torch.equal(wrapped(z, graph), F.graph_info_nce(z, graph))
    assert wrapped.calls == {"an argument of type PairGraph": 1}


def test_hooks_of_a_module_run_in_every_call() -> None:
    seen = []
    loss = torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.Softplus())
    wrapped = sf.graphed(loss)
    wrapped(rows()[0])
    handle = loss[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    for _ in range(3):
        wrapped(rows()[0])
    handle.remove()
    wrapped(rows()[0])
    assert len(seen) == 3
    assert wrapped.calls == {"replayed": 2, "hooks of the module": 3}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_tangent_of_forward_mode_passes() -> None:
    a, b = (x.detach() for x in rows())
    wrapped = sf.graphed(lambda x, y: (x * y).sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(a, torch.ones_like(a))
        tangent = forward_ad.unpack_dual(wrapped(dual, b)).tangent
    torch.testing.assert_close(tangent, b.sum())
    assert wrapped.calls == {"under a mode or a transform": 1}


def test_the_number_of_kinds_is_bounded() -> None:
    wrapped = sf.graphed(F.nt_xent, most=2)
    for n in (4, 5, 6, 7, 4):
        both(F.nt_xent, wrapped, *rows(n=n))
    assert wrapped.calls == {"replayed": 3, "more than 2 kinds of calls": 2}
    assert len(wrapped._kinds) == 2
    wrapped.reset()
    assert (wrapped.calls, wrapped._kinds) == ({}, [])


def test_a_failed_capture_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self: Any, run: Callable[[], None]) -> Any:
        raise RuntimeError("operation not permitted\nmore")

    monkeypatch.setattr(AgainRecorder, "record", record)
    wrapped = sf.graphed(F.nt_xent)
    with pytest.warns(
        RuntimeWarning, match="runs eagerly, no capture: RuntimeError: operation not"
    ):
        both(F.nt_xent, wrapped, *rows())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both(F.nt_xent, wrapped, *rows())
    assert list(wrapped.calls.values()) == [2]


def test_errors_are_those_of_the_loss() -> None:
    wrapped = sf.graphed(F.nt_xent)
    z1, z2 = rows()
    with pytest.raises(ValueError, match="nt_xent: z2 must match z1"):
        wrapped(z1, z2[:5])
    both(F.nt_xent, wrapped, z1, z2)
    for bad, error, match in (
        (lambda: sf.graphed(3), TypeError, "graphed: loss must be callable, got int"),
        (lambda: sf.graphed(F.clip, most=0), ValueError, "graphed: most must be at least 1, got 0"),
    ):
        with pytest.raises(error, match=match):
            bad()


def test_a_checkpoint_replays_in_the_backward_pass() -> None:
    z1, z2 = rows()
    wrapped = sf.graphed(F.nt_xent)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return wrapped(a.tanh(), b)

    for reentrant in (False, True):
        value = checkpoint(loss, z1, z2, use_reentrant=reentrant)
        got = torch.autograd.grad(value, z1)[0] if not reentrant else None
        if reentrant:
            value.backward()
            got = z1.grad
        assert torch.equal(got, torch.autograd.grad(F.nt_xent(z1.tanh(), z2), z1)[0])


def test_autocast_is_part_of_the_kind() -> None:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T).sum()

    a, b = rows()
    wrapped = sf.graphed(loss)
    assert wrapped(a, b).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        got, want = wrapped(a, b), loss(a, b)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_under_the_compiler_it_is_the_loss() -> None:
    torch._dynamo.reset()
    wrapped = sf.graphed(F.nt_xent)
    compiled = torch.compile(lambda a, b: wrapped(a, b), fullgraph=True, backend="aot_eager")
    both(F.nt_xent, compiled, *rows())
    assert wrapped.calls == {}
    torch._dynamo.reset()


def test_copies_and_files_contain_the_loss_alone() -> None:
    wrapped = sf.graphed(sf.NTXentLoss())
    wrapped(*rows())
    for other in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert other.calls == {}
        both(wrapped.loss, other, *rows())


def test_threads_share_a_graph() -> None:
    wrapped, found = sf.graphed(F.nt_xent), {}

    def work(seed: int) -> None:
        for _ in range(20):
            z = rows(seed=seed)
            found.setdefault(seed, []).append(torch.autograd.grad(wrapped(*z), z)[0])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, grads in found.items():
        z = rows(seed=seed)
        want = torch.autograd.grad(F.nt_xent(*z), z)[0]
        assert all(torch.equal(g, want) for g in grads)


def test_on_a_cpu_it_is_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphedLoss, "recorder", CudaRecorder)
    wrapped = sf.graphed(F.nt_xent)
    both(F.nt_xent, wrapped, *rows())
    assert wrapped.calls == {"a CPU tensor among the inputs": 1}
    meta = [x.detach().to("meta") for x in rows()]
    assert wrapped(*meta).device.type == "meta"
    assert "inputs on {'meta'}" in wrapped.calls
