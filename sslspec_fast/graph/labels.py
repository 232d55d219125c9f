"""Labels of any type as class codes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["class_codes"]

Array = np.ndarray
_NEGATIVE = re.compile(r"-[0-9]+")


def class_codes(labels: Any, name: str) -> Array:
    """(n,) int64: 0, 1, ... for the classes in sorted order, and -1 for an unlabelled row.

    labels: (n,) integers, whole numbers, booleans, names, or an object array of one of these. A
    negative integer means unlabelled, also where the others are names and where it is text.
    ValueError, which starts with ``name``: a label is missing (None, NaN), is no class (0.5: a
    regression target) or is one number written in two ways ("1" and "01").
    """
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one label per row, got shape {array.shape}")
    unlabelled = np.zeros(len(array), dtype=bool)
    if array.dtype.kind == "O":
        array, unlabelled = _of_objects(array, name)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "latin-1")  # every byte is a character
    if array.dtype.kind not in "biufU":
        raise ValueError(f"{name} must hold integers or names, got dtype {array.dtype}")
    if array.dtype.kind == "U":
        negative = [_NEGATIVE.fullmatch(text.strip()) is not None for text in array.tolist()]
        unlabelled = unlabelled | np.array(negative, dtype=bool)
        array = _of_text(array, unlabelled, name)
    elif array.dtype.kind == "f":
        array = _of_floats(array, name)
    if array.dtype.kind in "if":
        unlabelled = unlabelled | (array < 0)
    codes = np.full(len(array), -1, dtype=np.int64)
    codes[~unlabelled] = np.unique(array[~unlabelled], return_inverse=True)[1]
    return codes


def _of_objects(array: Array, name: str) -> tuple[Array, Array]:
    """The same labels in an array of one type, and which of them are negative integers."""
    values = array.tolist()
    missing = sum(map(_is_missing, values))
    if missing:
        raise ValueError(
            f"{name} must not hold None or NaN, got {missing}; use -1 for an unlabelled row"
        )
    numbers = (bool, int, float, np.number, np.bool_)
    if all(isinstance(value, numbers) for value in values):
        return np.array(values), np.zeros(len(array), dtype=bool)
    unlabelled = np.array([isinstance(v, numbers) and v < 0 and v == int(v) for v in values])
    kinds = {str if isinstance(v, str) else type(v) for v in array[~unlabelled].tolist()}
    if kinds != {str}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{name} must hold integers or names, not both, got {found}")
    return np.array([str(v) for v in values]), unlabelled


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def _of_floats(array: Array, name: str) -> Array:
    missing = int(np.isnan(array).sum())
    if missing:
        raise ValueError(f"{name} must not hold NaN, got {missing}; use -1 for an unlabelled row")
    fractional = ~np.isfinite(array) | (array != np.round(array))
    if fractional.any():
        row = int(np.argmax(fractional))
        raise ValueError(
            f"{name} must hold classes (integers or names), got the continuous value "
            f"{array[row]!s} at index {row}"
        )
    return array


def _of_text(array: Array, unlabelled: Array, name: str) -> Array:
    """Names as they are; whole numbers in text as numbers."""
    texts = [text.strip() for text in array.tolist()]
    numbers = list(_numbers(texts))
    if len(numbers) < len(texts):
        return np.array(texts)
    whole = _of_floats(np.array(numbers), name)
    written: dict[float, str] = {}
    for text, number, left_out in zip(texts, whole.tolist(), unlabelled.tolist(), strict=True):
        if not left_out and written.setdefault(number, text) != text:
            raise ValueError(
                f"{name} must write a number in one way, got {written[number]!r} and {text!r}"
            )
    return whole


def _numbers(texts: Iterable[str]) -> Iterable[float]:
    """The numbers among the texts; ends at the first text that is none."""
    for text in texts:
        try:
            yield float(text)
        except ValueError:
            return
