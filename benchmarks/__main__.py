"""``python -m benchmarks``: the package's benchmark with every installed peer added by name.

``python -m benchmarks gpu --out DIR`` checks and measures the CUDA part instead.
"""

from __future__ import annotations

import sys


def main() -> int:
    if sys.argv[1:2] == ["gpu"]:
        from benchmarks.gpu import main as gpu  # imports nothing that a broken build could break

        return gpu(sys.argv[2:])
    from benchmarks import peers
    from sslspec_fast.bench import main as bench

    print(peers.describe())
    return bench(sys.argv[1:], peers="benchmarks.peers")


if __name__ == "__main__":
    sys.exit(main())
