"""The catalogue as a table in memory: the columns of results, and one table of many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Column, MaskedColumn, Table

from specinn.catalogue.lithium import lithium_columns
from specinn.catalogue.schema import UNDETERMINED, Field
from specinn.flags import is_bad, is_warn
from specinn.posterior import QUANTILES
from specinn.texts import portable

if TYPE_CHECKING:
    from specinn.catalogue.result import Result
    from specinn.posterior import Summary

__all__ = ["build", "named", "summarise"]


def summarise(
    result: Result, *, instrument: str, model: str, undetermined: np.ndarray | bool = False
) -> dict[str, np.ndarray]:
    """The columns of :func:`schema` for the spectra of a result; NaN where there is no value.

    ``undetermined (n_spec, n_labels)``, derived labels included, are those that nothing determines besides
    those of the summary.
    """
    n, meta, summary = len(result), result.meta, result.summary
    flags = np.asarray(meta["flags"], np.uint32)
    columns: dict[str, np.ndarray] = {name: np.ma.asarray(meta[name]) for name in meta.colnames}
    if "survey_id" not in columns and "specuid" in columns:
        columns["survey_id"] = columns["specuid"]
    columns |= {
        "instrument": columns.get("instrument", np.array([instrument] * n)),
        "model": np.array([model] * n),
        "flag_warn": is_warn(flags),
        "flag_bad": is_bad(flags),
        "rejected_fraction": summary.rejected_fraction,
    }
    bad, names = is_bad(flags)[:, None], np.array(summary.labels.names)
    own = summary if result.raw is None else result.raw  # the bounds and the prior are of uncorrected values
    lost = (own.undetermined | undetermined) & ~bad
    columns |= _statistics(summary, bad, own.undetected & ~lost, lost)
    columns[UNDETERMINED] = np.array([" ".join(names[row]) for row in lost], np.str_)
    if (informed := result.informed) is not None:
        columns |= _statistics(informed, bad, informed.undetected, informed.undetermined, "_informed")
    if result.raw is not None:
        raw = np.where(bad | lost, np.nan, result.raw.map)
        columns |= {f"{name}_raw": raw[:, i] for i, name in enumerate(names)}
    return columns


def _statistics(
    summary: Summary, bad: np.ndarray, undetected: np.ndarray, undetermined: np.ndarray, which: str = ""
) -> dict[str, np.ndarray]:
    """The columns of a summary, NaN where ``bad (n_spec, 1)``; ``which`` follows the names of labels."""
    columns: dict[str, np.ndarray] = {}
    no_value = bad | undetermined
    for i, name in enumerate(summary.labels.names):
        hidden = {"": no_value[:, i], "median": no_value[:, i], "upper": bad[:, 0] | ~undetected[:, i]}
        percentiles = dict(zip(QUANTILES, summary.quantiles[:, :, i], strict=True))
        for key, values in {"": summary.map[:, i], "std": summary.std[:, i], **percentiles}.items():
            column = f"{name}{which}_{key}".removesuffix("_")
            columns[column] = np.where(hidden.get(key, bad[:, 0]), np.nan, values)
    return columns | lithium_columns(columns, which)


def named(table: Table, names: Sequence[str]) -> np.ndarray:
    """``(n_rows, n_names)`` which labels of these names the rows of a catalogue call not determined."""
    if UNDETERMINED not in table.colnames:
        return np.zeros((len(table), len(names)), bool)
    texts = np.ma.filled(np.ma.asarray(table[UNDETERMINED], object), "").astype(str)
    different, index = np.unique(texts, return_inverse=True)
    return np.array([np.isin(names, text.split()) for text in different]).reshape(-1, len(names))[index]


def build(
    rows: Sequence[Mapping[str, np.ndarray]],
    fields: Sequence[Field],
    meta: Mapping[str, Any],
    first: int = 0,
) -> Table:
    """One table of the columns of many results, its rows numbered from ``first``; what is missing or not
    finite is masked."""
    table = Table(meta=dict(meta))
    numbers = first + np.cumsum([0, *(len(chunk["flags"]) for chunk in rows)])
    for field in fields:
        if field.name == "row":
            parts = [np.arange(first, last) for first, last in pairwise(numbers)]
        else:
            parts = [_part(chunk, field) for chunk in rows]
        values = np.concatenate(parts) if parts else np.empty(0, "U1" if field.dtype is str else field.dtype)
        missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        table[field.name] = (
            MaskedColumn(values, mask=missing, **field.column)
            if missing.any()
            else Column(values, **field.column)
        )
    return table


def _part(chunk: Mapping[str, np.ndarray], field: Field) -> np.ndarray:
    values: Any = chunk.get(field.name)
    if field.dtype is str:
        n = len(chunk["flags"])
        texts: Any = [""] * n if values is None else np.ma.filled(np.ma.asarray(values, object), "")
        return np.array([portable(str(text)) for text in texts], dtype=np.str_).reshape(n)
    if values is None:
        return np.full(len(chunk["flags"]), np.nan, field.dtype)
    if np.issubdtype(field.dtype, np.floating):
        return np.ma.filled(np.ma.asarray(values, field.dtype), np.nan)
    return np.asarray(values).astype(field.dtype)
