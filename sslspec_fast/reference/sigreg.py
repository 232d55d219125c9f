"""SIGReg in plain torch: along directions, averaged over all of them, or by another kernel."""

import math

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from .._torch_private import constant_when_traced

LONGEST = 220.0  # t_max times the largest distance that the 128 cosines of `_cosines` are right for


def sigreg(
    z: Tensor,
    directions: Tensor | None = None,
    *,
    knots: int = 17,
    t_max: float = 3.0,
    kernel: tuple[str, float] | None = None,
) -> Tensor:
    """(views,) of z (views, n, d); without directions the average over all of them, or `kernel`."""
    if directions is None:
        return _by_kernel(z, knots, t_max, kernel)
    t, phi, w = (torch.tensor(x, dtype=z.dtype, device=z.device) for x in _tables(knots, t_max))
    angle = (z @ directions)[..., None] * t
    c, s = angle.cos().mean(1), angle.sin().mean(1)
    return z.shape[1] * (((c - phi).square() + s.square()) @ w).mean(1)


def _quadrature(knots: int, t_max: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, exp(-t^2 / 2), and that times the trapezoid rule on [-t_max, t_max], folded."""
    t = np.linspace(0, t_max, knots)
    phi = np.exp(-(t**2) / 2)
    w = 2 * t_max / (knots - 1) * phi
    w[[0, -1]] /= 2
    return t, phi, w


@constant_when_traced
def _tables(knots: int, t_max: float) -> tuple[list[float], list[float], list[float]]:
    t, phi, w = _quadrature(knots, t_max)
    return t.tolist(), phi.tolist(), w.tolist()


def _by_kernel(z: Tensor, knots: int, t_max: float, kernel: tuple[str, float] | None) -> Tensor:
    """n times the squared discrepancy: mean k(z, z') - 2 mean mu(z) + c."""
    n, d = z.shape[1:]
    square = z.square().sum(2)
    distance = square[:, :, None] + square[:, None, :] - 2 * z @ z.mT
    distance = distance.masked_fill(torch.eye(n, dtype=torch.bool, device=z.device), 0)
    if kernel is None:
        _, phi, w = _tables(knots, t_max)
        pairs = _cosines(distance, *_frequencies(d, knots, t_max, 0))
        rows = _cosines(square, *_frequencies(d, knots, t_max, 1))
        constant: float | Tensor = sum(a * b * b for a, b in zip(w, phi, strict=True))
    elif kernel[0] == "gaussian":
        h = kernel[1] ** 2
        pairs = torch.exp(-distance / (2 * h))
        rows = (h / (h + 1)) ** (d / 2) * torch.exp(-square / (2 * (h + 1)))
        constant = (h / (h + 2)) ** (d / 2)
    else:
        b, zero = kernel[1], torch.zeros(1, dtype=torch.float64)
        pairs, rows = (b + distance.clamp(min=0)).rsqrt(), _imq_mean(square, d, b)
        constant = _imq_mean(zero, d, b / 2)[0].to(z) / math.sqrt(2)
    return n * (pairs.mean((1, 2)) - 2 * rows.mean(1) + constant)


def _cosines(r: Tensor, frequency: list[float], amplitude: list[float]) -> Tensor:
    apart = r > 0  # the root has no derivative at 0
    root = torch.where(apart, torch.where(apart, r, 1.0).sqrt(), 0.0)
    angle = root[..., None] * torch.tensor(frequency, dtype=r.dtype, device=r.device)
    return angle.cos() @ torch.tensor(amplitude, dtype=r.dtype, device=r.device)


@constant_when_traced
def _frequencies(d: int, knots: int, t_max: float, order: int) -> tuple[list[float], list[float]]:
    """f, a with sum_m a_m cos(f_m u) = sum_k w_k phi_k^order E cos(t_k u s), s one coordinate of a
    uniform direction in d dimensions.

    The frequencies t_k s have some law on [-t_max, t_max]; a law at 256 Chebyshev points with the
    same first moments has the same mean cosine.
    """
    t, phi, w = _quadrature(knots, t_max)
    s, share = (
        (np.ones(1), np.ones(1)) if d == 1 else scipy.special.roots_gegenbauer(200, d / 2 - 1)
    )
    relative = np.arccos(np.clip(np.outer(t / t_max, s).ravel(), -1, 1))
    weight = np.outer(w * phi**order, share / share.sum()).ravel()
    even = 2 * np.arange(128)
    moments = np.cos(even[:, None] * relative) @ weight
    moments[0] /= 2
    at = np.pi * (np.arange(128) + 0.5) / 256
    amplitude = np.cos(at[:, None] * even) @ moments / 64
    return (t_max * np.cos(at)).tolist(), amplitude.tolist()


def _imq_mean(square: Tensor, d: int, b: float) -> Tensor:
    """E (b + |x - y|^2)^(-1/2), y ~ N(0, I): Gaussians exp(-e^u |x - y|^2), integrated over u."""
    u = torch.arange(-75, math.log(800 / b), 0.05, dtype=torch.float64)
    s = u.exp()
    amplitude = 0.05 / math.sqrt(math.pi) * (u / 2 - b * s - d / 2 * torch.log1p(2 * s)).exp()
    return torch.exp(-square[..., None] * (s / (1 + 2 * s)).to(square)) @ amplitude.to(square)
