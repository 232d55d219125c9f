"""Matrix-free symmetric operators: what `eigsh` multiplies by.

>>> import torch, sslspec_fast.operators as ops
>>> op = ops.shift(torch.eye(3, dtype=torch.float64), 2.0, 1.0)      # 2 I + 1 I
>>> float((op @ torch.ones(3, dtype=torch.float64))[0])
3.0
"""

from .base import SumOperator, SymmetricOperator
from .composite import (
    CallableOperator,
    DenseOperator,
    LowRankOperator,
    ScaledOperator,
)
from .convert import as_operator, centered, low_rank, shift
from .csr import CsrOperator
from .graph import adjacency, laplacian
from .known import GroupVectors, KnownPairs
from .partitioned import PartitionedOperator, partitioned

__all__ = [
    "CallableOperator",
    "CsrOperator",
    "DenseOperator",
    "GroupVectors",
    "KnownPairs",
    "LowRankOperator",
    "PartitionedOperator",
    "ScaledOperator",
    "SumOperator",
    "SymmetricOperator",
    "adjacency",
    "as_operator",
    "centered",
    "laplacian",
    "low_rank",
    "partitioned",
    "shift",
]
