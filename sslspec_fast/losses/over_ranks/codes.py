"""FALCON of rows that are spread over ranks: 2 c + 1 numbers are added up over them.

Formula: the file of the loss. The mean probabilities are a sum over all rows; everything else
happens on the rank of a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ... import _checks as check
from ..._dtypes import widen
from ...primitives.rows.unit_rows import unit_rows
from ...ranks import replicated, sum_to_value
from .._codes import code_sums, divergence, given_codes
from ._form import COPY, ROWS, Form, Given, Problem, Result


def _falcon(p: Problem) -> Result:
    beta, eps = p.numbers.values()
    (codes,) = replicated(p.ranks, p.rows("codes"))
    n, (f, c) = p.ranks.n, codes.shape
    scale = math.log((1 - eps * (c - 1)) / eps) / math.sqrt(f)  # sqrt(f / n) / tau
    first, second, cross = code_sums(
        unit_rows(p.rows("h1")) * scale, unit_rows(p.rows("h2")) * scale, codes
    )
    sums = sum_to_value(torch.cat([first, second, cross[None]]), p.ranks) / n
    first, second, cross = sums.split([c, c, 1])
    terms = 0.5 * (divergence(first) + divergence(second)), 0.5 * cross[0]
    return terms[0] + beta * terms[1], terms


def _check_falcon(
    h1: Tensor,
    h2: Tensor,
    codes: Tensor | None,
    n_codes: int | None,
    beta: float,
    eps: float,
    seed: int,
) -> Given:
    op = "falcon"
    check.pair(op, ("h1", "h2"), h1, h2, min_rows=0)
    beta = check.number(op, "beta", beta, low=0.0)
    eps = check.number(op, "eps", eps, low=0.0, strict=True)
    codes = given_codes(codes, n_codes, seed, eps, widen(h1))
    return Given({"h1": h1, "h2": h2, "codes": codes}, {"beta": beta, "eps": eps})


FALCON = Form(
    "falcon",
    {"h1": ROWS, "h2": ROWS, "codes": COPY},
    ("beta", "eps"),
    _check_falcon,
    _falcon,
    terms=("prior", "consistency"),
    reduces=False,
)
