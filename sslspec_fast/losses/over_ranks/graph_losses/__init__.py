"""The losses of rows that a graph relates, over ranks."""
