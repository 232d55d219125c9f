"""Block Lanczos with thick restart and full reorthogonalisation: Davidson without a filter."""

from __future__ import annotations

import torch

from ...primitives.basis import lengths
from ..completeness.missed_pairs import MissedPairSearch
from ..linalg.cost import lanczos_block
from ..plan import Plan
from ..problem.probe import Probe
from ..problem.task import Outcome, Task
from ._davidson import Sizes, davidson

__all__ = ["lanczos"]


def lanczos(task: Task, plan: Plan, found: Probe) -> Outcome:
    """In the dtype of the basis. The start has as many random directions as are wanted, or
    multiplicities larger than the block would be missed.
    """
    k, width = task.k, plan.width
    block = lanczos_block(k, task.free)
    start = task.op.random_block(width, task.seed, task.dtype)
    if task.warm is not None:
        small = start * float(lengths(task.warm).mean()) * 1e-3
        start = torch.cat([task.warm.to(task.dtype), small], 1)
    keep = width + max(k // 4, block)
    capacity = keep + max(k, 10 * block)
    steps = max(-(-(capacity - keep) // block), 1)
    outcome = davidson(
        task,
        start,
        None,
        Sizes(block=block, capacity=capacity, keep=keep, krylov_steps=steps),
        MissedPairSearch(task, found.lo, found.hi, task.dtype),
    )
    outcome.facts = {"block": block, "capacity": capacity}
    return outcome
