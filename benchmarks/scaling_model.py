"""What losses over ranks should take on nodes of eight H100, from bytes and operations alone.

    python -m benchmarks.distributed --model

A model, not a measurement: the operations of docs/distributed.md over a speed, the bytes over a
bandwidth, and a latency for each collective. Nothing overlaps in it; where communication hides
behind products, the longer of the two numbers is the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SPEED = 400e12  # operations per second of the bf16 kernels: CLIP 32768x512, results/h200.md
IN_NODE, OVER_NODES = 360e9, 200e9  # bytes per second and GPU of NCCL's all-gather
RING = 46e9  # of a flat ring over nodes, whose slowest hop has one network card
LATENCY = {"node": 40e-6, "nodes": 120e-6, "hop": 25e-6}  # seconds of a collective, of a hop
NODE = 8  # GPUs

ASSUMPTIONS = (
    f"Products of bfloat16 rows at {SPEED / 1e12:.0f} TFLOP/s with all that is around them; rows"
    " travel in bfloat16, their gradients in float32.\n"
    f"All-gather and reduce-scatter: {IN_NODE / 1e9:.0f} GB/s a GPU in a node of {NODE} (NVLink),"
    f" {OVER_NODES / 1e9:.0f} GB/s over nodes (eight 400 Gb/s cards each);\n"
    f"{1e6 * LATENCY['node']:.0f} and {1e6 * LATENCY['nodes']:.0f} us a collective. A flat ring"
    f" over nodes: {RING / 1e9:.0f} GB/s and {1e6 * LATENCY['hop']:.0f} us a hop."
)


@dataclass(frozen=True)
class Cost:
    """Of N samples, d columns and W ranks: operations of a rank, bytes that it sends up to the
    factor 1 - 1 / W, and large collectives.
    """

    operations: Callable[[float, float, int], float]
    sent: Callable[[float, float], float]
    collectives: int


CROPS, PROTOTYPES = 10, 65536  # of DINO; two of the crops are the teacher's

COSTS = {
    "NT-Xent": Cost(lambda n, d, w: 6 * (2 * n) ** 2 * d / w, lambda n, d: 2 * n * (2 * d + 8), 2),
    "CLIP": Cost(lambda n, d, w: 8 * n * n * d / w, lambda n, d: 6 * n * d + 12 * n, 4),
    "SigLIP": Cost(lambda n, d, w: 8 * n * n * d / w, lambda n, d: 6 * n * d, 2),
    "VICReg, rows": Cost(lambda n, d, w: 8 * n * n * d / w, lambda n, d: 4 * n * d, 1),
    "VICReg, columns": Cost(lambda n, d, w: 6 * n * d * d / w, lambda n, d: 8 * d * d, 1),
    f"DINO, {PROTOTYPES} prototypes": Cost(
        lambda n, d, w: 6 * (CROPS + 2) * n * PROTOTYPES * d / w,
        lambda n, d: 8 * PROTOTYPES * d,
        1,
    ),
    "X-CLR, targets of 512 columns": Cost(
        lambda n, d, w: 6 * n * n * (d + 512) / w, lambda n, d: 8 * n * d + 4 * n * 512, 3
    ),
}


def seconds(cost: Cost, n: float, d: float, ranks: int) -> tuple[float, float]:
    """Of products, and of communication that nothing hides."""
    computing = cost.operations(n, d, ranks) / SPEED
    if ranks == 1:
        return computing, 0.0
    bandwidth, place = (IN_NODE, "node") if ranks <= NODE else (OVER_NODES, "nodes")
    sent = cost.sent(n, d) * (1 - 1 / ranks)
    return computing, sent / bandwidth + cost.collectives * LATENCY[place]


def ring_seconds(n: float, d: float, ranks: int) -> float:
    """CLIP by a flat ring: rows twice in bfloat16, gradients in float32."""
    return 8 * n * d * (1 - 1 / ranks) / RING + 2 * ranks * LATENCY["hop"]


def hidden_from(cost: Cost, d: float, bandwidth: float) -> float:
    """Samples a rank from which communication takes no longer than products, latencies aside."""
    n = 2.0**20
    return cost.sent(n, d) / bandwidth / (cost.operations(n, d, 1) / SPEED / n)


def _ms(t: float) -> str:
    return f"{1e3 * t:.2g}" if t < 0.1 else f"{1e3 * t:.0f}"


def strong() -> list[str]:
    """CLIP at one global batch on one node and on eight."""
    lines = [
        "| pairs | columns | 8 GPUs: products | communication | 64 GPUs: products | communication"
        " | a flat ring | rows and gradients held, GiB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    cost = COSTS["CLIP"]
    for n in (32768, 131072, 1048576):
        for d in (512, 1024, 8192):
            numbers = [*seconds(cost, n, d, 8), *seconds(cost, n, d, 64), ring_seconds(n, d, 64)]
            row = " | ".join(_ms(t) for t in numbers)
            lines.append(f"| {n} | {d} | {row} | {6 * n * d / 2**30:.2g} |")
    return lines


def weak(rows: int = 2048, d: int = 1024) -> list[str]:
    """So many samples on every rank."""
    sizes = (1, 8, 64, 256)
    gpus = " | ".join(f"{w} GPU{'s' * (w > 1)}" for w in sizes)
    lines = [
        f"| loss | {gpus} | hides in a node from | over nodes from |",
        "|---|" + "--:|" * (len(sizes) + 2),
    ]
    for name, cost in COSTS.items():
        parts = [seconds(cost, rows * w, d, w) for w in sizes]
        cells = [_ms(a) if b == 0 else f"{_ms(a)} + {_ms(b)}" for a, b in parts]
        pairwise = cost.operations(2.0, d, 1) > 2.5 * cost.operations(1.0, d, 1)
        hides = [
            f"{hidden_from(cost, d, b):.0f} rows" if pairwise else "–"
            for b in (IN_NODE, OVER_NODES)
        ]
        lines.append(f"| {name} | {' | '.join([*cells, *hides])} |")
    return lines


def table() -> str:
    return "\n".join(
        [
            ASSUMPTIONS,
            "",
            "CLIP at one global batch, milliseconds:",
            "",
            *strong(),
            "",
            "Weak scaling, 2048 samples of 1024 columns on every GPU: milliseconds of products +"
            " communication,",
            "and the samples a GPU from which communication takes no longer than products:",
            "",
            *weak(),
        ]
    )
