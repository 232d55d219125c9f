"""Losses for SentenceTransformerTrainer, with the calls of those of sentence-transformers.

    loss = MultipleNegativesRankingLoss(model, mini_batch_size=64)
    SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()

No similarity matrix is stored, and with `mini_batch_size` the activations of so many texts are held
at a time (`sslspec_fast.GradCache`): the batch size is then bounded by the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..grad_cache import GradCache
from ..losses.clip import clip
from ..losses.info_nce import info_nce
from ..losses.matryoshka import matryoshka
from ..losses.siglip import siglip
from ..ranks import world

__all__ = ["MatryoshkaLoss", "MultipleNegativesRankingLoss", "SigLIPLoss"]


class _Embedding(torch.nn.Module):
    """The sentence embedding of a model's features."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any]) -> Tensor:
        out: Tensor = self.model(features)["sentence_embedding"]
        return out


class _Loss(torch.nn.Module):
    """A loss of the embeddings of the columns of a data set.

    Args:
        model: the SentenceTransformer; the trainer puts its wrapped one in its place.
        mini_batch_size: texts whose activations are held at a time, or None: all.
        gather_across_devices: whether the texts of the other processes count as negatives, with
            exact gradients (docs/distributed.md); the value is that of the global batch.
    """

    def __init__(
        self, model: torch.nn.Module, mini_batch_size: int | None, gather_across_devices: bool
    ) -> None:
        super().__init__()
        if mini_batch_size is not None:
            check.count(type(self).__name__, "mini_batch_size", mini_batch_size, 1)
        self.model = model
        self.mini_batch_size = mini_batch_size
        self.gather_across_devices = gather_across_devices

    @property
    def group(self) -> Any:
        return world() if self.gather_across_devices else None

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """sentence_features: of each column: anchors, positives, then any number of negatives.
        labels: not looked at.
        """
        encode: torch.nn.Module = _Embedding(self.model)
        if self.mini_batch_size is not None:
            encode = GradCache(encode, self.mini_batch_size)
        columns = [encode(dict(features)) for features in sentence_features]
        if len(columns) < 2:
            raise ValueError(
                f"{type(self).__name__}: needs a column of anchors and one of positives, got "
                f"{len(columns)} column"
            )
        return self.compute_loss_from_embeddings(columns)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError

    def get_config_dict(self) -> dict[str, Any]:
        """For the model card."""
        return {
            "mini_batch_size": self.mini_batch_size,
            "gather_across_devices": self.gather_across_devices,
        }


def _negatives(embeddings: Sequence[Tensor]) -> Tensor | None:
    return torch.cat(list(embeddings[2:])) if len(embeddings) > 2 else None


class MultipleNegativesRankingLoss(_Loss):
    """`functional.info_nce` of anchors against all positives and hard negatives, by cosine.

    sentence-transformers' loss of that name with its default similarity and directions.

    Args:
        model, mini_batch_size, gather_across_devices: as above.
        scale: of the cosines, 1 / temperature.
        symmetric: the mean with that of positives against all anchors: there,
            ``directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        scale: float = 20.0,
        *,
        symmetric: bool = False,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size, gather_across_devices)
        self.scale = check.number(type(self).__name__, "scale", scale, low=0.0, strict=True)
        self.symmetric = symmetric

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """embeddings: (n, d) of each column."""
        anchor, positive, negatives = embeddings[0], embeddings[1], _negatives(embeddings)
        if self.symmetric and negatives is None:
            a, b = (torch.nn.functional.normalize(x, dim=1) for x in (anchor, positive))
            loss: Tensor = clip(a, b, self.scale, group=self.group)
            return loss
        t = 1 / self.scale
        loss = info_nce(anchor, positive, temperature=t, negatives=negatives, group=self.group)
        if self.symmetric:
            loss = (loss + info_nce(positive, anchor, temperature=t, group=self.group)) / 2
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "symmetric": self.symmetric, **super().get_config_dict()}


class SigLIPLoss(_Loss):
    """`functional.siglip` of pairs of texts: every pair is a binary decision (arXiv 2303.15343).

    Args:
        model, mini_batch_size, gather_across_devices: as above.
        scale, bias: where the learned scale and bias of the cosines begin.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        scale: float = 10.0,
        bias: float = -10.0,
        *,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size, gather_across_devices)
        scale = check.number("SigLIPLoss", "scale", scale, low=0.0, strict=True)
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = torch.nn.Parameter(
            torch.tensor(float(check.number("SigLIPLoss", "bias", bias)))
        )

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """embeddings: (n, d) of anchors and positives."""
        if len(embeddings) != 2:
            raise ValueError(f"SigLIPLoss: needs 2 columns of texts, got {len(embeddings)}")
        a, b = (torch.nn.functional.normalize(x, dim=1) for x in embeddings)
        loss: Tensor = siglip(a, b, self.log_scale.exp(), self.bias, group=self.group)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        learned = {"scale": self.log_scale.exp().item(), "bias": self.bias.item()}
        return {**learned, **super().get_config_dict()}


class MatryoshkaLoss(_Loss):
    """`MultipleNegativesRankingLoss` on prefixes of the embedding, summed (arXiv 2205.13147).

    sentence-transformers' MatryoshkaLoss around that loss; the prefixes share one pass.

    Args:
        model, mini_batch_size, gather_across_devices: as above.
        matryoshka_dims: prefix lengths. matryoshka_weights: one per length; None: all 1.
        scale: of the cosines.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        *,
        scale: float = 20.0,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size, gather_across_devices)
        self.scale = check.number("MatryoshkaLoss", "scale", scale, low=0.0, strict=True)
        self.matryoshka_dims = list(matryoshka_dims)
        self.matryoshka_weights = None if matryoshka_weights is None else list(matryoshka_weights)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """embeddings: (n, d) of each column."""
        loss: Tensor = matryoshka(
            "info_nce",
            embeddings[0],
            embeddings[1],
            dims=self.matryoshka_dims,
            weights=self.matryoshka_weights,
            temperature=1 / self.scale,
            negatives=_negatives(embeddings),
            group=self.group,
        )
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "matryoshka_dims": self.matryoshka_dims,
            "matryoshka_weights": self.matryoshka_weights,
            "scale": self.scale,
            **super().get_config_dict(),
        }
