"""What the checks share: how a broken rule is reported, and whether values are the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from specinn.spectra import SpectrumBatch


def section(anchor: str) -> Callable[[Any, str], None]:
    """``require(ok, broken)`` for the rules of one section of docs/plugins.md; raises ``AssertionError``."""

    def require(ok: Any, broken: str) -> None:
        if not bool(ok):
            raise AssertionError(f"{broken} (the rule: docs/plugins.md#{anchor})")

    return require


def close(first: np.ndarray, second: np.ndarray, rtol: float, atol: float | np.ndarray = 0.0) -> bool:
    """Equal shapes, equal NaN, and everywhere closer than ``atol + rtol |second|``."""
    if np.shape(first) != np.shape(second):
        return False
    both = np.isnan(first) & np.isnan(second)
    equal = first == second  # infinities
    with np.errstate(invalid="ignore"):
        near = np.abs(first - second) <= atol + rtol * np.abs(second)
    return bool((both | equal | near).all())


def snapshot(batch: SpectrumBatch) -> tuple[Any, ...]:
    """A copy of what a batch holds, for :func:`unchanged`."""
    arrays = tuple(getattr(batch, name).copy() for name in ("wavelength", "flux", "sigma", "mask"))
    return (*arrays, batch.meta.copy(copy_data=True))


def unchanged(batch: SpectrumBatch, before: tuple[Any, ...]) -> bool:
    """Whether a batch still holds what its :func:`snapshot` has."""
    arrays = (batch.wavelength, batch.flux, batch.sigma, batch.mask)
    same = all(np.array_equal(x, y, equal_nan=x.dtype != bool) for x, y in zip(arrays, before, strict=False))
    meta = before[-1]
    return same and batch.meta.colnames == meta.colnames and all(
        _equal_column(batch.meta[name], meta[name]) for name in meta.colnames
    )  # fmt: skip


def _equal_column(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(
        a is b or np.all(a == b) or (np.all(a != a) and np.all(b != b))
        for a, b in zip(first, second, strict=True)
    )


def failure(action: Callable[[], Any]) -> Exception | None:
    """What the action raises; the warnings of libraries underneath are not of interest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action()
    except Exception as error:
        return error
    return None


def quiet(recognises: Callable[[Path], bool], path: Path) -> Any:
    """The answer, or the exception as an answer: ``recognises`` must not raise."""
    try:
        return recognises(path)
    except Exception as error:
        return error
