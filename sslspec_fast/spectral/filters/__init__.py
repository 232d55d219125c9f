"""Optimal spectra of the losses: from eigenvalues of a graph to the spectrum of an embedding."""
