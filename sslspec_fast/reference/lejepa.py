"""LeJEPA in plain torch: SIGReg of every view, and the distance to the mean of the global views."""

from torch import Tensor

from .sigreg import sigreg


def lejepa(
    z: Tensor,
    global_views: int,
    directions: Tensor | None = None,
    *,
    weight: float = 0.05,
    knots: int = 17,
    t_max: float = 3.0,
    kernel: tuple[str, float] | None = None,
) -> Tensor:
    """z: (views, n, d), the global ones first."""
    invariance = (z - z[:global_views].mean(0)).square().mean()
    normality = sigreg(z, directions, knots=knots, t_max=t_max, kernel=kernel).mean()
    return weight * normality + (1 - weight) * invariance
