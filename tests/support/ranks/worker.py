"""Ranks: processes that run the functions that their parent names, over gloo groups.

``python worker.py SIZE STORE SECONDS READ WRITE READ WRITE ...``: the file descriptors of two pipes
for each rank. SECONDS: the timeout of the process groups. What the ranks import is imported once,
before they are forked.
"""

import importlib
import os
import sys
import traceback
import types
import warnings
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

import sslspec_fast  # noqa: F401

MEMBERS = {1: (2,), 2: (1, 3), 3: (0, 2, 3), 4: (0, 1, 2, 3)}  # of four processes


def main() -> None:
    size, store, seconds, *pipes = sys.argv[1:]
    children = []
    for rank in range(int(size)):
        child = os.fork()
        if child == 0:
            ends = [int(pipe) for pipe in pipes]
            mine = ends[2 * rank : 2 * rank + 2]
            for other in set(ends) - set(mine):
                os.close(other)
            serve(rank, int(size), store, timedelta(seconds=float(seconds)), *mine)
            os._exit(0)  # nothing waits for the other ranks
        children.append(child)
    for pipe in pipes:
        os.close(int(pipe))
    for child in children:
        os.waitpid(child, 0)


def serve(rank: int, size: int, store: str, timeout: timedelta, read: int, write: int) -> None:
    requests, answers = Connection(read, writable=False), Connection(write, readable=False)
    package = types.ModuleType("tests")  # without the source tree on sys.path
    package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["tests"] = package
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timeout
    )
    groups = {size: dist.group.WORLD}
    if size == 4:
        for w, members in MEMBERS.items():
            if w != size:
                groups[w] = dist.new_group(members, timeout=timeout)
    warnings.filterwarnings("error", module="sslspec_fast")
    answers.send(("ready", os.getpid()))
    while True:
        try:
            module, name, w, args = requests.recv()
        except EOFError:
            return
        try:
            function = getattr(importlib.import_module(module), name)
            answers.send(("value", function(groups[w], *args)))
        except Exception:
            answers.send(("error", traceback.format_exc()))


if __name__ == "__main__":
    main()
