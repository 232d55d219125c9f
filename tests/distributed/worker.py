"""One rank: a process that runs the functions that its parent names, over gloo groups.

``python worker.py RANK SIZE STORE SECONDS READ WRITE``; READ and WRITE are the file descriptors of
two pipes. SECONDS: the timeout of the process groups.
"""

import importlib
import sys
import traceback
import types
import warnings
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

MEMBERS = {1: (2,), 2: (1, 3), 3: (0, 2, 3), 4: (0, 1, 2, 3)}  # of four processes


def main() -> None:
    rank, size, store, seconds, read, write = sys.argv[1:]
    rank, size = int(rank), int(size)
    requests, answers = (
        Connection(int(read), writable=False),
        Connection(int(write), readable=False),
    )
    package = types.ModuleType("tests")  # without the source tree on sys.path
    package.__path__ = [str(Path(__file__).resolve().parent.parent)]
    sys.modules["tests"] = package
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=float(seconds)),
    )
    groups = {size: dist.group.WORLD}
    if size == 4:
        for w, members in MEMBERS.items():
            groups[w] = dist.new_group(members) if w != size else dist.group.WORLD
    warnings.filterwarnings("error", module="sslspec_fast")
    answers.send(("ready", None))
    while True:
        try:
            module, name, w, args = requests.recv()
        except EOFError:
            break
        try:
            function = getattr(importlib.import_module(module), name)
            answers.send(("value", function(groups[w], *args)))
        except Exception:
            answers.send(("error", traceback.format_exc()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
