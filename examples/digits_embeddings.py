"""
Digits: optima of losses beside SpectralEmbedding, Isomap and LDA
=================================================================

Optima of self-supervised losses are embeddings that scikit-learn's users know under other names:
VICReg's is Laplacian eigenmaps with a soft cut-off, least-squares SimCLR's is the classical scaling
that Isomap ends with, and VICReg's best linear map on the graph of labels spans the directions of
LDA. Here the estimators run side by side, and the angle between what they span is measured.
"""

import warnings

import numpy as np

import sslspec_fast as sf

try:
    import matplotlib.pyplot as plt
    from scipy.linalg import subspace_angles
    from sklearn.datasets import load_digits
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.manifold import Isomap, SpectralEmbedding
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier, kneighbors_graph
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

x, y = load_digits(return_X_y=True)
x = x[:, x.std(0) > 0] / 16  # some pixels are never set
warnings.filterwarnings("ignore", message=".*not fully connected")
pairs = {}

# %%
# VICReg and SpectralEmbedding
# ----------------------------
# With ``measure="degree"`` variances are weighted by the degrees of the graph, as in spectral
# clustering.

vicreg = sf.VICRegEmbedding(2, n_neighbors=15, measure="degree").fit(x)
neighbours = kneighbors_graph(x, 15)
spectral = SpectralEmbedding(2, affinity="precomputed", eigen_solver="arpack", random_state=0)
spectral.fit((0.5 * (neighbours + neighbours.T)).toarray())
pairs["VICReg", "SpectralEmbedding"] = vicreg.embedding_, spectral.embedding_

# %%
# Least-squares SimCLR and Isomap
# -------------------------------
# Its target is any matrix of similarities: here -1/2 of the squared distances along the graph,
# centred.

isomap = Isomap(n_neighbors=15, n_components=2).fit(x)
center = np.eye(len(x)) - 1 / len(x)
geodesic = -0.5 * center @ isomap.dist_matrix_**2 @ center
simclr = sf.SimCLREmbedding(2, affinity="precomputed").fit((geodesic + geodesic.T) / 2)
pairs["LS-SimCLR", "Isomap"] = simclr.embedding_, isomap.embedding_

# %%
# VICReg on labels, linear, and LDA
# ---------------------------------
# Ten classes have nine directions.

labelled = sf.VICRegEmbedding(9, affinity="labels").fit(x, y)
lda = LinearDiscriminantAnalysis(n_components=9).fit(x, y)
pairs["VICReg on labels", "LDA"] = labelled.embedding_, lda.transform(x)

# %%
# Compared
# --------

figure, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for column, (names, embeddings) in zip(axes.T, pairs.items(), strict=True):
    angle = subspace_angles(*(z - z.mean(0) for z in embeddings)).max()
    print(f"largest angle between {names[0]} and {names[1]}: {angle:.0e} radians")
    for axis, name, z in zip(column, names, embeddings, strict=True):
        right = 100 * cross_val_score(KNeighborsClassifier(5), z, y).mean()
        print(f"{name:>20}: neighbours classify {right:.1f} % in {z.shape[1]} dimensions")
        axis.scatter(*z[:, :2].T, c=y, cmap="tab10", s=3)
        axis.set(title=name, xticks=[], yticks=[])
plt.show()
