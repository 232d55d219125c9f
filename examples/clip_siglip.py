"""
CLIP and SigLIP on pictures and captions
========================================

Two towers learn which caption belongs to which picture. CLIP's loss is a softmax over all captions
of the batch and over all its pictures, SigLIP's a binary decision for every pair. Both are the
modules of open_clip by name and arguments; the (n, n) logits are never stored.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import sslspec_fast as sf

try:
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_digits
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

# %%
# Pictures with captions
# ----------------------
# Two handwritten digits side by side, each dark or bright. A caption says what is there, in words
# that come one by one to a bag of words: "left", "bright", "three" and so on.

digits = load_digits()
images, labels = torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target)
draws = torch.Generator().manual_seed(0)


def draw(n: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 128), captions (n, 4) of numbered words, and the number of each caption."""
    pick = rows[torch.randint(len(rows), (n, 2), generator=draws)]
    bright = torch.randint(2, (n, 2), generator=draws)
    halves = images[pick] * (0.4 + 0.6 * bright[:, :, None, None])
    words = torch.stack([labels[pick], 10 + bright], 2) + torch.tensor([0, 12])[:, None]
    code = (labels[pick] * 2 + bright) @ torch.tensor([20, 1])
    return halves.transpose(1, 2).flatten(1), words.flatten(1), code


order = torch.randperm(len(images), generator=draws)
seen, held = order[:1500], order[1500:]
every_code = torch.cartesian_prod(*map(torch.arange, (10, 2, 10, 2)))
every_caption = every_code + torch.tensor([0, 10, 12, 22])  # the 400, in the order of their codes

# %%
# Two towers and a loss
# ---------------------


class Pair(nn.Module):
    """A picture tower, a text tower, and what the loss learns: a scale, and SigLIP's bias."""

    def __init__(self, scale: float, bias: float | None) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 32))
        self.text = nn.Sequential(nn.EmbeddingBag(24, 128), nn.GELU(), nn.Linear(128, 32))
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def forward(self, pictures: Tensor, captions: Tensor) -> tuple[Tensor, ...]:
        rows = normalize(self.picture(pictures), dim=1), normalize(self.text(captions), dim=1)
        return (*rows, self.log_scale.exp(), *(() if self.bias is None else (self.bias,)))


def train(model: Pair, loss_of: nn.Module, steps: int = 400, batch: int = 256) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        pictures, captions, _ = draw(batch, seen)
        loss = loss_of(*model(pictures, captions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
# Training, and the caption of a new picture
# ------------------------------------------
# Each of 1,000 pictures of digits that were not seen gets the nearest of all 400 captions.

pictures, _, codes = draw(1000, held)
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
recipes = {"CLIP": (sf.CLIPLoss(), 10.0, None), "SigLIP": (sf.SigLIPLoss(), 10.0, -10.0)}
for axis, (name, (loss_of, scale, bias)) in zip(axes, recipes.items(), strict=True):
    torch.manual_seed(0)
    model = Pair(scale, bias)
    losses = train(model, loss_of)
    with torch.no_grad():
        scores = normalize(model.picture(pictures)) @ normalize(model.text(every_caption)).T
    right = 100 * (scores.argmax(1) == codes).float().mean().item()
    print(f"{name}: {right:.1f} % right of 400 captions, scale {model.log_scale.exp().item():.1f}")
    axis.plot(losses)
    axis.set(title=name, xlabel="step", ylabel="loss")
plt.show()
