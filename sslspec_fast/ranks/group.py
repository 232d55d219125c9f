"""What a user may pass as ``group=``, as a torch.distributed.ProcessGroup."""

from __future__ import annotations

from typing import Any

import torch

from .._torch_private import constant_when_traced


def process_group(op: str, group: Any) -> Any:
    """The ProcessGroup of a ProcessGroup or of a one-dimensional DeviceMesh.

    Errors: TypeError for anything else, ValueError for a mesh of several dimensions and for a group
    that this process is not a rank of.
    """
    if not torch.distributed.is_available():
        raise RuntimeError(f"{op}: group needs a torch with torch.distributed, this one has none")
    import torch.distributed as dist

    if hasattr(group, "mesh_dim_names") and hasattr(group, "get_group"):  # a DeviceMesh
        if group.ndim != 1:
            raise ValueError(
                f"{op}: group must be a process group or a mesh of 1 dimension, got a mesh of "
                f"{group.ndim}; take one by its name: mesh['dp']"
            )
        group = group.get_group()
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{op}: group must contain this process, got a group that does not")
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"{op}: group must be a torch.distributed.ProcessGroup or a DeviceMesh, "
            f"got {type(group).__name__}"
        )
    if dist.get_rank(group) < 0:
        raise ValueError(
            f"{op}: group must contain this process, got the ranks "
            f"{dist.get_process_group_ranks(group)} on rank {dist.get_rank()}"
        )
    return group


def size_of(op: str, group: Any) -> int:
    """The number of ranks of what a user passed."""
    size: int = process_group(op, group).size()
    return size


def several(op: str, group: Any) -> Any:
    """The ProcessGroup of what a user passed, or None where that is None or has one rank."""
    if group is None:
        return None
    checked = process_group(op, group)
    return checked if checked.size() > 1 else None


def world() -> Any:
    """The group of all processes, or None where torch.distributed was not initialised."""
    dist = torch.distributed
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


@constant_when_traced
def name_and_size(op: str, group: Any) -> tuple[str, int]:
    """The name by which operators know the group, and its size; constants of a compiled graph."""
    checked = process_group(op, group)
    return checked.group_name, checked.size()


def by_name(name: str) -> Any:
    """The ProcessGroup of a name."""
    from torch.distributed import distributed_c10d

    resolve: Any = distributed_c10d._resolve_process_group
    return resolve(name)


def world_of(op: str, rank: int, world_size: int, group: Any) -> Any:
    """The group of a module that is told its rank and the number of ranks, as open_clip's are."""
    if world_size == 1:
        return group
    every = world() if group is None else process_group(op, group)
    if every is None:
        raise ValueError(
            f"{op}: world_size must be 1 before torch.distributed.init_process_group, "
            f"got {world_size}"
        )
    here = torch.distributed.get_rank(every), every.size()
    if here != (rank, world_size):
        raise ValueError(
            f"{op}: rank and world_size must be those of the group, {here[0]} and {here[1]}, "
            f"got {rank} and {world_size}"
        )
    return every


class Held:
    """The group of a module: a copy of the module has the same one, and no file contains it."""

    def __init__(self, op: str, group: Any) -> None:
        self.size = size_of(op, group)
        self.op, self.group = op, group

    def __deepcopy__(self, memo: Any) -> Held:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"{self.op}: a module with a process group cannot be pickled; save its state_dict"
        )
