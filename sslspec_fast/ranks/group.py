"""What a user may pass as ``group=``, as a torch.distributed.ProcessGroup."""

from __future__ import annotations

from typing import Any

import torch


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


def world() -> Any:
    """The group of all processes, or None where torch.distributed was not initialised."""
    dist = torch.distributed
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


@torch.compiler.assume_constant_result
def name_and_size(op: str, group: Any) -> tuple[str, int]:
    """The name by which operators know the group, and its size; constants of a compiled graph."""
    checked = process_group(op, group)
    return checked.group_name, checked.size()


def by_name(name: str) -> Any:
    """The ProcessGroup of a name."""
    from torch.distributed import distributed_c10d

    resolve: Any = distributed_c10d._resolve_process_group
    return resolve(name)
