"""The catalogue: one row a spectrum, as FITS, ECSV, Parquet or HDF5, with units and descriptions."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.units import dex
from astropy.utils.exceptions import AstropyUserWarning

from specinn.errors import OutputError
from specinn.flags import is_bad, is_warn
from specinn.labels import Label, LabelSet, li_fe, make_label
from specinn.output import check_output, replacing
from specinn.posterior import Posterior

if TYPE_CHECKING:
    from specinn.pipeline import Result

QUANTILES = {"median": 0.5, "p2_5": 0.025, "p16": 0.16, "p84": 0.84, "p97_5": 0.975}
_HDF5_PATH = "catalogue"


@attrs.frozen
class Field:
    """A column: ``dtype`` is a numpy one, ``unit`` in astropy's generic notation ("" for none)."""

    name: str
    dtype: type
    unit: str
    description: str


def statistics(label: Label, *, corrected: bool = False) -> list[Field]:
    """The columns of one label: ``NAME`` (the MAP), ``NAME_median``, ``NAME_p2_5``, ..., ``NAME_std``.

    When corrections were applied all of them hold corrected values and ``NAME_raw`` the MAP before.
    """
    what = label.description or label.name
    # astropy cannot mask a column in dex(cm s-2): the description says of what it is the logarithm
    unit = "dex" if label.unit.startswith("dex") else label.unit
    fields = [Field(label.name, np.float32, unit, f"{what}: maximum a posteriori")]
    if corrected:
        text = f"{what}: maximum a posteriori before correction"
        fields.append(Field(f"{label.name}_raw", np.float32, unit, text))
    for key, level in QUANTILES.items():
        text = (
            f"{what}: median of the posterior"
            if key == "median"
            else f"{what}: {100 * level:g} percentile of the posterior"
        )
        fields.append(Field(f"{label.name}_{key}", np.float32, unit, text))
    text = f"{what}: standard deviation of the posterior"
    return [*fields, Field(f"{label.name}_std", np.float32, unit, text)]


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
        Field(
            "rejected_fraction", np.float32, "", "Fraction of samples outside the bounds of the training set"
        ),
        Field("flags", np.uint32, "", "Bit mask; its bits are explained by: specinn flags VALUE"),
        Field("flag_warn", np.bool_, "", "At least one bit of flags asks for a look before use"),
        Field("flag_bad", np.bool_, "", "The row has no trustworthy values"),
        Field("message", str, "", "What went wrong, in words"),
        Field("model", str, "", "Model and the start of the SHA-256 of its file"),
    )


def with_derived_labels(labels: LabelSet) -> LabelSet:
    """The labels of a model, and [Li/Fe] where it infers A(Li) and [Fe/H]."""
    if not {"a_li", "fe_h"} <= set(labels.names) or "li_fe" in labels.names:
        return labels
    a_li, fe_h = labels["a_li"].bounds, labels["fe_h"].bounds
    bounds = (li_fe(a_li[0], fe_h[1]), li_fe(a_li[1], fe_h[0]))
    return LabelSet((*labels, make_label("li_fe", bounds)))


def with_derived(posterior: Posterior) -> Posterior:
    """The posterior of :func:`with_derived_labels`: [Li/Fe] computed sample by sample."""
    labels = with_derived_labels(posterior.labels)
    if labels is posterior.labels:
        return posterior
    a_li, fe_h = (posterior.samples[..., posterior.labels.index(name)] for name in ("a_li", "fe_h"))
    samples = np.concatenate([posterior.samples, li_fe(a_li, fe_h)[..., None]], axis=2)
    return Posterior(labels, samples, posterior.log_prob, posterior.inside)


def summarise(result: Result, *, instrument: str, model: str) -> dict[str, np.ndarray]:
    """The columns of :func:`schema` for the spectra of a result; NaN where there is no value."""
    n, meta = len(result), result.meta
    posterior = with_derived(result.posterior)
    flags = np.asarray(meta["flags"], np.uint32)
    sampled = ~np.isnan(result.posterior.samples).all(axis=(1, 2))
    columns: dict[str, np.ndarray] = {name: np.asarray(meta[name]) for name in meta.colnames}
    columns |= {
        "instrument": np.array([instrument] * n),
        "model": np.array([model] * n),
        "flag_warn": is_warn(flags),
        "flag_bad": is_bad(flags),
        "rejected_fraction": np.where(sampled, posterior.rejected_fraction, np.nan),
    }
    bad = is_bad(flags)[:, None]
    quantiles = np.where(bad, np.nan, posterior.quantiles(list(QUANTILES.values())))
    best, std = np.where(bad, np.nan, posterior.map), np.where(bad, np.nan, posterior.std)
    raw = None if result.raw is None else np.where(bad, np.nan, with_derived(result.raw).map)
    for i, name in enumerate(posterior.labels.names):
        columns[name], columns[f"{name}_std"] = best[:, i], std[:, i]
        for key, values in zip(QUANTILES, quantiles, strict=True):
            columns[f"{name}_{key}"] = values[:, i]
        if raw is not None:
            columns[f"{name}_raw"] = raw[:, i]
    return columns


def build(
    rows: Sequence[Mapping[str, np.ndarray]], fields: Sequence[Field], meta: Mapping[str, Any]
) -> Table:
    """One table of the columns of many results; what is missing or not finite is masked."""
    table = Table(meta=dict(meta))
    numbers = np.cumsum([0, *(len(chunk["flags"]) for chunk in rows)])
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


