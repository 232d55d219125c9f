"""
From a CSV file to an embedding, without Python
===============================================

``sslspec embed`` computes the optimum of a loss for a table of features, and ``sslspec gap`` says
how far any other embedding is from it. This page runs them as a shell would.
"""

import os
import shlex
import tempfile
from pathlib import Path

import numpy as np

from sslspec_fast.__main__ import main

try:
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_wine
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import scale
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None


folder = Path(tempfile.mkdtemp())


def shell(command: str) -> None:
    print(f"$ {command}", flush=True)
    os.chdir(folder)
    main(shlex.split(command)[1:])


# %%
# A table
# -------
# As people have it: pandas wrote a column of row numbers without a name, two values are missing,
# and the last column is the class.

wine = load_wine(as_frame=True)
frame = wine.data.assign(cultivar=wine.target_names[wine.target])
frame.loc[[3, 70], "magnesium"] = np.nan
frame.to_csv(folder / "wine.csv")
print("\n".join((folder / "wine.csv").read_text("utf-8").splitlines()[:3]))

# %%
# The best embedding
# ------------------
# The row numbers are left out, and the report says so; missing values are an error until
# ``--impute`` fills them in.

options = "--label-column cultivar --impute median --scale"
shell(f"sslspec embed wine.csv {options} -k 2 --invariance 0.1 --out result")

# %%
# The picture that it wrote:

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.imshow(plt.imread(folder / "result" / "embedding.png"))
axis.set_axis_off()
plt.show()

# %%
# How far is another embedding?
# -----------------------------
# Two principal components, held against the same graph, and the optimum itself:

x = scale(frame.drop(columns="cultivar").fillna(frame.median(numeric_only=True)))
np.save(folder / "pca.npy", PCA(2, whiten=True).fit_transform(x))
loss = "--loss vicreg --penalty ls_var --invariance 0.1"
shell(f"sslspec gap pca.npy result/graph.npz {loss}")
shell(f"sslspec gap result/embedding.npy result/graph.npz {loss}")
