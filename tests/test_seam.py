"""Memory that is handed to the core: sizes around the limit from which huge pages are asked for."""

import pytest
import torch

from sslspec_fast._seam import empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0,), (), (3, 5), (2048, 1024), (2100, 1031)])
def test_empty(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    like = torch.ones(2, dtype=torch.bfloat16)
    for _ in range(2):  # new memory, then memory that was used before
        out = empty(like, shape, dtype)
        assert out.shape == shape
        assert out.dtype == dtype
        assert out.is_contiguous()
        out.fill_(float("nan"))
        assert out.isnan().all()
