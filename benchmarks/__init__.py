"""Benchmarks against other libraries; the harness itself is ``sslspec_fast.bench``.

Run from the checkout (``python -m benchmarks``). The checkout holds a source folder of the
package's name, in general without the compiled core; it then goes to the end of the path, so that
the installed package is the one that is measured.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
if not any((_ROOT / "sslspec_fast").glob("_C*.so")):
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != _ROOT] + [str(_ROOT)]