def check(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path, if a catalogue can be written there; raises ``OutputError`` where it cannot."""
    return check_output(path, _WRITERS, overwrite=overwrite)


def write(table: Table, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the catalogue in the format of the suffix (.fits, .ecsv, .parquet, .h5), whole or not at all.

    The same table gives the same bytes: no file holds a date. Missing values are nulls (empty in ECSV,
    masked in HDF5 and Parquet, NaN in FITS, whose null that is). Raises ``OutputError``.
    """
    path = check(path, overwrite=overwrite)
    with replacing(path) as temporary:
        _WRITERS[path.suffix.lower()](table, temporary)


def read(path: str | Path) -> Table:
    """A catalogue that :func:`write` wrote, with masks, units and descriptions. Raises ``OutputError``."""
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise OutputError(
            f"{path}: the suffix {path.suffix!r} names no format; use one of {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise OutputError(f"{path}: no such file")
    table = reader(path)
    for name in table.colnames:  # astropy reads an empty string as a missing one
        if table[name].dtype.kind in "US":
            filled = np.ma.filled(table[name].data, "")
            values = [v.decode() if isinstance(v, bytes) else str(v) for v in filled]
            table[name] = Column(np.array(values, dtype=np.str_), description=table[name].description)
    return table


def _write_ecsv(table: Table, path: Path) -> None:
    table.write(path, format="ascii.ecsv")


def _write_hdf5(table: Table, path: Path) -> None:
    import h5py

    plain = table.copy()
    for name in plain.colnames:
        if isinstance(plain[name], MaskedColumn):  # who reads without the mask must not find a number
            plain[name].data.data[plain[name].mask] = np.nan
    buffer = io.BytesIO()  # the HDF5 library crashes where it meets a full disk
    with h5py.File(buffer, "w") as file:
        plain.write(file, format="hdf5", path=_HDF5_PATH, serialize_meta=True)
    path.write_bytes(buffer.getvalue())


def _write_fits(table: Table, path: Path) -> None:
    """Binary table with TUNIT and TCOMM; dex, unknown to FITS, is in TCOMM and in astropy's notes."""
    from astropy.io import fits

    plain = table.copy()
    for name in plain.colnames:
        if plain[name].dtype.kind == "U":  # FITS holds ASCII only
            texts = [str(v).encode("ascii", "backslashreplace").decode() for v in plain[name]]
            plain[name] = Column(np.array(texts, dtype=np.str_), description=plain[name].description)
    with warnings.catch_warnings():  # dex is no unit of the FITS standard, and astropy says so
        warnings.filterwarnings("ignore", ".*dex", AstropyUserWarning)
        QTable(plain).write(path, format="fits")  # a QTable, because then astropy reads dex back
    with fits.open(path, mode="update", memmap=False) as hdus:
        header = hdus[1].header
        header["EXTNAME"] = "CATALOGUE"
        for i, name in enumerate(table.colnames, start=1):
            note = " (dex)" if table[name].unit == dex else ""
            header.set(f"TCOMM{i}", f"{table[name].description}{note}", after=f"TFORM{i}")


def _write_parquet(table: Table, path: Path) -> None:
    """Nulls for missing values; unit and description in the metadata of each column, and astropy's header."""
    import pyarrow as pa
    from astropy.table import meta as astropy_meta
    from pyarrow import parquet

    arrays, fields = [], []
    for name in table.colnames:
        column = table[name]
        mask = np.asarray(column.mask) if isinstance(column, MaskedColumn) else None
        values = np.asarray(column)
        arrays.append(pa.array(values.tolist() if values.dtype.kind == "U" else values, mask=mask))
        notes = {
            "description": column.description or "",
            "unit": column.unit.to_string() if column.unit else "",
        }
        fields.append(pa.field(name, arrays[-1].type, metadata=notes))
    header = {"table_meta_yaml": "\n".join(astropy_meta.get_yaml_from_table(table))}
    widths = {
        name: table[name].dtype.itemsize // 4 for name in table.colnames if table[name].dtype.kind == "U"
    }
    header |= {f"table::len::{name}": str(width) for name, width in widths.items()}  # astropy asks for them
    parquet.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=header)), path)


def _read_ecsv(path: Path) -> Table:
    return Table.read(path, format="ascii.ecsv")


def _read_hdf5(path: Path) -> Table:
    return Table.read(path, format="hdf5", path=_HDF5_PATH, character_as_bytes=False)


def _read_fits(path: Path) -> Table:
    table = Table.read(path, format="fits", hdu="CATALOGUE")
    foreign = ("EXTNAME", "comments")
    table.meta = {key.lower(): value for key, value in table.meta.items() if key not in foreign}
    return table


def _read_parquet(path: Path) -> Table:
    from astropy.table import meta as astropy_meta
    from pyarrow import parquet

    arrow = parquet.read_table(path)
    header = astropy_meta.get_header_from_yaml(arrow.schema.metadata[b"table_meta_yaml"].decode().split("\n"))
    table = Table(meta=dict(header.get("meta") or {}))
    for field in arrow.schema:
        column = arrow[field.name]
        notes = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        info = {"unit": notes.get("unit") or None, "description": notes.get("description") or None}
        missing = np.asarray(column.is_null())
        values = column.to_numpy()
        values = values.astype(np.str_) if values.dtype.kind == "O" else values
        table[field.name] = (
            MaskedColumn(values, mask=missing, **info) if missing.any() else Column(values, **info)
        )
    return table


_WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".fits": _write_fits,
    ".ecsv": _write_ecsv,
    ".parquet": _write_parquet,
    ".h5": _write_hdf5,
}
_READERS: dict[str, Callable[[Path], Table]] = {
    ".fits": _read_fits,
    ".ecsv": _read_ecsv,
    ".parquet": _read_parquet,
    ".h5": _read_hdf5,
}
