"""Nearest neighbours of rows, and the graph that joins them."""
