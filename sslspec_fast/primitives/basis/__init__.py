"""Blocks of eigenvector candidates: memory, products and projections."""

from .blocks import (
    column_norms,
    gram,
    lengths,
    multiply,
    multiply_into,
    new_block,
    new_blocks,
    project_out,
    random_block,
)

__all__ = [
    "column_norms",
    "gram",
    "lengths",
    "multiply",
    "multiply_into",
    "new_block",
    "new_blocks",
    "project_out",
    "random_block",
]
