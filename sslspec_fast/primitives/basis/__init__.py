"""Blocks of eigenvector candidates: memory, products and projections."""

from .blocks import (
    gram,
    multiply,
    multiply_into,
    new_block,
    new_blocks,
    project_out,
    random_block,
)

__all__ = [
    "gram",
    "multiply",
    "multiply_into",
    "new_block",
    "new_blocks",
    "project_out",
    "random_block",
]
