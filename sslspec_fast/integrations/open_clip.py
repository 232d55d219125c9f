"""The losses in open_clip's training script.

    python -m sslspec_fast.integrations.open_clip --model ViT-B-32 --train-data ...

is ``python -m open_clip_train.main`` with `create_loss` from here. In a training loop of your own,
``open_clip.create_loss(args)`` becomes ``create_loss(args)``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..losses.clip import CLIPLoss
from ..losses.siglip import SigLIPLoss

__all__ = ["CoCaLoss", "create_loss", "main"]


class CoCaLoss(CLIPLoss):
    """open_clip's CoCaLoss: weighted CLIP loss and cross-entropy of captions (arXiv 2205.01917).

    caption_loss_weight, clip_loss_weight: the two weights. pad_id: the token that is left out. The
    other arguments are those of `CLIPLoss`.
    """

    def __init__(
        self, caption_loss_weight: float, clip_loss_weight: float, pad_id: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.clip_loss_weight, self.caption_loss_weight = clip_loss_weight, caption_loss_weight
        self.caption_loss = torch.nn.CrossEntropyLoss(ignore_index=pad_id)

    def forward(  # type: ignore[override]
        self,
        image_features: Tensor,
        text_features: Tensor,
        logits: Tensor,
        labels: Tensor,
        logit_scale: Tensor,
        output_dict: bool = False,
    ) -> Any:
        """image_features, text_features: (n, d) unit rows. logits: (n, t, v); labels: (n, t)."""
        contrastive = logits.new_zeros(())
        if self.clip_loss_weight:
            contrastive = super().forward(image_features, text_features, logit_scale)
            contrastive = self.clip_loss_weight * contrastive
        caption = self.caption_loss_weight * self.caption_loss(logits.permute(0, 2, 1), labels)
        if output_dict:
            return {"contrastive_loss": contrastive, "caption_loss": caption}
        return contrastive, caption


def create_loss(args: Any) -> torch.nn.Module:
    """The loss of open_clip's command line, as ``open_clip.create_loss(args)``.

    Over several ranks the loss is that of the global batch, exact in its gradient whatever
    ``local_loss`` and ``gather_with_grad`` say (docs/distributed.md).

    Errors: ValueError for ``distill``, which needs the logits that are never stored here.
    """
    if args.distill:
        raise ValueError(
            "create_loss: distill must be off, because distillation needs the logits, which are "
            f"not stored, got {args.distill!r}: use open_clip.create_loss for it"
        )
    ranks = {"rank": args.rank, "world_size": args.world_size}
    if "coca" in args.model.lower():
        return CoCaLoss(
            caption_loss_weight=args.coca_caption_loss_weight,
            clip_loss_weight=args.coca_contrastive_loss_weight,
            use_horovod=args.horovod,
            **ranks,
        )
    if args.siglip:
        if args.horovod:
            raise ValueError("create_loss: horovod must be off for siglip, got True")
        return SigLIPLoss(dist_impl=args.loss_dist_impl, **ranks)
    return CLIPLoss(
        local_loss=args.local_loss,
        gather_with_grad=args.gather_with_grad,
        use_horovod=args.horovod,
        **ranks,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """``open_clip_train.main.main`` with `create_loss` of this module."""
    script: Any = importlib.import_module("open_clip_train.main")
    theirs, script.create_loss = script.create_loss, create_loss
    try:
        script.main(sys.argv[1:] if arguments is None else list(arguments))
    finally:
        script.create_loss = theirs


if __name__ == "__main__":
    main()
