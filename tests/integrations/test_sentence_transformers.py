"""The losses for sentence-transformers are those of that package, on a model of its own kind."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import sslspec_fast.functional as F

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
transformers = pytest.importorskip("transformers")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from sslspec_fast.integrations import sentence_transformers as ours

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
WORDS = ["a", "cat", "sat", "on", "the", "mat", "while", "dogs", "ran", "far", "from", "home"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A BERT of two layers with random weights, and a tokenizer of twelve words."""
    return bert(str(tmp_path_factory.mktemp("bert")), WORDS, 0)


def bert(folder: str, words: list[str], seed: int) -> Any:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary), encoding="ascii")
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    assert tokenizer.get_vocab().keys() == set(vocabulary)
    tokenizer.save_pretrained(folder)
    body = modules.Transformer(folder)
    found = SentenceTransformer(modules=[body, modules.Pooling(32)], device="cpu")
    return found.double()


def sentence(start: int, step: int, length: int) -> str:
    return " ".join(WORDS[(start + k * step) % len(WORDS)] for k in range(length))


def features(model: Any, columns: int, n: int = 14) -> list[dict[str, Any]]:
    """Texts of different lengths."""
    tokenize = getattr(model, "preprocess", model.tokenize)
    texts = [[sentence(i + c, c + 1, 2 + (i + c) % 5) for i in range(n)] for c in range(columns)]
    return [dict(tokenize(column)) for column in texts]


def value_and_gradient(loss: torch.nn.Module, columns: list[dict[str, Any]]) -> Any:
    loss.model.zero_grad()
    value = loss([dict(f) for f in columns], None)
    value.backward()
    grads = [p.grad.flatten() for p in loss.model.parameters() if p.grad is not None]
    return value.detach(), torch.cat(grads)


@pytest.mark.parametrize("mini_batch_size", [None, 5])
@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize("symmetric", [False, True])
def test_multiple_negatives(
    model: Any, columns: int, symmetric: bool, mini_batch_size: int | None
) -> None:
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    data = features(model, columns)
    theirs = losses.MultipleNegativesRankingLoss(model, **(both if symmetric else {}))
    got = value_and_gradient(
        ours.MultipleNegativesRankingLoss(
            model, symmetric=symmetric, mini_batch_size=mini_batch_size
        ),
        data,
    )
    torch.testing.assert_close(got, value_and_gradient(theirs, data), rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Another BERT, whose tokenizer has the words in another order and two of them not at all."""
    return bert(str(tmp_path_factory.mktemp("guide")), WORDS[:1:-1], 1)


@pytest.mark.parametrize("mini_batch_size", [None, 5])
@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"margin": 0.02},
        {"margin": 0.05, "margin_strategy": "relative", "contrast_anchors": False},
        {"margin": 0.02, "temperature": 0.1, "contrast_positives": False},
    ],
)
def test_guided(
    model: Any,
    guide: Any,
    columns: int,
    itself: bool,
    options: dict[str, Any],
    mini_batch_size: int | None,
) -> None:
    data, by = features(model, columns), copy.deepcopy(model) if itself else guide
    want = value_and_gradient(losses.GISTEmbedLoss(model, by, **options), data)
    loss = ours.GISTEmbedLoss(model, by, **options, mini_batch_size=mini_batch_size)
    assert loss.retokenizes is not itself
    torch.testing.assert_close(value_and_gradient(loss, data), want, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in by.parameters())
    assert loss.get_config_dict().keys() - {"mini_batch_size"} == (
        losses.GISTEmbedLoss(model, by).get_config_dict().keys()
    )


@pytest.mark.parametrize("mini_batch_size", [None, 5])
@pytest.mark.parametrize("columns", [2, 3])
def test_matryoshka(model: Any, columns: int, mini_batch_size: int | None) -> None:
    data, dims, weights = features(model, columns), [32, 16, 8], [1.0, 0.5, 0.25]
    inner = losses.MultipleNegativesRankingLoss(model)
    want = value_and_gradient(losses.MatryoshkaLoss(model, inner, dims, weights), data)
    loss = ours.MatryoshkaLoss(model, dims, weights, mini_batch_size=mini_batch_size)
    torch.testing.assert_close(value_and_gradient(loss, data), want, rtol=1e-9, atol=1e-12)
    fused = ours.MultipleNegativesRankingLoss(model)
    got = value_and_gradient(losses.MatryoshkaLoss(model, fused, dims, weights), data)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_siglip_learns_its_scale_and_bias(model: Any) -> None:
    data = features(model, 2)
    loss = ours.SigLIPLoss(model, mini_batch_size=4)
    value, _ = value_and_gradient(loss, data)
    a, b = (torch.nn.functional.normalize(model(dict(f))["sentence_embedding"]) for f in data)
    torch.testing.assert_close(value, F.siglip(a, b, 10.0, -10.0, impl="torch"), rtol=1e-6, atol=0)
    assert loss.log_scale.grad is not None
    assert loss.bias.grad is not None


def test_the_trainer_runs(model: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    texts = [sentence(i, 1, 3) for i in range(12)]
    data = datasets.Dataset.from_dict({"anchor": texts, "positive": texts[::-1]})
    loss = ours.SigLIPLoss(model.float(), mini_batch_size=4)
    before = loss.bias.item()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=6,
        num_train_epochs=1,
        report_to=[],
        use_cpu=True,
        learning_rate=1e-2,
        save_strategy="no",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
    assert loss.bias.item() != before
    model.double()


def test_errors(model: Any) -> None:
    with pytest.raises(ValueError, match="needs a column of anchors and one of positives, got 1"):
        ours.MultipleNegativesRankingLoss(model)(features(model, 1))
    with pytest.raises(ValueError, match="SigLIPLoss: needs 2 columns of texts, got 3"):
        ours.SigLIPLoss(model)(features(model, 3))
    with pytest.raises(ValueError, match="mini_batch_size must be at least 1, got 0"):
        ours.SigLIPLoss(model, mini_batch_size=0)
    with pytest.raises(
        ValueError, match="margin_strategy must be one of 'absolute', 'relative', g"
    ):
        ours.GISTEmbedLoss(model, model, margin_strategy="both")
    with pytest.raises(TypeError, match="model and guide must have a tokenizer of transformers"):
        ours.GISTEmbedLoss(model, torch.nn.Linear(2, 2))
    assert ours.MultipleNegativesRankingLoss(model).get_config_dict()["scale"] == 20.0
