"""One pass over the rows or the columns of a matrix: unit rows and column moments."""
