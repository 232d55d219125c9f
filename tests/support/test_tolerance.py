"""The precision rule must be able to fail."""

import pytest
import torch

from .tolerance import FLOOR, assert_no_worse, relative_error, root_mean_square


def test_relative_error_is_scale_free():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(exact * 1.01, exact) == pytest.approx(0.01)
    assert relative_error(exact * 1.01 * 7, exact * 7) == pytest.approx(0.01)
    assert relative_error(torch.tensor([0.5]), torch.zeros(1)) == pytest.approx(0.5)


def test_a_nan_or_inf_is_an_infinite_error():
    exact = torch.ones(2)
    assert relative_error(torch.tensor([1.0, float("nan")]), exact) == float("inf")
    assert relative_error(torch.tensor([1.0, float("inf")]), exact) == float("inf")


def test_root_mean_square():
    assert root_mean_square([3.0, 4.0]) == pytest.approx((12.5) ** 0.5)


def test_twice_the_error_passes_and_more_fails():
    exact = [torch.ones(3, dtype=torch.float64)]
    torchs = [torch.full((3,), 1 + 1e-3)]
    assert_no_worse([torch.full((3,), 1 + 1.9e-3)], torchs, exact)
    with pytest.raises(AssertionError, match=r"loss: error 2\.1"):
        assert_no_worse([torch.full((3,), 1 + 2.1e-3)], torchs, exact, what="loss")


def test_the_floor_forgives_rounding_only():
    exact = [torch.ones(3, dtype=torch.float64)]
    torchs = [torch.ones(3)]
    assert_no_worse([torch.full((3,), 1 + FLOOR[torch.float32] / 2)], torchs, exact)
    with pytest.raises(AssertionError):
        assert_no_worse([torch.full((3,), 1 + 2 * FLOOR[torch.float32])], torchs, exact)


def test_a_nan_fails():
    exact = [torch.ones(1, dtype=torch.float64)]
    with pytest.raises(AssertionError):
        assert_no_worse([torch.tensor([float("nan")])], [torch.tensor([1.1])], exact)


def test_dtypes_must_agree():
    one = torch.ones(1)
    with pytest.raises(AssertionError):
        assert_no_worse([one], [one.double()], [one.double()])
