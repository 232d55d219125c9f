"""CUDA graphs of one device: what can be recorded, recording, and the order of streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["CudaRecorder"]


class CudaRecorder:
    """Records the launches of functions into graphs that share one pool of memory.

    A graph reads and writes the memory of its first run, so that one replay must be over before
    the next begins: `ordered` makes the current stream wait for the one of the last use.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.side = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.last: torch.cuda.Stream | None = None

    @staticmethod
    def refusal(tensors: Sequence[Tensor]) -> str | None:
        """Why a call with these tensors cannot be replayed, or None."""
        devices = {x.device for x in tensors}
        kinds = {device.type for device in devices}
        if kinds != {"cuda"}:
            return "a CPU tensor among the inputs" if "cpu" in kinds else f"inputs on {kinds}"
        if len(devices) > 1:
            return "inputs on several GPUs"
        return "inside another capture" if torch.cuda.is_current_stream_capturing() else None

    @staticmethod
    def random_state(device: torch.device) -> Tensor:
        """Of the generator of the device; it lives on the host."""
        return torch.cuda.get_rng_state(device)

    @staticmethod
    def set_random_state(device: torch.device, state: Tensor) -> None:
        torch.cuda.set_rng_state(state, device)

    def warm_up(self, run: Callable[[], None]) -> None:
        """Run away from the current stream, as torch asks for before a capture."""
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self.side.wait_stream(current)
            with torch.cuda.stream(self.side):
                run()
            current.wait_stream(self.side)

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture `run`; the result replays it on the current stream.

        Other threads, such as those of a data loader, may use the GPU meanwhile.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(
                    graph, pool=self.pool, stream=self.side, capture_error_mode="thread_local"
                ):
                    run()
            finally:  # torch leaves the stream of a failed capture behind
                torch.cuda.set_stream(current)
        return graph.replay

    def ordered(self) -> None:
        """Before each use of the static memory."""
        current = torch.cuda.current_stream(self.device)
        if self.last is not None and self.last != current:
            current.wait_stream(self.last)
        self.last = current
