r"""What people look at while a joint-embedding model trains.

Functions of one batch, and accumulators with ``update``, ``compute`` and ``reset`` for an epoch.
Nothing here needs (n, n) memory. Inputs may be bfloat16 or float16 (computed in float32). Results
carry no gradient, except those of `alignment` and `uniformity`, which are also losses (Wang, Isola,
"Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", ICML 2020, arXiv 2005.10242).

Where the rows are spread over processes, pass their process group or 1-D DeviceMesh as ``group``:
the value is then that of the rows of all ranks, the same bits on every rank. Without it a metric is
that of the rows of this process. Ranks may hold different numbers of rows, 0 included, and an error
on any of them is raised on all.
"""

from .accumulators import Alignment, EffectiveRank, Lidar, NeighborhoodAccuracy, Uniformity
from .batch import alignment, effective_rank, lidar, neighborhood_accuracy, uniformity

__all__ = [
    "Alignment",
    "EffectiveRank",
    "Lidar",
    "NeighborhoodAccuracy",
    "Uniformity",
    "alignment",
    "effective_rank",
    "lidar",
    "neighborhood_accuracy",
    "uniformity",
]
