"""Products of a sparse matrix with dense rows, and sums over its entries."""
