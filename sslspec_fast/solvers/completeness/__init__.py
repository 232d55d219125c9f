"""Whether it is solved: convergence, a search for missed pairs, and counts by inertia."""
