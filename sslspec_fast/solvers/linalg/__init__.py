"""Dense and sparse linear algebra of the methods, and what it costs."""
