"""
SupCon on a weighted graph: few labels, many neighbours
=======================================================

The supervised contrastive loss makes every sample of a class a positive of the others. As a graph
that is ``PairGraph.from_labels``; and because a graph has weights, it can hold what labels do not
say: here 30 of 1,500 digits have a label, and the nearest neighbours of all of them are positives
of a smaller weight.
"""

import torch
from torch import nn
from torch.nn.functional import normalize

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.demo.evaluate import knn_accuracy

try:
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_digits
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

# %%
# Labels for a few
# ----------------
# A label of -1 joins nothing.

digits = load_digits()
x, y = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
torch.manual_seed(0)
order = torch.randperm(len(x))
train, held = order[:1500], order[1500:]
known = torch.cat([train[y[train] == c][:3] for c in range(10)])
labels = torch.full_like(y, -1)
labels[known] = y[known]
labels = labels[train]

# %%
# Three graphs
# ------------
# Graphs add and scale. The sum stores the edges of neighbours, and one number for each label.

few = sf.PairGraph.from_labels(labels)
near = sf.PairGraph.from_knn(x[train], n_neighbors=5)
graphs = {"labels": few, "neighbours": near, "labels + 0.2 neighbours": few + 0.2 * near}

# %%
# SupCon itself is the first of them
# ----------------------------------
# Anchors without a positive count in its mean, and not in the graph's.

z = normalize(torch.randn(1500, 32), dim=1)
fraction = (labels >= 0).float().mean()
print(f"F.sup_con:                            {F.sup_con(z, labels, temperature=0.1):.6f}")
on_graph = F.graph_info_nce(z, few, temperature=0.1)
print(f"F.graph_info_nce on the label graph:  {on_graph * fraction:.6f}")

# %%
# Training
# --------
# Labels alone teach little: the loss pushes a labelled digit away from all others, those of its own
# class without a label among them. Neighbours join these.


def accuracy(graph: sf.PairGraph, steps: int = 200) -> float:
    """In percent: held-out digits by their neighbours among the few with a label."""
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(steps):
        loss = F.graph_info_nce(encoder(x[train]), graph, temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        few_rows, new = encoder(x[known]), encoder(x[held])
    return 100 * knn_accuracy(few_rows, y[known], new, y[held], k=1)


rows = {"pixels": 100 * knn_accuracy(x[known], y[known], x[held], y[held], k=1)}
rows |= {name: accuracy(graph) for name, graph in graphs.items()}
for name, percent in rows.items():
    print(f"{name:>24}: {percent:.1f} %")

figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
axis.barh(list(rows), list(rows.values()), color=["#bbbbbb", *["#1b6ca8"] * 3])
axis.set(xlabel="accuracy on held-out digits with 3 labels of each, %", xlim=(0, 100))
axis.invert_yaxis()
plt.show()
