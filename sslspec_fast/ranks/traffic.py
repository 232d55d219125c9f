"""The collectives of torch.distributed that everything else here is made of, and their bytes.

Their names differ between torch 2.4 and 2.14, and a tensor on a GPU whose group has only gloo is
sent through the host.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

_SENT = {"bytes": 0}


def bytes_sent() -> int:
    """Bytes that this process has passed to other ranks through this module since it started."""
    return _SENT["bytes"]


@cache
def _pause_at_exit() -> None:
    """Before Python exits, releases its global lock for a moment, once a process.

    A thread of gloo destroys the tensors of a collective after `wait` has returned, and needs the
    lock for it. A thread that gets the lock only when Python has begun to exit aborts the process.
    """
    atexit.register(time.sleep, 0.05)


class Pending:
    """A collective under way: `wait` returns its result on the device of its input."""

    def __init__(self, out: Tensor, work: Any, device: torch.device) -> None:
        self._out, self._work, self._device = out, work, device
        if out.device.type == "cpu":
            _pause_at_exit()

    def wait(self) -> Tensor:
        if self._work is not None:
            self._work.wait()
        return self._out if self._out.device == self._device else self._out.to(self._device)


def _has_backend(group: Any, device: torch.device) -> bool:
    """Whether the group takes tensors of that device. gloo accepts GPU tensors in some collectives
    only, so it counts as a backend of the CPU alone.
    """
    try:
        name = group._get_backend(device).name().lower()
    except RuntimeError:
        return False
    return device.type == "cpu" or name != "gloo"


def host_device(group: Any) -> torch.device:
    """Where small host data travels: the CPU where the group has a backend for it."""
    cpu = torch.device("cpu")
    if _has_backend(group, cpu):
        return cpu
    return torch.device("cuda", torch.cuda.current_device())


def _staged(x: Tensor, group: Any) -> Tensor:
    """x, contiguous and without a gradient, on a device that the group can send from."""
    x = x.detach().contiguous()
    return x if _has_backend(group, x.device) else x.to(host_device(group))


def start_all_gather(x: Tensor, group: Any) -> Pending:
    """(W, *x.shape) in rank order; x has the same shape on every rank."""
    import torch.distributed as dist

    sent = _staged(x, group)
    out = sent.new_empty(group.size(), *sent.shape)
    if sent.numel() == 0:
        return Pending(out, None, x.device)
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    work = gather(out.view(-1), sent.view(-1), group=group, async_op=True)
    _SENT["bytes"] += sent.numel() * sent.element_size() * (group.size() - 1)
    return Pending(out, work, x.device)


def all_gather(x: Tensor, group: Any) -> Tensor:
    """(W, *x.shape) in rank order; x has the same shape on every rank."""
    return start_all_gather(x, group).wait()


def start_all_to_all(x: Tensor, send: Sequence[int], receive: Sequence[int], group: Any) -> Pending:
    """The rows of x in parts of `send` rows, one part for each rank; (sum of receive, ...)."""
    import torch.distributed as dist

    sent = _staged(x, group)
    width = sent.shape[1:].numel()
    out = sent.new_empty(sum(receive), *sent.shape[1:])
    work = dist.all_to_all_single(
        out.view(-1),
        sent.view(-1),
        [width * rows for rows in receive],
        [width * rows for rows in send],
        group=group,
        async_op=True,
    )
    kept = send[torch.distributed.get_rank(group)]
    _SENT["bytes"] += (sent.shape[0] - kept) * width * sent.element_size()
    return Pending(out, work, x.device)


def all_to_all(x: Tensor, send: Sequence[int], receive: Sequence[int], group: Any) -> Tensor:
    """The rows of x in parts of `send` rows, one part for each rank; (sum of receive, ...)."""
    return start_all_to_all(x, send, receive, group).wait()


def all_reduce(x: Tensor, group: Any) -> Tensor:
    """The sum of x over ranks, in the order of the backend, with the same bits on every rank."""
    import torch.distributed as dist

    out = _staged(x, group).clone()
    work = dist.all_reduce(out, group=group, async_op=True)
    size = group.size()
    _SENT["bytes"] += 2 * out.numel() * out.element_size() * (size - 1) // size
    return Pending(out, work, x.device).wait()


def broadcast(x: Tensor, group: Any) -> Tensor:
    """x of the first rank of the group; of the same shape on every rank."""
    import torch.distributed as dist

    out = _staged(x, group).clone()
    if out.numel() == 0:
        return Pending(out, None, x.device).wait()
    work = dist.broadcast(out, dist.get_global_rank(group, 0), group=group, async_op=True)
    if dist.get_rank(group) == 0:
        _SENT["bytes"] += out.numel() * out.element_size() * (group.size() - 1)
    return Pending(out, work, x.device).wait()
