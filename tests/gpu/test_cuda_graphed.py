"""`sf.graphed` on a GPU: real captures, against the loss itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F

pytestmark = pytest.mark.cuda

PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": F.nt_xent,
    "info_nce": F.info_nce,
    "dcl": F.dcl,
    "clip": lambda a, b: F.clip(a, b, 20.0),
    "siglip": lambda a, b: F.siglip(a, b, 10.0, -10.0),
    "vicreg": F.vicreg,
    "barlow_twins": F.barlow_twins,
    "spectral_contrastive": lambda a, b: F.spectral_contrastive(a, b, mu=4.0),
    "module": sf.NTXentLoss(temperature=0.2),
}


def rows(seed: int, device: torch.device, d: int = 64, n: int = 300) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    views = nnf.normalize(torch.randn(2, n, d, generator=generator), dim=2)
    return [x.to(device, torch.bfloat16).requires_grad_() for x in views]


def results(loss: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("d", [64, 320])
@pytest.mark.parametrize("name", PAIRS)
def test_replays_have_the_bits_of_the_loss(name: str, d: int, cuda: torch.device) -> None:
    wrapped = sf.graphed(PAIRS[name])
    for seed in range(3):
        z = rows(seed, cuda, d)
        assert_equal(results(wrapped, z), results(PAIRS[name], z))
    assert wrapped.calls == {"replayed": 3}


def test_a_scale_is_an_input(cuda: torch.device) -> None:
    wrapped = sf.graphed(F.clip)
    for scale in (5.0, 50.0):
        leaves = [*rows(0, cuda), torch.tensor(scale, device=cuda, requires_grad=True)]
        assert_equal(results(wrapped, leaves), results(F.clip, leaves))
    assert wrapped.calls == {"replayed": 2}
    on_host = [*rows(0, cuda), torch.tensor(5.0)]
    assert torch.equal(wrapped(*on_host), F.clip(*on_host))
    assert wrapped.calls["a CPU tensor among the inputs"] == 1


def test_calls_before_a_backward_pass_and_accumulation(cuda: torch.device) -> None:
    found = []
    for loss in (F.nt_xent, sf.graphed(F.nt_xent)):
        a, b = rows(1, cuda), rows(2, cuda)
        for _ in range(2):
            (loss(*a) + 3 * loss(*b)).backward()
        found.append([x.grad for x in (*a, *b)])
    assert_equal(*found)


def test_inside_a_graph_of_the_caller(cuda: torch.device) -> None:
    wrapped, static = sf.graphed(F.nt_xent), rows(1, cuda)
    side = torch.cuda.Stream(cuda)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            results(wrapped, static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(wrapped, static)
    assert wrapped.calls == {"replayed": 2, "inside another capture": 1}
    other = rows(2, cuda)
    with torch.no_grad():
        for x, y in zip(static, other, strict=True):
            x.copy_(y)
    graph.replay()
    torch.cuda.synchronize()
    assert_equal(captured, results(F.nt_xent, other))


def test_streams_follow_each_other(cuda: torch.device) -> None:
    wrapped, z = sf.graphed(F.nt_xent), rows(1, cuda, n=2000)
    want = results(F.nt_xent, z)
    results(wrapped, z)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(cuda) for _ in range(4)]
    found = []
    for stream in streams * 5:
        with torch.cuda.stream(stream):
            found.append(results(wrapped, z))
    torch.cuda.synchronize()
    for got in found:
        assert_equal(got, want)


def test_a_queue_and_random_numbers_run_eagerly(cuda: torch.device) -> None:
    z = rows(1, cuda, n=20)
    bank = sf.graphed(sf.NTXentLoss(memory_bank_size=(64, 64)).to(cuda))
    drawn = sf.graphed(lambda a, b: F.nt_xent(a + torch.randn_like(a), b))
    for wrapped in (bank, drawn):
        for _ in range(2):
            assert wrapped(*z).isfinite()
        assert "replayed" not in wrapped.calls


def test_a_result_that_the_host_reads_runs_eagerly(cuda: torch.device) -> None:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        value = F.nt_xent(a, b)
        return value if float(value) > 0 else 2 * value

    wrapped, z = sf.graphed(loss), rows(1, cuda)
    with pytest.warns(RuntimeWarning, match="runs eagerly, no capture"):
        first = results(wrapped, z)
    assert_equal(first, results(loss, z))
    assert_equal(results(wrapped, z), first)
    assert_equal(results(sf.graphed(F.nt_xent), z), first)  # and other captures still work


def test_memory_is_returned(cuda: torch.device) -> None:
    wrapped = sf.graphed(F.nt_xent)
    results(wrapped, rows(1, cuda))
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    for seed in range(20):
        results(wrapped, rows(seed, cuda))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= held
    wrapped.reset()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() < held


def test_a_thread_of_a_data_loader_does_not_disturb_a_capture(cuda: torch.device) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(4000, 128))
    loader = torch.utils.data.DataLoader(data, batch_size=200, pin_memory=True)
    wrapped = sf.graphed(F.nt_xent)
    for i, (x,) in enumerate(loader):
        z = [x[:, :64].to(cuda, non_blocking=True), x[:, 64:].to(cuda, non_blocking=True)]
        n = 100 + 20 * (i % 5)
        leaves = [v[:n].detach().requires_grad_() for v in z]
        assert_equal(results(wrapped, leaves), results(F.nt_xent, leaves))
