"""Processes that are the ranks of the tests. Starting them costs more than the tests do, so one
pool serves them all; where a rank does not answer, all are killed by their process ids and the pool
restarts.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .worker import MEMBERS

WAIT = 40.0  # seconds for an answer


class Pool:
    """Ranks 0 ... size - 1 over gloo; ``seconds``: the timeout of their groups."""

    def __init__(self, folder: Path, size: int = 4, seconds: float = 10.0) -> None:
        self.folder, self.size, self.seconds = folder, size, seconds
        self._parent: subprocess.Popen[bytes] | None = None
        self._pipes: list[tuple[Connection, Connection]] = []
        self._ids: list[int] = []

    def start(self) -> None:
        theirs: list[int] = []
        for _ in range(self.size):
            (read, ours_write), (ours_read, write) = os.pipe(), os.pipe()
            theirs += [read, write]
            requests = Connection(ours_write, readable=False)
            self._pipes.append((requests, Connection(ours_read, writable=False)))
        store = self.folder / uuid.uuid4().hex
        self._parent = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("worker.py")),
                *map(str, (self.size, store, self.seconds, *theirs)),
            ],
            pass_fds=theirs,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=self.folder,  # from a source folder, they would import that and no installation
        )
        for pipe in theirs:
            os.close(pipe)
        self._ids = self._answers(range(self.size), 2 * WAIT)

    def stop(self) -> None:
        """Ends the ranks: at the end of their requests, or by a signal."""
        for pipe in (end for pipes in self._pipes for end in pipes):
            pipe.close()
        if self._parent is not None:
            try:
                self._parent.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._kill()
        self._parent, self._pipes, self._ids = None, [], []

    def _kill(self) -> None:
        assert self._parent is not None
        for process in self._ids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if not self._ids:  # not even started
            self._parent.kill()
        self._parent.wait()

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        ranks: int | None = None,
        lost: Sequence[int] = (),
    ) -> list[Any]:
        """function(group, *args) on every rank of a group of so many; what they return.

        function: of a module that the ranks can import. An error on any of them is raised here.
        lost: ranks whose process will end, and which give no answer.
        """
        if self._parent is None:
            self.start()
        w = self.size if ranks is None else ranks
        members = MEMBERS[w] if self.size == 4 else range(self.size)
        for rank in members:
            self._pipes[rank][0].send((function.__module__, function.__name__, w, args))
        return self._answers([rank for rank in members if rank not in lost], WAIT)

    def check_errors(
        self, function: Callable[..., str], *args: Any, here: str, elsewhere: str | int
    ) -> None:
        """function returns the error that two ranks have met: patterns of that of rank 1, where
        the cause is, and of that of rank 0; 0 stands for the same one.
        """
        first, second = self.run(function, *args, ranks=2)
        assert re.search(here, second), second
        assert re.search(str(elsewhere or here), first), first

    def _answers(self, members: Sequence[int], wait: float) -> list[Any]:
        end, out, errors = time.monotonic() + wait, [], []
        for rank in members:
            answers = self._pipes[rank][1]
            try:
                if not answers.poll(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"rank {rank} does not answer")
                kind, value = answers.recv()
            except (EOFError, TimeoutError) as error:
                text = str(error) or f"the process of rank {rank} has ended"
                said = [self._pipes[other][1] for other in members if other > rank]
                errors += [str(other.recv()[1]) for other in said if other.poll()]
                self._kill()
                self.stop()
                raise RuntimeError("\n".join([text, *errors])) from None
            out.append(value)
            if kind == "error":
                errors.append(f"rank {rank}:\n{value}")
        if errors:
            raise AssertionError("\n".join(errors))
        return out
