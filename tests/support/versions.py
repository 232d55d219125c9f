"""What the lowest supported torch cannot do, for the tests that ask for it."""

from __future__ import annotations

import pytest
import torch

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

# Dynamo refuses ("Unsupported"), and no value is wrong.
traces_graphs = pytest.mark.skipif(
    TORCH < (2, 5), reason="torch 2.4 does not trace through objects as arguments or attributes"
)
knows_plain_tensors = pytest.mark.skipif(
    TORCH < (2, 7), reason="before torch 2.7 every call goes through the dispatcher"
)
