"""Processes that are the ranks of the tests. Importing torch costs more than the tests do, so one
pool serves them all; a rank that does not answer is killed by its process id and the pool restarts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .worker import MEMBERS

WAIT = 60.0  # seconds for an answer


class Pool:
    """Ranks 0 ... size - 1 over gloo; ``seconds``: the timeout of their groups."""

    def __init__(self, folder: Path, size: int = 4, seconds: float = 20.0) -> None:
        self.folder, self.size, self.seconds = folder, size, seconds
        self._ranks: list[tuple[subprocess.Popen[bytes], Connection, Connection]] = []

    def start(self) -> None:
        store = self.folder / uuid.uuid4().hex
        for rank in range(self.size):
            (theirs_read, ours_write), (ours_read, theirs_write) = os.pipe(), os.pipe()
            arguments = [rank, self.size, store, self.seconds, theirs_read, theirs_write]
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py")), *map(str, arguments)],
                pass_fds=(theirs_read, theirs_write),
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            os.close(theirs_read)
            os.close(theirs_write)
            requests = Connection(ours_write, readable=False)
            self._ranks.append((process, requests, Connection(ours_read, writable=False)))
        self._answers(range(self.size), WAIT)

    def stop(self) -> None:
        for process, requests, answers in self._ranks:
            requests.close()
            answers.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._ranks = []

    def run(self, function: Callable[..., Any], *args: Any, ranks: int | None = None) -> list[Any]:
        """function(group, *args) on every rank of a group of so many; what they return.

        function: of a module that the ranks can import. An error on any of them is raised here.
        """
        if not self._ranks:
            self.start()
        w = self.size if ranks is None else ranks
        members = MEMBERS[w] if self.size == 4 else range(self.size)
        for rank in members:
            self._ranks[rank][1].send((function.__module__, function.__name__, w, args))
        return self._answers(members, WAIT)

    def _answers(self, members: Sequence[int] | range, wait: float) -> list[Any]:
        end, out, errors = time.monotonic() + wait, [], []
        for rank in members:
            process, _, answers = self._ranks[rank]
            try:
                if not answers.poll(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"rank {rank} (process {process.pid}) does not answer")
                kind, value = answers.recv()
            except (EOFError, TimeoutError) as error:
                text = str(error) or f"rank {rank} (process {process.pid}) has ended"
                said = [self._ranks[other][2] for other in members if other > rank]
                errors += [str(other.recv()[1]) for other in said if other.poll()]
                for other, _, _ in self._ranks:
                    other.kill()
                self.stop()
                raise RuntimeError("\n".join([text, *errors])) from None
            out.append(value)
            if kind == "error":
                errors.append(f"rank {rank}:\n{value}")
        if errors:
            raise AssertionError("\n".join(errors))
        return out
