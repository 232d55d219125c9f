"""A stand-in for what records launches on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["AgainRecorder"]


class AgainRecorder:
    """Takes CPU tensors, and replays by running again."""

    recorded = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @staticmethod
    def refusal(tensors: Sequence[Tensor]) -> str | None:
        return None

    @staticmethod
    def random_state(device: torch.device) -> Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_random_state(device: torch.device, state: Tensor) -> None:
        torch.set_rng_state(state)

    def warm_up(self, run: Callable[[], None]) -> None:
        run()

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        type(self).recorded += 1
        run()
        return run

    def ordered(self) -> None:
        pass
