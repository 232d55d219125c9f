"""Every test starts from the same random numbers, whatever ran before it in the same process."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - scikit-learn's own checks draw from it
