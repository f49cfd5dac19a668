"""The catalogue: one row a spectrum, with units and descriptions, as a file or a folder of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Column, MaskedColumn, Table

from specinn.catalogue.formats import READERS, WRITERS, Layout, from_arrow
from specinn.errors import OutputError
from specinn.files import check_folder, check_new, check_output, replacing
from specinn.flags import is_bad, is_warn
from specinn.labels import Label, LabelSet, with_derived_labels
from specinn.posterior import QUANTILES
from specinn.posterior.summary import can_be_absent

if TYPE_CHECKING:
    from specinn.catalogue.result import Result

MANIFEST = "_manifest.json"  # readers of Parquet folders pass over what begins with an underscore
PARTS = "part-*.parquet"


@attrs.frozen
class Field:
    """A column: ``dtype`` is a numpy one, ``unit`` in astropy's generic notation ("" for none)."""

    name: str
    dtype: type
    unit: str
    description: str


def statistics(label: Label, *, corrected: bool = False) -> list[Field]:
    """The columns of one label: ``NAME`` (the MAP), ``NAME_median``, ``NAME_p2_5``, ..., ``NAME_std``.

    When corrections were applied all of them hold corrected values and ``NAME_raw`` the MAP before. Labels
    that may be undetected have ``NAME_upper`` (:attr:`specinn.posterior.Summary.undetected`).
    """
    what = label.description or label.name
    # astropy cannot mask a column in dex(cm s-2): the description says of what it is the logarithm
    unit = "dex" if label.unit.startswith("dex") else label.unit
    fields = [Field(label.name, np.float32, unit, f"{what}: maximum a posteriori")]
    if corrected:
        text = f"{what}: maximum a posteriori before correction"
        fields.append(Field(f"{label.name}_raw", np.float32, unit, text))
    for key, level in QUANTILES.items():
        if key == "upper":
            continue
        text = (
            f"{what}: median of the posterior"
            if key == "median"
            else f"{what}: {100 * level:g} percentile of the posterior"
        )
        fields.append(Field(f"{label.name}_{key}", np.float32, unit, text))
    text = f"{what}: standard deviation of the posterior"
    fields.append(Field(f"{label.name}_std", np.float32, unit, text))
    if can_be_absent(label.name):
        text = f"{what}: upper limit, 95 percentile of the posterior, where nothing is detected"
        fields.append(Field(f"{label.name}_upper", np.float32, unit, text))
    return fields


def schema(labels: LabelSet, arms: Sequence[str], *, corrected: bool = False) -> tuple[Field, ...]:
    """All columns of a catalogue, in order."""
    fields = [
        Field("id", str, "", "Identifier of the spectrum"),
        Field("path", str, "", "File of the spectrum"),
        Field("instrument", str, "", "Instrument as named by the user"),
        Field(
            "row",
            np.int64,
            "",
            "Number of the row, from 0",
        ),
    ]
    for arm in arms:
        fields.append(
            Field(f"snr_{arm}", np.float32, "", f"Median S/N per Angstrom in the {arm} arm; 0 without pixels")
        )
    fields += [
        Field("rv", np.float32, "km s-1", "Radial velocity by which the spectrum was shifted to rest"),
        Field("rv_error", np.float32, "km s-1", "Uncertainty of rv, where it was measured"),
    ]
    for label in with_derived_labels(labels):
        fields += statistics(label, corrected=corrected)
    return (
        *fields,
        Field("stranger", np.float32, "", "How unlike those of the training the spectrum is; above 1: flag"),
        Field(
            "rejected_fraction", np.float32, "", "Fraction of samples outside the bounds of the training set"
        ),
        Field("flags", np.uint32, "", "Bit mask; its bits are explained by: specinn flags VALUE"),
        Field("flag_warn", np.bool_, "", "At least one bit of flags asks for a look before use"),
        Field("flag_bad", np.bool_, "", "The row has no trustworthy values"),
        Field("message", str, "", "What went wrong, in words"),
        Field("model", str, "", "Model and the start of the SHA-256 of its file"),
    )


