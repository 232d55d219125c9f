"""One training step from images to updated weights, with our loss and with others, by turns.

The encoder is a ResNet-50 in plain torch, channels last, under bfloat16 autocast; the projector has
three layers of 8192 with batch norm, the last one 128 wide for NT-Xent; the optimiser is SGD with
momentum. All forms share one model, so that only the loss differs; ``no loss`` takes the mean of
the embeddings instead, and shows what a step costs anyhow. The images are small, so that the
activations of 2 x 2048 of them (about 32 GB) leave room on an 80 GB GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from sslspec_fast.bench import cases
from sslspec_fast.bench.case import Case
from sslspec_fast.bench.measure import Variant, by_turns
from sslspec_fast.bench.memory import MIB

from .peers import PEERS

FORMS = ("fused", "compiled", "eager", "lightly", "no loss")  # in the order of what matters most


@dataclass(frozen=True)
class Size:
    batch: int = 2048
    image: int = 96
    width: int = 64  # of the first stage
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    projector: int = 8192
    embedding: int = 128  # of NT-Xent


def all_cases(size: Size) -> list[Case]:
    """The losses at the shapes of their embeddings."""
    return [
        cases.vicreg(size.batch, size.projector),
        cases.barlow(size.batch, size.projector),
        cases.nt_xent(2 * size.batch, size.embedding),
    ]


FAMILIES = tuple(case.family for case in all_cases(Size()))


def _convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside))


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = 4 * width
        self.branch = nn.Sequential(
            _convolution(inside, width, 1),
            nn.ReLU(inplace=True),
            _convolution(width, width, 3, stride),
            nn.ReLU(inplace=True),
            _convolution(width, outside, 1),
        )
        same = inside == outside and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return nnf.relu(self.branch(x) + self.shortcut(x), inplace=True)


def encoder(size: Size) -> nn.Sequential:
    """ResNet-50 (He et al. 2016, arXiv 1512.03385) without its classifier: images to features."""
    layers: list[nn.Module] = [_convolution(3, size.width, 7, 2), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inside = size.width
    for stage, blocks in enumerate(size.blocks):
        width = size.width << stage
        for block in range(blocks):
            layers.append(Bottleneck(inside, width, 2 if stage and not block else 1))
            inside = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def projector(inside: int, width: int, outside: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (inside, width):
        layers.append(nn.Linear(before, width, bias=False))
        layers += [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(width, outside, bias=False))


class Training:
    """A model, its optimiser and one batch of two views; every call of `step` is a whole step."""

    def __init__(
        self,
        size: Size,
        outside: int,
        device: str,
        dtype: torch.dtype = torch.float32,
        autocast: bool = True,
    ) -> None:
        torch.manual_seed(0)
        features = (4 * size.width) << (len(size.blocks) - 1)
        # Any: the stub of Module.to does not know memory_format
        model: Any = nn.Sequential(encoder(size), projector(features, size.projector, outside))
        self.model = model.to(device, dtype, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        signal, noise1, noise2 = torch.randn(3, size.batch, 3, size.image, size.image)
        views = torch.cat([signal + 0.5 * noise1, signal + 0.5 * noise2])
        self.views = views.to(device, dtype).to(memory_format=torch.channels_last)
        self.device, self.autocast = device, autocast

    def step(self, loss: Variant) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            value = loss(*self.model(self.views).chunk(2))
        value.backward()
        self.optimizer.step()
        return value.detach()


def _widened(loss: Variant) -> Variant:
    """Embeddings in float32, so that under autocast only the products are bfloat16, as in ours."""
    return lambda a, b: loss(a.float(), b.float())


def form(case: Case, name: str) -> Variant:
    """Ours takes the embeddings as they come out of the projector; see `FORMS`."""
    if name == "fused":
        return case.variants["fused"]
    if name == "no loss":
        return lambda a, b: a.mean() + b.mean()
    if name == "lightly":
        return _widened(PEERS["lightly"](case)["lightly"])
    plain = _widened(case.variants["eager"])
    return torch.compile(plain) if name == "compiled" else plain


def measure(
    family: str,
    seconds: float,
    device: str = "cuda",
    size: Size | None = None,
    names: Iterable[str] = FORMS,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Times and peak memory of a step with each form; reports what is known after every change."""
    if size is None:  # a smaller GPU takes fewer images
        large = torch.cuda.get_device_properties(0).total_memory > 60 << 30
        size = Size() if large else Size(batch=512)
    report = report or partial(print, flush=True)
    (case,) = (case for case in all_cases(size) if case.family == family)
    training = Training(size, case.width, device)
    result: dict[str, Any] = {
        "case": f"{family}, 2 x {size.batch} images of {size.image}x{size.image}",
        "milliseconds": {},
        "peak MiB": {},
        "missing": {},
    }
    steps: dict[str, Callable[[], Tensor]] = {}
    for name in names:
        try:
            step = partial(training.step, form(case, name))
            step()  # compiles, and tunes what libraries tune
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            first = by_turns({name: step}, device, seconds=0.0, least=1)
        except Exception as error:  # a form may lack a package, a compiler or the memory
            if name == "fused":
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            result["missing"][name] = lines[0][:100]
            continue
        steps[name] = step
        result["milliseconds"][name] = 1e3 * first[name].p50
        if device == "cuda":
            result["peak MiB"][name] = torch.cuda.max_memory_allocated() / MIB
        report(json.dumps(result))
    for name, timing in by_turns(steps, device, seconds=seconds, least=3).items():
        result["milliseconds"][name] = 1e3 * timing.p50
        result.setdefault("p20 - p80", {})[name] = [1e3 * timing.p20, 1e3 * timing.p80]
    report(json.dumps(result))
    return result
