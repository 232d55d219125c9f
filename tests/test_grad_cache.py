"""GradCache: values and gradients of the whole step, with the activations of one chunk."""

from __future__ import annotations

import copy
import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import grad_cache

N, D = 50, 8


def encoder(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(D, 32),
        nn.LayerNorm(32),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(32, 16),
        nn.Dropout(dropout),
    ).to(dtype)


def views(dtype: torch.dtype = torch.float64, n: int = N) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, n, D, dtype=torch.float64).to(dtype)
    return a, b


def in_chunks(module: Callable[..., Tensor], x: Tensor, chunk: int) -> Tensor:
    """What a GradCache computes, with the graph of all chunks."""
    return torch.cat([module(part) for part in x.split(chunk)])


def worst(got: nn.Module, want: nn.Module) -> float:
    """The largest difference of gradients, relative to the largest gradient of a parameter."""
    found = 0.0
    for (name, p), q in zip(got.named_parameters(), want.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            assert p.grad.dtype == q.grad.dtype
            found = max(found, float((p.grad - q.grad).abs().max() / q.grad.abs().max()))
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("chunk", [1, 7, 25, N, 1000])
def test_the_step_is_that_of_the_whole_batch(
    dtype: torch.dtype, tolerance: float, chunk: int
) -> None:
    x1, x2 = views(dtype)
    whole, cut = encoder(dtype=dtype), encoder(dtype=dtype)
    cached = sf.GradCache(cut, chunk)
    want = F.nt_xent(whole(x1), whole(x2), temperature=0.2)
    want.backward()
    got = F.nt_xent(cached(x1), cached(x2), temperature=0.2)
    got.backward()
    torch.testing.assert_close(got, want, rtol=tolerance, atol=0)
    assert worst(cut, whole) < tolerance


def test_one_chunk_of_rows_is_held_at_a_time() -> None:
    """Nothing but inputs and parameters is saved in the call, and no chunk is larger."""
    x, _ = views()
    net, saved, rows = encoder(), [0], []
    net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))

    def pack(tensor: Tensor) -> Tensor:
        saved[0] += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = sf.GradCache(net, 8)(x)
    assert saved[0] == x.numel() + sum(p.numel() for p in net.parameters())
    z.sum().backward()
    assert rows == 2 * [8, 8, 8, 8, 8, 8, 2]


@pytest.mark.parametrize("chunk", [7, N])
def test_dropout_draws_the_same_numbers_again(chunk: int) -> None:
    x1, x2 = views()
    graph, cut = encoder(0.4), encoder(0.4)
    cached = sf.GradCache(cut, chunk)
    torch.manual_seed(5)
    want = F.info_nce(in_chunks(graph, x1, chunk), in_chunks(graph, x2, chunk))
    want.backward()
    torch.manual_seed(5)
    got = F.info_nce(cached(x1), cached(x2))
    before = torch.get_rng_state()
    got.backward()
    assert torch.equal(before, torch.get_rng_state()), "the replay must not move the generator"
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    assert worst(cut, graph) < 1e-12


