"""The library inside others' training loops. Each module needs the package that it is named after,
and is imported by itself: ``from sslspec_fast.integrations import torchmetrics``.
"""
