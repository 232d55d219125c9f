"""Benchmark cases that need peers or data beyond what the package itself ships."""
