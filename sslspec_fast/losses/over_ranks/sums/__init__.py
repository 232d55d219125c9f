"""Sums over all pairs of rows or over a matrix of columns, and the gradients of them."""
