"""A fresh Python interpreter that imports the package these tests import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def fresh_python(folder: Path, *arguments: str, **environment: str) -> str:
    """What ``python *arguments`` prints when it runs in ``folder``; an error of it fails the test.

    ``-c`` and ``-m`` put the current folder first in ``sys.path``. In a checkout that folder holds
    the package without its compiled core: hence ``folder``, which is a temporary one.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    run = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=folder,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout.strip()
