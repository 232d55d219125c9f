"""create_loss gives what open_clip's gives, on one process, for its own arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sslspec_fast as sf

open_clip = pytest.importorskip("open_clip")
params = pytest.importorskip("open_clip_train.params")

from sslspec_fast.integrations import open_clip as ours


def arguments(*flags: str) -> Any:
    args = params.parse_args(list(flags))
    args.rank, args.world_size, args.distill = 0, 1, args.distill_model is not None
    return args


def inputs(coca: bool = False) -> dict[str, Any]:
    image, text = torch.nn.functional.normalize(torch.randn(2, 9, 16, dtype=torch.float64), dim=2)
    out: dict[str, Any] = {"image_features": image, "text_features": text}
    out["logit_scale"] = torch.tensor(12.0, dtype=torch.float64)
    if coca:
        out["logits"] = torch.randn(9, 5, 30, dtype=torch.float64)
        out["labels"] = torch.randint(0, 30, (9, 5))
    return {k: v.requires_grad_() if v.is_floating_point() else v for k, v in out.items()}


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ((), sf.CLIPLoss),
        (("--local-loss", "--gather-with-grad"), sf.CLIPLoss),
        (("--siglip",), sf.SigLIPLoss),
        (("--model", "coca_ViT-B-32", "--coca-caption-loss-weight", "1.5"), ours.CoCaLoss),
    ],
)
def test_losses_and_gradients(flags: tuple[str, ...], kind: type) -> None:
    args = arguments(*flags)
    loss, theirs = ours.create_loss(args), open_clip.create_loss(args)
    assert type(loss) is kind
    given = inputs(kind is ours.CoCaLoss)
    if kind is sf.SigLIPLoss:
        given["logit_bias"] = torch.tensor(-8.0, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (loss, theirs):
        terms = module(**given, output_dict=True)
        leaves = [x for x in given.values() if x.requires_grad]
        found.append((terms, torch.autograd.grad(sum(terms.values()), leaves)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_without_a_dict() -> None:
    args = arguments("--model", "coca_ViT-B-32", "--coca-contrastive-loss-weight", "0")
    given = inputs(coca=True)
    torch.testing.assert_close(
        ours.create_loss(args)(**given)[1], open_clip.create_loss(args)(**given)[1]
    )


def test_the_script_of_open_clip_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = pytest.importorskip("open_clip_train.main")
    theirs, seen = script.create_loss, []
    monkeypatch.setattr(script, "main", lambda flags: seen.append((flags, script.create_loss)))
    ours.main(["--siglip"])
    assert seen == [(["--siglip"], ours.create_loss)]
    assert script.create_loss is theirs


def test_errors() -> None:
    args = arguments()
    args.distill = True
    with pytest.raises(ValueError, match="distill must be off"):
        ours.create_loss(args)
    args = arguments("--siglip", "--horovod")
    with pytest.raises(ValueError, match="horovod must be off for siglip, got True"):
        ours.create_loss(args)
