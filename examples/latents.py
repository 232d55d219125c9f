"""
Which latents the optimum returns
=================================

Views of a sample that are correlated Gaussian latents make an Ornstein-Uhlenbeck relation. Its
modes are Hermite polynomials of the latents with the eigenvalues rho, rho^2 and so on, so that the
first ones are the latents themselves: the optimum of VICReg, Barlow Twins or the spectral
contrastive loss finds them, up to a rotation, whatever the encoder sees of them (Klindt, LeCun,
Balestriero, arXiv 2605.26379).
"""

import numpy as np

import sslspec_fast as sf

try:
    import matplotlib.pyplot as plt
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

# %%
# The relation of one latent
# --------------------------
# Gauss points of N(0, 1), and how often two of them are views of one sample: two normal numbers of
# the correlation 0.8.

rho, points = 0.8, 40
x, share = np.polynomial.hermite_e.hermegauss(points)
share = share / share.sum()
exponent = (2 * rho * np.outer(x, x) - rho**2 * (x[:, None] ** 2 + x**2)) / (2 * (1 - rho**2))
relation = share[:, None] * np.exp(exponent) / np.sqrt(1 - rho**2) * share

# %%
# Eigenvalues, and the first mode
# -------------------------------

form = sf.spectral.vicreg(relation, 4, measure="degree", invariance=0.1)
values, inner = 1 - np.asarray(form.eigenvalues), np.abs(x) < 4
columns = np.asarray(form.embedding)
print("eigenvalues:", values.round(6))
print("powers of rho:", (rho ** np.arange(1, 5)).round(6))
first = np.corrcoef(columns[inner, 0], x[inner])[0, 1]
print(f"correlation of the first mode and the latent: {abs(first):.10f}")

# %%
# Two latents, seen as products
# -----------------------------
# Equal correlations share an eigenvalue, so that the two columns are the latents behind a rotation.
# It is found by least squares, and what is left is rounding.

latents = np.column_stack([np.repeat(x, points), np.tile(x, points)])
both = sf.spectral.barlow_twins(np.kron(relation, relation), 2)
found, middle = np.asarray(both.embedding), np.abs(latents).max(1) < 2.5
mixing = np.linalg.lstsq(found[middle], latents[middle], rcond=None)[0]
turned = found @ mixing
left = np.linalg.norm((turned - latents)[middle]) / np.linalg.norm(latents[middle])
print(f"two latents: {left:.1e} of them is not a linear map of the optimum")

figure, (one, two) = plt.subplots(1, 2, figsize=(9, 3.5))
sign = np.sign(columns[inner, 0] @ x[inner])
one.plot(x[inner], sign * columns[inner, 0], ".-", label="first mode")
one.plot(x[inner], columns[inner, 1], ".-", label="second mode")
one.set(xlabel="latent", title="modes of one latent: a line, a parabola")
one.legend()
two.scatter(*found[middle].T, c=latents[middle, 0], s=6)
two.set(xlabel="column 1", ylabel="column 2", title="optimum of two latents, colour: the first")
two.set_aspect("equal")
figure.tight_layout()
plt.show()
