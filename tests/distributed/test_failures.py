"""A mismatch or an error on one rank is an error on all of them, soon, and says both values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..support.ranks import failures
from ..support.ranks.pool import Pool

ALIKE = "must be the same on all ranks of the group, rank 0 has"
SEEN = {
    "features": f"nt_xent: the number of features {ALIKE} 5, rank 1 has 4",
    "dtype": f"vicreg: dtype {ALIKE} torch.float64, rank 1 has torch.float32",
    "option": f"clip: label_smoothing {ALIKE} 0.0, rank 1 has 0.1",
    "reduction": f"clip: reduction {ALIKE} mean, rank 1 has sum",
    "impl": f"clip: impl {ALIKE} fused, rank 1 has torch",
    "loss": f": operator {ALIKE} nt_xent, rank 1 has dcl",
    "requires_grad": f"siglip: requires_grad of image {ALIKE} True, rank 1 has False",
    "no_grad": f"barlow_twins: requires_grad of z1 {ALIKE} True, rank 1 has False",
    "scale": f"clip: logit_scale {ALIKE} 2.0, rank 1 has 3.0",
    "bias": f"siglip: logit_bias {ALIKE} -3.0, rank 1 has -1.0",
    "layout": "temperature must be alike on all ranks of the group, rank 0 has one value, rank 1",
    "weights": f"nt_xent: sample_weight {ALIKE} None, rank 1 has a tensor",
    "weight_fn": f"dcl: weight_fn {ALIKE} None, rank 1 has a tensor",
    "weight_fn elsewhere": f"dcl: weight_fn {ALIKE} a tensor, rank 1 has None",
    "codes": f"falcon: codes {ALIKE} shape (5, 12) and sum",
    "products": f"clip: set_float32_products {ALIKE} torch.float32, rank 1 has torch.bfloat16",
    "budget": f"nt_xent: the buffer budget {ALIKE} 1073741824, rank 1 has 1000",
    "prefixes": f"matryoshka: dims {ALIKE} [2, 4, 5], rank 1 has [2, 5]",
    "views": f"SupConLoss: views {ALIKE} 2, rank 1 has 3",
    "directions": f"sigreg: seed {ALIKE} 2.0, rank 1 has 1.0",
    "drawn": f"sigreg: slices {ALIKE} 9, rank 1 has 8",
    "drawn elsewhere": f"sigreg: directions {ALIKE} drawn, rank 1 has shape",
    "kernel": f"sigreg: imq {ALIKE} 0.0, rank 1 has 1.0",
    "queue": f"moco: queue {ALIKE} shape (3, 5) and sum 3, rank 1 has shape (4, 5) and sum 4",
    "rows of a queue": f"moco: queue {ALIKE} shape (4, 5) and sum -4, rank 1 has shape (4, 5)",
    "bank of keys": f"MemoryBank.update: size {ALIKE} 9, rank 1 has 8",
    "margin": f"info_nce: margin {ALIKE} 0.0, rank 1 has 0.1",
    "bank": f"NTXentLoss: the bank {ALIKE} (9, 5), rank 1 has (8, 5)",
}
SEEN |= {
    "target": f"info_nce: target {ALIKE} None, rank 1 has a tensor",
    "weights of columns": f"info_nce: column_weight of key {ALIKE} None, rank 1 has a tensor",
    "negatives of each query": f"info_nce: negatives of each query {ALIKE} rows of shape (2, 5) in",
    "negatives of all queries": f"info_nce: negatives {ALIKE} None, rank 1 has rows of shape (5,)",
    "patches": f"gram_anchor: the shape of a sample {ALIKE} (2, 5), rank 1 has (4, 5)",
    "patches of the teacher": f"gram_anchor: teacher {ALIKE} rows of shape (4, 4) in torch.float64",
    "clamp": f"gram_anchor: clamp {ALIKE} 0.0, rank 1 has 1.0",
    "prototypes": f"msn: prototypes {ALIKE} shape (4, 5) and sum 8, rank 1 has shape (4, 5) and",
    "center": f"dino: center {ALIKE} shape (5,) and sum 0, rank 1 has shape (5,) and sum 5",
    "crops": f"dino: the shape of a sample {ALIKE} (3, 5), rank 1 has (2, 5)",
    "views of the teacher": f"dino: teacher_views {ALIKE} rows of shape (2, 5) in torch.float64, ",
    "dtype of the teacher": f"x_clr: targets {ALIKE} rows of shape (5,) in torch.float64, rank 1",
    "temperature of the teacher": f"ressl: key_temperature {ALIKE} 0.04, rank 1 has 0.1",
    "pairs": f"prototype_cross_entropy: pairs[0] {ALIKE} None, rank 1 has a tensor",
    "pairs over ranks": f"prototype_cross_entropy: pairs {ALIKE} none over ranks, rank 1 has",
    "biases by block": f"prototype_cross_entropy: bias {ALIKE} shape (5,) and sum 0, rank 1 has",
    "rounds": f"sinkhorn_bias: iterations {ALIKE} 3.0, rank 1 has 2.0",
    "start": f"sinkhorn_bias: start {ALIKE} zero, rank 1 has rows",
    "codes of a queue": f"swav: queue {ALIKE} None, rank 1 has rows of shape (2, 5)",
}
# what rank 1 says about its own arguments
OWN = {
    "tokens": "ValueError: ibot: student must have a row for each of the 4 masked tokens, got (3,",
    "biases beside pairs over ranks": "ValueError: prototype_cross_entropy: bias must be (k,) with",
    "pairs of another group": "ValueError: prototype_cross_entropy: group must be the one that the",
    "keys": "ValueError: info_nce: target must have rows of key in [0, 4), got 4",
    "weights for other columns": "ValueError: info_nce: column_weight must have a number for each",
    "negatives of other queries": "ValueError: info_nce: negatives of each query must be (4, l, 5)",
    "images of the teacher": "ValueError: gram_anchor: teacher must have the (4,) rows of student",
    "error": "ValueError: nt_xent: temperature must be finite and > 0, got -1.0",
    "shapes": "ValueError: info_nce: key must match query (4, 5), got (3, 5)",
    "keyword": "TypeError: got an unexpected keyword argument 'nonsense'",
    "error in weight_fn": "ValueError: dcl: weight_fn must return one weight per pair (12,)",
    "prefix": "ValueError: matryoshka: dims must be in 1 ... 5, the features of z1, got 9",
    "groups of rows": "ValueError: koleo: group_size must divide the 6 rows of z, got 4",
    "ids of a bank": "ValueError: MemoryBank.update: a bank made with ids=False takes no ids",
    "labels": "ValueError: SupConLoss: labels must have",
    "rows of the bank": "ValueError: NTXentLoss: out1 must match out0 (4, 5), got (3, 5)",
}
TOGETHER = {
    "views of a target": "msn: anchors must be as many for each target on all ranks, 16 for 12",
    "weights of no mean": "column_mean: sample_weight must have a positive sum over all ranks",
    "pairs without a weight": "the weights of pairs must have a positive sum over all ranks",
    "no rows anywhere": "nt_xent: z1 needs at least 1 row over all ranks of the group, got 0",
    "one row for a covariance": "vicreg: z1 needs at least 2 rows over all ranks of the group, got",
    "neighbours": "koleo: k must be less than the 12 rows of a group, got 12",
    "long rows": "sigreg: slices=None takes rows no longer than 341.333",
    "weights without a mean": "clip: sample_weight must have a positive sum over all ranks",
}


@pytest.mark.parametrize("name", SEEN)
def test_what_differs_is_named_on_all_ranks(pool: Pool, name: str) -> None:
    for kind, text, seconds in pool.run(failures.told, name, ranks=3):
        assert kind == "ValueError"
        assert SEEN[name] in text
        assert seconds < pool.seconds / 2  # no rank waited for a timeout


@pytest.mark.parametrize("name", OWN)
def test_an_error_of_one_rank_is_raised_on_all(pool: Pool, name: str) -> None:
    answers = pool.run(failures.told, name, ranks=3)
    assert f"{answers[1][0]}: {answers[1][1]}".startswith(OWN[name])
    for kind, text, _ in (answers[0], answers[2]):
        assert kind == "RuntimeError"
        assert f"rank 1 of 3 failed with {OWN[name]}" in text


@pytest.mark.parametrize("name", TOGETHER)
def test_all_ranks_refuse_what_does_not_fit_together(pool: Pool, name: str) -> None:
    for kind, text, _ in pool.run(failures.told, name, ranks=3):
        assert kind == "ValueError"
        assert TOGETHER[name] in text


def test_what_is_no_group_of_this_process(pool: Pool) -> None:
    for number, outsider in pool.run(failures.not_a_group):
        assert number.startswith("TypeError: nt_xent: group must be a torch.distributed.ProcessGro")
        assert outsider.startswith("ValueError: nt_xent: group must contain this process")


@pytest.mark.parametrize("call", [failures.dies, failures.stays_away])
@pytest.mark.parametrize("where", failures.LEFT)
def test_no_rank_waits_longer_than_the_timeout_for_one_that_is_gone(
    where: str, call: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ranks = Pool(tmp_path_factory.mktemp("dying"), size=3, seconds=4)
    try:
        answers = ranks.run(call, where, lost=(1,) if call is failures.dies else ())
    finally:
        ranks.stop()
    for seconds, error in answers:
        assert error == "RuntimeError"
        assert seconds < 12
