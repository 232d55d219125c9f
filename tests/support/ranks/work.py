"""What the ranks do; see test_equality.py. Every function takes the group first."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .batch import Case, Own, batch
from .cases import CASES


class Net(torch.nn.Module):
    """A small encoder with a loss that has a learnable scale and bias."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, case.d)
        )
        self.log_scale = torch.nn.Parameter(torch.tensor(0.7))
        self.bias = torch.nn.Parameter(torch.tensor(-0.4))
        self.case = case
        self.to(dtype)

    def forward(self, own: Own, **keywords: Any) -> Any:
        z1, z2 = self.encoder(torch.cat([own["x1"], own["x2"]])).chunk(2)
        unused = 0.0 * (self.log_scale + self.bias)  # DDP waits for the gradient of everything
        terms = keywords.pop("return_terms", False)
        if terms and self.case.terms:
            keywords["return_terms"] = True
        out = self.case.call(z1, z2, self.log_scale.exp(), self.bias, own, **keywords)
        if not terms:
            return out + unused
        loss, found = out if self.case.terms else (out, {})
        return loss + unused, found

    def gradients(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.parameters()])


def held_by(group: Any, case: Case, split: tuple[int, ...], dtype: Any = torch.float64) -> Own:
    rank = dist.get_rank(group)
    start = sum(split[:rank])
    return Own(batch(case.d, dtype), slice(start, start + split[rank]), rank, group.size())


def relative(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-300))


def equal_to_one_process(
    group: Any, name: str, splits: list[tuple[int, ...]], reduction: str | None, impl: str
) -> list[dict[str, Any]]:
    """The loss, its terms and the gradients of the parameters under DDP, against one process."""
    case, out = CASES[name], []
    keywords: dict[str, Any] = {} if reduction is None else {"reduction": reduction}
    keywords["return_terms"] = True
    for split in splits:
        own = held_by(group, case, split)
        everything = Own(own.data)
        one = Net(case)
        value, terms = one(everything, impl="torch", **keywords)
        weights = own.data["cotangent"][: max(case.rows, 1)]
        (value if reduction != "none" else (value * weights.flatten()).sum()).backward()

        net = Net(case)
        ddp = DistributedDataParallel(net, process_group=group)
        got, got_terms = ddp(own, impl=impl, group=group, **keywords)
        if reduction == "none":
            value, terms = mine(value, own), {k: mine(v, own) for k, v in terms.items()}
            (group.size() * (got * weights[:, own.rows].flatten()).sum()).backward()
        else:
            got.backward()
        bits = [torch.empty_like(got) for _ in split] if reduction != "none" else []
        if bits:
            dist.all_gather(bits, got.detach(), group=group)
        value, got = value.detach(), got.detach()
        scale = value.abs().max().clamp_min(1.0) if value.numel() else 1.0
        out.append(
            {
                "value": float((got - value).abs().max() / scale) if value.numel() else 0.0,
                "terms": max(
                    (
                        float((got_terms[k] - v).abs().max() / scale) if v.numel() else 0.0
                        for k, v in terms.items()
                    ),
                    default=0.0,
                ),
                "gradient": relative(net.gradients(), one.gradients()),
                "bits": all(torch.equal(b, bits[0]) for b in bits),
                "finite": bool(got.isfinite().all()),
            }
        )
    return out


def mine(x: Tensor, own: Own) -> Tensor:
    """The part of a rank of what one process says of all rows."""
    n = own.data["x1"].shape[0]
    return x.view(-1, n)[:, own.rows].flatten()
