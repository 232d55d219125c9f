"""Whole losses as one operator, where that is faster than a composition of primitives."""
