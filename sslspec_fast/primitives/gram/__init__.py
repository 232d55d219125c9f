"""Functions of X^T Y or X Y^T without the matrix, from the cheaper side."""

from .gram import barlow_twins, sqnorm, vicreg

__all__ = ["barlow_twins", "sqnorm", "vicreg"]