class Clip(nn.Module):
    """Two towers and a scale, with the call of open_clip's models."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = encoder(), encoder()
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def encode_image(self, image: Tensor) -> Tensor:
        return nn.functional.normalize(self.image(image))

    def encode_text(self, text: Tensor) -> Tensor:
        return nn.functional.normalize(self.text(text))

    def forward(self, image: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        assert text is not None
        return {
            "image_features": self.encode_image(image),
            "text_features": self.encode_text(text),
            "logit_scale": self.log_scale.exp(),
        }


def test_a_model_of_two_towers_that_returns_a_scale() -> None:
    image, text = views()
    whole = Clip()
    cut = copy.deepcopy(whole)
    sf.CLIPLoss()(**whole(image, text=text)).backward()
    found = sf.GradCache(cut, 16)(image, text=text)
    assert found["logit_scale"].shape == ()
    sf.CLIPLoss()(**found).backward()
    assert worst(cut, whole) < 1e-12


def test_towers_one_by_one_by_their_methods() -> None:
    image, text = views()
    whole = Clip()
    cut = copy.deepcopy(whole)
    sf.CLIPLoss()(**whole(image, text=text)).backward()
    towers = [sf.GradCache(cut.encode_image, 9), sf.GradCache(cut.encode_text, 30)]
    sf.CLIPLoss()(towers[0](image), towers[1](text), cut.log_scale.exp()).backward()
    assert worst(cut, whole) < 1e-12
    assert "method='encode_text'" in repr(towers[1])


class Nested(nn.Module):
    """Takes a dict, as tokenizers return it, and passes integers through."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, dtype=torch.float64)

    def forward(self, batch: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        mask = batch["mask"][..., None]
        mean = (self.words(batch["ids"]) * mask).sum(1) / mask.sum(1)
        return {"ids": batch["ids"], "embedding": scale * mean}


def test_nested_arguments_and_integers() -> None:
    batch = {"ids": torch.randint(0, 20, (N, 4)), "mask": torch.ones(N, 4, dtype=torch.int64)}
    batch["mask"][::2, 2:] = 0
    whole = Nested()
    cut = copy.deepcopy(whole)
    found = sf.GradCache(cut, 12)(batch, scale=2.0)
    assert torch.equal(found["ids"], batch["ids"])
    assert not found["ids"].requires_grad
    F.vicreg(found["embedding"], found["embedding"] ** 2).backward()
    want = whole(batch, scale=2.0)["embedding"]
    F.vicreg(want, want**2).backward()
    assert worst(cut, whole) < 1e-12


def test_inputs_get_a_gradient() -> None:
    x = views()[0].requires_grad_()
    net = encoder().requires_grad_(False)
    (want,) = torch.autograd.grad(F.koleo(net(x)), x)
    (got,) = torch.autograd.grad(F.koleo(sf.GradCache(net, 11)(x)), x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_gradients_accumulate_and_frozen_parameters_have_none() -> None:
    x1, x2 = views()
    whole, cut = encoder(), encoder()
    cached = sf.GradCache(cut, 11)
    for net in (whole, cut):
        net[0].requires_grad_(False)
    for scale in (1.0, 3.0):
        (scale * F.nt_xent(whole(x1), whole(x2))).backward()
        (scale * F.nt_xent(cached(x1), cached(x2))).backward()
    assert cut[0].weight.grad is None
    assert worst(cut, whole) < 1e-12
    with torch.no_grad():
        assert not cached(x1).requires_grad


@pytest.mark.parametrize("inside", [True, False])
def test_autocast(inside: bool) -> None:
    """Every product in bfloat16, in the replay too, wherever backward is called."""
    x1, x2 = views(torch.float32)
    exact, graph, cut = (encoder(dtype=torch.float32) for _ in range(3))
    cached = sf.GradCache(cut, 7)
    for net, encode in ((exact, exact), (graph, lambda x: in_chunks(graph, x, 7)), (cut, cached)):
        with torch.autocast("cpu", torch.bfloat16, enabled=net is not exact):
            z1, z2 = encode(x1), encode(x2)
            assert z1.dtype == (torch.float32 if net is exact else torch.bfloat16)
            loss = F.nt_xent(z1, z2) + net(x1).float().square().mean()  # weights are cast again
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
    assert 1e-4 < worst(cut, exact) < 2 * worst(graph, exact)


def test_half_precision_parameters_are_summed_in_float32() -> None:
    x, _ = views(torch.bfloat16)
    exact, graph, cut = (encoder(dtype=torch.bfloat16) for _ in range(3))
    exact.double()
    F.koleo(exact(x.double())).backward()
    F.koleo(in_chunks(graph, x, 1)).backward()
    F.koleo(sf.GradCache(cut, 1)(x)).backward()
    errors = []
    for net in (graph, cut):
        assert net[0].weight.grad.dtype == torch.bfloat16
        errors.append(worst(net.double(), exact))
    assert errors[1] < 0.6 * errors[0]


def test_grad_scaler() -> None:
    x1, x2 = views(torch.float32)
    whole, cut = encoder(dtype=torch.float32), encoder(dtype=torch.float32)
    cached = sf.GradCache(cut, 16)
    for net, encode in ((whole, whole), (cut, cached)):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        scaler.scale(F.nt_xent(encode(x1), encode(x2))).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
    assert worst(cut, whole) < 1e-6
    torch.testing.assert_close(cut[0].weight, whole[0].weight)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = encoder(0.3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()  # the reentrant kind asks for it
        out: Tensor = checkpoint(self.net, x, use_reentrant=self.reentrant)
        return out


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_inside_the_encoder(reentrant: bool) -> None:
    x, _ = views()
    graph, cut = Checkpointed(reentrant), Checkpointed(reentrant)
    for encode in (lambda x: in_chunks(graph.net, x, 13), sf.GradCache(cut, 13)):
        torch.manual_seed(3)
        F.koleo(encode(x)).backward()
    assert worst(cut, graph) < 1e-12


def test_batch_norm_is_refused_or_that_of_a_chunk() -> None:
    x, _ = views()
    graph = nn.Sequential(encoder(), nn.BatchNorm1d(16, dtype=torch.float64))
    cut = copy.deepcopy(graph)
    with pytest.raises(ValueError, match=r"batch_norm must be 'chunk'.*BatchNorm1d '1'"):
        sf.GradCache(cut, 10)(x)
    F.koleo(in_chunks(graph, x, 10)).backward()
    F.koleo(sf.GradCache(cut, 10, batch_norm="chunk")(x)).backward()
    assert worst(cut, graph) < 1e-12
    for name, buffer in cut.named_buffers():
        torch.testing.assert_close(buffer, dict(graph.named_buffers())[name], rtol=0, atol=0)
    cut.eval()
    sf.GradCache(cut, 10)(x)


def test_hooks_of_parameters_get_the_whole_gradient_once() -> None:
    x1, x2 = views()
    whole, cut = encoder(), encoder()
    calls: list[int] = []
    for net in (whole, cut):
        net[0].weight.register_hook(lambda g: calls.append(1) or g.clamp(-1e-3, 1e-3))
    F.nt_xent(whole(x1), whole(x2)).backward()
    cached = sf.GradCache(cut, 9)
    z = cached(torch.cat([x1, x2]))
    F.nt_xent(z[:N], z[N:]).backward()
    assert len(calls) == 2
    assert worst(cut, whole) < 1e-12


def test_what_changes_between_call_and_backward_is_an_error() -> None:
    x, _ = views()
    net = encoder()
    loss = F.koleo(sf.GradCache(net, 9)(x))
    with torch.no_grad():
        net[0].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused() -> None:
    net = encoder()
    z = sf.GradCache(net, 9)(views()[0])
    (grad,) = torch.autograd.grad(z.square().sum(), net[0].weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


class Wrong(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.net = kind, nn.Linear(D, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Any:
        return {
            "mean": self.net(x).mean(0),
            "text": "cat",
            "of the chunk": self.net(x).mean(),
        }[self.kind]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda x: sf.GradCache(lambda y: y, 4), TypeError, "encoder must be a Module or a method"),
        (lambda x: sf.GradCache(encoder(), 0), ValueError, "chunk_size must be at least 1, got 0"),
        (lambda x: sf.GradCache(encoder(), 2.0), TypeError, "chunk_size must be an integer"),
        (
            lambda x: sf.GradCache(encoder(), 4, batch_norm="sync"),
            ValueError,
            "batch_norm must be one of 'refuse', 'chunk', got 'sync'",
        ),
        (lambda x: sf.GradCache(encoder(), 4)("a"), TypeError, "a tensor among its arguments"),
        (
            lambda x: sf.GradCache(Clip(), 4)(x, text=x[:3]),
            ValueError,
            r"rows of the batch first, got shapes \(50, 8\) and \(3, 8\)",
        ),
        (
            lambda x: sf.GradCache(Wrong("mean"), 4)(x),
            ValueError,
            r"one row for each of the 4 rows of a chunk, got shape \(2,\)",
        ),
        (lambda x: sf.GradCache(Wrong("text"), 4)(x), TypeError, "must return tensors, got str"),
        (
            lambda x: sf.GradCache(Wrong("of the chunk"), 4)(x),
            ValueError,
            "a 0-dim output must be the same for all chunks, got ",
        ),
    ],
)
def test_errors(make: Callable[[Tensor], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"GradCache: .*{match}"):
        make(views()[0])


def test_example() -> None:
    result = doctest.testmod(grad_cache)
    assert result.attempted > 0
    assert result.failed == 0
