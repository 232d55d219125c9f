"""
How far a trained encoder is from the optimum
=============================================

The minimum of VICReg over all embeddings of a data set is known in closed form, and so is the
minimum over all linear maps of its features. They are the two levels that a training curve should
be held against: an encoder that stops at the second one has learned nothing beyond a linear map,
and what is left above the first one is what a better encoder or a longer training can gain.
"""

import torch
from torch import Tensor, nn

import sslspec_fast as sf
import sslspec_fast.functional as F

try:
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_digits
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

# %%
# A graph of digits
# -----------------
# 1,797 images of 8 x 8 pixels; each is a positive of its 10 nearest ones.

x = torch.from_numpy(load_digits().data).float() / 16
graph = sf.PairGraph.from_knn(x, n_neighbors=10)
hyper = {"variance": 1.0, "covariance": 1.0, "invariance": 0.05, "penalty": "ls_var"}
k = 16

# %%
# The two optima
# --------------
# Eigenvectors of the graph give the best embedding of these images, and a generalised eigenproblem
# of 64 x 64 gives the best linear map. Neither is trained.

best = sf.spectral.vicreg(graph, k, **hyper)
linear = sf.spectral.vicreg(graph, k, features=x.double().numpy(), **hyper)
at_zero = float(F.graph_vicreg(torch.zeros(len(x), k), graph, **hyper))
level = (linear.loss - best.loss) / (at_zero - best.loss)
print(f"best embedding:  loss {best.loss:.4f}, proven: {best.info.certified}")
print(f"best linear map: loss {linear.loss:.4f}, gap {level:.3f}")

# %%
# Two encoders, trained
# ---------------------


def train(encoder: nn.Module, steps: int) -> tuple[list[int], list[float], Tensor]:
    """(steps, relative gap at each, the embedding at the end)."""
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    seen, gaps = [], []
    for step in range(steps):
        z = encoder(x)
        loss = F.graph_vicreg(z, graph, **hyper)
        if step % 10 == 0:
            seen.append(step)
            gaps.append((loss.item() - best.loss) / (at_zero - best.loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return seen, gaps, encoder(x).detach()


torch.manual_seed(0)
encoders = {
    "linear": nn.Linear(64, k, bias=False),
    "two hidden layers": nn.Sequential(
        nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, k)
    ),
}
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, encoder in encoders.items():
    seen, gaps, z = train(encoder, 500)
    axis.semilogy(seen, gaps, label=f"encoder: {name}")
    gap = sf.spectral.optimality_gap("vicreg", z, graph, **hyper)
    print(f"{name}: loss {gap.loss:.4f}, relative gap {gap.relative_gap:.4f}, rank {gap.rank}")
axis.axhline(level, color="grey", linestyle="--", label="best linear map (closed form)")
axis.set(xlabel="step", ylabel="relative gap: 0 at the optimum, 1 at collapse", ylim=(1e-3, 2))
axis.legend(frameon=False)
plt.show()

# %%
# The linear encoder arrives at its level and stays there. The other one goes below it, towards the
# best embedding; ``optimality_gap`` says how far is left, in one number that can be logged.
