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

__all__ = ["GISTEmbedLoss", "MatryoshkaLoss", "MultipleNegativesRankingLoss", "SigLIPLoss"]


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
        return self.compute_loss_from_embeddings(self._columns(self.model, sentence_features))

    def _columns(
        self, model: torch.nn.Module, sentence_features: Iterable[dict[str, Any]]
    ) -> list[Tensor]:
        """The embeddings of each column by a model."""
        encode: torch.nn.Module = _Embedding(model)
        if self.mini_batch_size is not None:
            encode = GradCache(encode, self.mini_batch_size)
        columns = [encode(dict(features)) for features in sentence_features]
        if len(columns) < 2:
            raise ValueError(
                f"{type(self).__name__}: needs a column of anchors and one of positives, got "
                f"{len(columns)} column"
            )
        return columns

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


class GISTEmbedLoss(_Loss):
    """`MultipleNegativesRankingLoss` without the false negatives that a guide finds (2402.16829).

    sentence-transformers' loss of that name, and with `mini_batch_size` its CachedGISTEmbedLoss:
    `functional.info_nce` with a guide. The guide has no gradient.

    Args:
        model, mini_batch_size, gather_across_devices: as above; with several devices the anchors of
            all of them are negatives too.
        guide: the SentenceTransformer that tells false negatives; it gets the texts anew where its
            tokenizer is another one.
        temperature: of the cosines.
        margin_strategy, margin: a text is left out whose cosine by the guide exceeds that of the
            pair, less the margin ("absolute") or less that share of it ("relative").
        contrast_anchors, contrast_positives: whether other anchors are negatives of an anchor, and
            other positives of its positive.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        guide: torch.nn.Module,
        temperature: float = 0.01,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        *,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size, gather_across_devices)
        op = "GISTEmbedLoss"
        check.choice(op, "margin_strategy", margin_strategy, ("absolute", "relative"))
        self.guide = guide
        self.temperature = check.number(op, "temperature", temperature, low=0.0, strict=True)
        self.margin_strategy, self.margin = margin_strategy, check.number(op, "margin", margin)
        self.contrast_anchors, self.contrast_positives = contrast_anchors, contrast_positives
        self.retokenizes = _vocabulary(model) != _vocabulary(guide) or (
            getattr(guide, "max_seq_length", None) or math.inf
        ) < (getattr(model, "max_seq_length", None) or math.inf)
        self._tokenizer = _tokenizer(model)  # of the model as it is given, which may be wrapped

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """sentence_features: of each column: anchors, positives, then any number of negatives.
        labels: not looked at.
        """
        features = [dict(column) for column in sentence_features]
        with torch.no_grad():
            guided = self._columns(self.guide, [self._for_guide(column) for column in features])
        found = self._columns(self.model, features)
        directions = ["query_to_key"]
        directions += ["query_to_query"] if self.contrast_anchors else []
        directions += ["key_to_key"] if self.contrast_positives else []
        more = _negatives(guided)
        loss: Tensor = info_nce(
            found[0],
            found[1],
            temperature=self.temperature,
            negatives=_negatives(found),
            directions=directions,
            guide=(*guided[:2], *([] if more is None else [more])),
            guide_margin=self.margin,
            guide_relative=self.margin_strategy == "relative",
            group=self.group,
        )
        return loss

    def _for_guide(self, features: dict[str, Any]) -> dict[str, Any]:
        """The same texts as the guide takes them."""
        if not self.retokenizes:
            return features
        texts = self._tokenizer.batch_decode(features["input_ids"], skip_special_tokens=True)
        guide: Any = self.guide
        tokenize = guide.preprocess if hasattr(guide, "preprocess") else guide.tokenize
        found, device = tokenize(texts), next(guide.parameters()).device
        return {k: x.to(device) if isinstance(x, Tensor) else x for k, x in found.items()}

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "guide": self.guide,
            "temperature": self.temperature,
            "margin_strategy": self.margin_strategy,
            "margin": self.margin,
            "contrast_anchors": self.contrast_anchors,
            "contrast_positives": self.contrast_positives,
            **super().get_config_dict(),
        }


def _tokenizer(model: torch.nn.Module) -> Any:
    return getattr(model, "tokenizer", None)


def _vocabulary(model: torch.nn.Module) -> Any:
    tokenizer = _tokenizer(model)
    if not hasattr(tokenizer, "get_vocab"):
        raise TypeError(
            "GISTEmbedLoss: model and guide must have a tokenizer of transformers, got "
            f"{type(tokenizer).__name__}"
        )
    return tokenizer.get_vocab()


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
