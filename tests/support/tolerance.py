"""One rule for every precision test: no worse than twice torch's own error in the same dtype.

Errors are relative to the float64 reference, in the Frobenius norm, root mean square over several
draws. Below the floor of its dtype an error is rounding of the result itself and passes: torch may
be exact by luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = {  # two units in the last place of the dtype that is computed with
    torch.float64: 2 * torch.finfo(torch.float64).eps,
    torch.float32: 2 * torch.finfo(torch.float32).eps,
}
FACTOR = 2.0


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of the exact value (or the difference itself at 0)."""
    if not bool(torch.isfinite(value).all()):
        return float("inf")
    difference = torch.linalg.vector_norm(value.double() - exact.double()).item()
    size = torch.linalg.vector_norm(exact.double()).item()
    return difference / size if size > 0 else difference


def root_mean_square(errors: Sequence[float]) -> float:
    return (sum(e * e for e in errors) / len(errors)) ** 0.5


def assert_no_worse(
    ours: Sequence[Tensor],
    torchs: Sequence[Tensor],
    exact: Sequence[Tensor],
    *,
    floor: float | None = None,
    what: str = "",
) -> None:
    """The error of ours over all draws is at most FACTOR times torch's, or below the floor."""
    assert len(ours) == len(torchs) == len(exact)
    assert len(ours) > 0
    assert all(a.dtype == b.dtype for a, b in zip(ours, torchs, strict=True))
    bound = FLOOR[torchs[0].dtype] if floor is None else floor
    error = root_mean_square([relative_error(a, e) for a, e in zip(ours, exact, strict=True)])
    theirs = root_mean_square([relative_error(b, e) for b, e in zip(torchs, exact, strict=True)])
    limit = max(FACTOR * theirs, bound)
    assert error <= limit, f"{what}: error {error:.2e} > {limit:.2e} (torch {theirs:.2e})"
