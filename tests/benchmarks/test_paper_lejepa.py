"""The training behind the section on LeJEPA of docs/paper.md."""

import numpy as np
from tqdm import tqdm

from benchmarks.paper import lejepa
from sslspec_fast.demo.data import synthetic


def test_a_run_of_the_exact_form_measures_the_sliced_gradients() -> None:
    digits = synthetic()
    exact = lejepa.train(digits, None, lejepa.EVERY, 0, tqdm(disable=True))
    again = lejepa.train(digits, None, lejepa.EVERY, 0, tqdm(disable=True))
    sliced = lejepa.train(digits, 256, lejepa.EVERY, 0, tqdm(disable=True))
    assert exact.loss == again.loss
    assert exact.loss[0] == sliced.loss[0]  # the same weights at the start
    assert exact.loss[-1] < exact.loss[0]
    assert exact.loss[-1] != sliced.loss[-1]
    assert len(exact.accuracy) == len(exact.seconds) == 2
    few, many = exact.errors[256][0], exact.errors[1024][0]
    assert 0 < many < few  # about sqrt(d / 2.5 S)
    assert np.isclose(few / many, 2, rtol=0.5)
