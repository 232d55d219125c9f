"""Plain-torch references, one file per loss: what ``impl="torch"`` runs.

They import nothing from the package, may form every n x n or d x d matrix, and take a graph as a
dense or sparse matrix. Their only virtue is that a person can check them in a minute.
"""