def summarise(result: Result, *, instrument: str, model: str) -> dict[str, np.ndarray]:
    """The columns of :func:`schema` for the spectra of a result; NaN where there is no value."""
    n, meta, found = len(result), result.meta, result.summary
    flags = np.asarray(meta["flags"], np.uint32)
    columns: dict[str, np.ndarray] = {name: np.asarray(meta[name]) for name in meta.colnames}
    columns |= {
        "instrument": np.array([instrument] * n),
        "model": np.array([model] * n),
        "flag_warn": is_warn(flags),
        "flag_bad": is_bad(flags),
        "rejected_fraction": found.rejected_fraction,
    }
    bad = is_bad(flags)[:, None]
    quantiles = np.where(bad, np.nan, found.quantiles)
    best, std = np.where(bad, np.nan, found.map), np.where(bad, np.nan, found.std)
    raw = None if result.raw is None else np.where(bad, np.nan, result.raw.map)
    # the bounds are those of uncorrected values
    undetected = (found if result.raw is None else result.raw).undetected
    for i, name in enumerate(found.labels.names):
        columns[name], columns[f"{name}_std"] = best[:, i], std[:, i]
        for key, values in zip(QUANTILES, quantiles, strict=True):
            limit = ~undetected[:, i] if key == "upper" else False
            columns[f"{name}_{key}"] = np.where(limit, np.nan, values[:, i])
        if raw is not None:
            columns[f"{name}_raw"] = raw[:, i]
    return columns


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
        missing = ~np.isfinite(values) if field.dtype is np.float32 else np.zeros(len(values), bool)
        info = {"name": field.name, "unit": field.unit or None, "description": field.description}
        table[field.name] = (
            MaskedColumn(values, mask=missing, **info) if missing.any() else Column(values, **info)
        )
    return table


def _part(chunk: Mapping[str, np.ndarray], field: Field) -> np.ndarray:
    if field.name not in chunk:
        return np.full(len(chunk["flags"]), np.nan, np.float32)
    if field.dtype is str:
        return np.array([str(value) for value in chunk[field.name]], dtype=np.str_)
    values = chunk[field.name]
    if field.dtype is np.float32:
        values = np.ma.filled(np.ma.asarray(values, np.float32), np.nan)
    return np.asarray(values).astype(field.dtype)


def is_folder(path: str | Path) -> bool:
    """Whether the catalogue is, or is to be, a folder of Parquet files: its name has no suffix."""
    path = Path(path)
    return not path.suffix or (path / MANIFEST).is_file()


def check(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path, if a catalogue can be written there; raises ``OutputError`` where it cannot."""
    path = Path(path)
    if not is_folder(path):
        return check_output(path, WRITERS, overwrite=overwrite)
    check_folder(path.parent, path)
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return check_new(path, overwrite=overwrite and (path / MANIFEST).is_file())
        raise OutputError(f"{path} is a folder, and no catalogue of specinn (it has no {MANIFEST})")
    if path.exists():
        raise OutputError(
            f"{path} is a file, and a name without suffix is a folder of Parquet files: "
            f"use one of {', '.join(WRITERS)}"
        )
    return path


def write(table: Table, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the catalogue in the format of the suffix (.fits, .ecsv, .parquet, .h5), whole or not at all.

    The same table gives the same bytes: no file holds a date. Missing values are nulls (empty in ECSV,
    masked in HDF5 and Parquet, NaN in FITS, whose null that is). Raises ``OutputError``.
    """
    path = check_output(path, WRITERS, overwrite=overwrite)
    write_rows(path, Layout.of(table), [table])


def write_rows(path: Path, layout: Layout, chunks: Iterable[Table]) -> None:
    """A catalogue as :func:`write` writes it, from tables that follow one another; replaces a file."""
    with replacing(path) as temporary:
        WRITERS[path.suffix.lower()](temporary, layout, chunks)


def read(path: str | Path) -> Table:
    """A catalogue that :func:`write` or ``specinn run`` wrote, a file or a folder of Parquet files.

    With masks, units and descriptions. Raises ``OutputError``.
    """
    path = Path(path)
    if path.is_dir():
        table = _read_folder(path)
    elif path.suffix.lower() not in READERS:
        raise OutputError(
            f"{path}: the suffix {path.suffix!r} names no format; use one of {', '.join(READERS)}"
        )
    elif not path.is_file():
        raise OutputError(f"{path}: no such file")
    else:
        try:
            table = READERS[path.suffix.lower()](path)
        except Exception as error:  # each format has errors of its own
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise OutputError(f"{path} is no catalogue that specinn run wrote: {reason}") from error
    for name in table.colnames:  # astropy reads an empty string as a missing one
        if table[name].dtype.kind in "US":
            filled = np.ma.filled(table[name].data, "")
            values = [v.decode() if isinstance(v, bytes) else str(v) for v in filled]
            table[name] = Column(np.array(values, dtype=np.str_), description=table[name].description)
    return table


def _read_folder(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        state = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["state"]
    except FileNotFoundError:
        raise OutputError(f"{path} is a folder, and no catalogue of specinn (it has no {MANIFEST})") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path / MANIFEST} is damaged ({error})") from None
    if state != "finished":
        raise OutputError(f"{path} is a run that is not finished: specinn run --resume goes on with it")
    return from_arrow(pa.concat_tables([parquet.read_table(part) for part in sorted(path.glob(PARTS))]))
