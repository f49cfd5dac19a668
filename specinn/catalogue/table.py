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
from specinn.files import check_folder, check_new, check_not_input, check_output, replacing
from specinn.flags import is_bad, is_warn
from specinn.labels import Label, LabelSet, with_derived_labels
from specinn.posterior import QUANTILES
from specinn.posterior.summary import can_be_absent
from specinn.texts import path_of, portable

if TYPE_CHECKING:
    from specinn.catalogue.result import Result

__all__ = [
    "CARRIED",
    "MANIFEST",
    "PARTS",
    "Field",
    "build",
    "check",
    "is_folder",
    "read",
    "schema",
    "statistics",
    "summarise",
    "write",
    "write_rows",
]

MANIFEST = "_manifest.json"  # readers of Parquet folders pass over what begins with an underscore
PARTS = "part-*.parquet"


@attrs.frozen
class Field:
    """A column: ``dtype`` is a numpy one, ``unit`` in astropy's generic notation ("" for none), ``ucd`` the
    IVOA's word for what it is (UCD1+)."""

    name: str
    dtype: type
    unit: str
    description: str
    ucd: str = ""

    @property
    def column(self) -> dict[str, Any]:
        """Keywords of the astropy column."""
        meta = {"ucd": self.ucd} if self.ucd else {}
        return {"name": self.name, "unit": self.unit or None, "description": self.description, "meta": meta}


_UCDS = {
    "teff": "phys.temperature.effective",
    "logg": "phys.gravity",
    "fe_h": "phys.abund.Fe",
    "vmic": "phys.veloc.microTurb",
    "vbroad": "phys.veloc.rotat",
}
_RANGE_UCDS = {
    "p2_5": "stat.min",
    "p16": "stat.min",
    "median": "stat.median",
    "p84": "stat.max",
    "p97_5": "stat.max",
}

# What a file says of its object and its wavelengths; readers put it into ``meta`` under these names.
CARRIED = (
    Field("frame", str, "", "Rest frame of the wavelengths as read, and so of rv", "pos.frame"),
    Field("frame_from", str, "", "Where frame comes from", "meta.note"),
    Field("medium", str, "", "Medium of the wavelengths as read: air or vacuum", "em.wl"),
    Field("medium_from", str, "", "Where medium comes from", "meta.note"),
    Field("object", str, "", "Object as the file names it", "meta.id;src"),
    Field("survey_id", str, "", "Identifier of the target in its survey", "meta.id"),
    Field("programme", str, "", "Observing programme", "meta.id;obs.proposal"),
    Field("ra", np.float64, "deg", "Right ascension (ICRS) as the file states it", "pos.eq.ra;meta.main"),
    Field("dec", np.float64, "deg", "Declination (ICRS) as the file states it", "pos.eq.dec;meta.main"),
    Field(
        "mjd", np.float64, "d", "Modified Julian date of the observation as the file states it", "time.epoch"
    ),
    Field("exptime", np.float32, "s", "Exposure time", "time.duration;obs.exposure"),
)


def statistics(label: Label, *, corrected: bool = False) -> list[Field]:
    """The columns of one label: ``NAME`` (the MAP), ``NAME_median``, ``NAME_p2_5``, ..., ``NAME_std``.

    When corrections were applied all of them hold corrected values and ``NAME_raw`` the MAP before. Labels
    that may be undetected have ``NAME_upper`` (:attr:`specinn.posterior.Summary.undetected`).
    """
    what = label.description or label.name
    ucd = _UCDS.get(label.name, "phys.abund.X")
    # astropy cannot mask a column in dex(cm s-2): the description says of what it is the logarithm
    unit = "dex" if label.unit.startswith("dex") else label.unit
    fields = [Field(label.name, np.float32, unit, f"{what}: maximum a posteriori", f"{ucd};meta.main")]
    if corrected:
        text = f"{what}: maximum a posteriori before correction"
        fields.append(Field(f"{label.name}_raw", np.float32, unit, text, f"{ucd};stat.uncalib"))
    for key, level in QUANTILES.items():
        if key == "upper":
            continue
        text = (
            f"{what}: median of the posterior"
            if key == "median"
            else f"{what}: {100 * level:g} percentile of the posterior"
        )
        fields.append(Field(f"{label.name}_{key}", np.float32, unit, text, f"{ucd};{_RANGE_UCDS[key]}"))
    text = f"{what}: standard deviation of the posterior"
    fields.append(Field(f"{label.name}_std", np.float32, unit, text, f"stat.stdev;{ucd}"))
    if can_be_absent(label.name):
        text = f"{what}: upper limit, 95 percentile of the posterior, where nothing is detected"
        fields.append(Field(f"{label.name}_upper", np.float32, unit, text, f"{ucd};stat.max"))
    return fields


_CHECKS = {
    "arms": Field(
        "arm_disagreement",
        np.float32,
        "",
        "How far apart the values of single arms are, in sigma, of the worst label; above 4: flag",
        "meta.code.qual",
    ),
    "model": Field(
        "misfit",
        np.float32,
        "",
        "How far the spectrum is from the model spectrum of the values, of the worst arm; above 1: flag",
        "meta.code.qual",
    ),
}


def schema(
    labels: LabelSet, arms: Sequence[str], *, corrected: bool = False, checks: Sequence[str] = ()
) -> tuple[Field, ...]:
    """All columns of a catalogue, in order; ``checks`` are those of the run (``arms``, ``model``)."""
    fields = [
        Field("id", str, "", "Identifier of the spectrum", "meta.id;meta.main"),
        Field("path", str, "", "File of the spectrum", "meta.id;meta.file"),
        Field("instrument", str, "", "Instrument as named by the user", "meta.id;instr"),
        Field("row", np.int64, "", "Number of the row, from 0", "meta.record"),
    ]
    for arm in arms:
        text = f"Median S/N per Angstrom in the {arm} arm; 0 without pixels"
        fields.append(Field(f"snr_{arm}", np.float32, "", text, "stat.snr"))
    velocity = "spect.dopplerVeloc.opt"
    text = "Radial velocity by which the spectrum was shifted to rest"
    fields += [
        Field("rv", np.float32, "km s-1", text, velocity),
        Field(
            "rv_error",
            np.float32,
            "km s-1",
            "Uncertainty of rv, where it was measured",
            f"stat.error;{velocity}",
        ),
        *CARRIED,
    ]
    for label in with_derived_labels(labels):
        fields += statistics(label, corrected=corrected)
    stranger = "How unlike those of the training the spectrum is; above 1: flag"
    rejected = "Fraction of samples outside the bounds of the training set"
    return (
        *fields,
        Field("stranger", np.float32, "", stranger, "meta.code.qual"),
        *(_CHECKS[name] for name in checks),
        Field("rejected_fraction", np.float32, "", rejected, "meta.code.qual"),
        # signed, because VOTable has no unsigned integers of 32 bits
        Field("flags", np.int32, "", "Bit mask; its bits are explained by: specinn flags VALUE", "meta.code"),
        Field(
            "flag_warn",
            np.bool_,
            "",
            "At least one bit of flags asks for a look before use",
            "meta.code.qual",
        ),
        Field("flag_bad", np.bool_, "", "The row has no trustworthy values", "meta.code.error"),
        Field("message", str, "", "What went wrong, in words", "meta.note"),
        Field("model", str, "", "Model and the start of the SHA-256 of its file", "meta.version"),
    )


def summarise(result: Result, *, instrument: str, model: str) -> dict[str, np.ndarray]:
    """The columns of :func:`schema` for the spectra of a result; NaN where there is no value."""
    n, meta, found = len(result), result.meta, result.summary
    flags = np.asarray(meta["flags"], np.uint32)
    columns: dict[str, np.ndarray] = {name: np.ma.asarray(meta[name]) for name in meta.colnames}
    if "survey_id" not in columns and "specuid" in columns:
        columns["survey_id"] = columns["specuid"]
    columns |= {
        "instrument": columns.get("instrument", np.array([instrument] * n)),
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
    """Write the catalogue in the format of the suffix, one of ``WRITERS``, whole or not at all.

    The same table gives the same bytes: no file holds a date. Missing values are nulls (empty in ECSV, CSV
    and VOTable, masked in HDF5 and Parquet, NaN in FITS, whose null that is). Raises ``OutputError``, also
    where the file is a spectrum of the catalogue.
    """
    path = check_output(path, WRITERS, overwrite=overwrite)
    if "path" in table.colnames:
        check_not_input(path, map(path_of, dict.fromkeys(map(str, table["path"]))))
    table = _with_portable_texts(table)
    write_rows(path, Layout.of(table), [table])


def _with_portable_texts(table: Table) -> Table:
    """The table, or one whose texts every format can hold (see :func:`specinn.texts.portable`)."""
    out = table
    for name in table.colnames:
        if table[name].dtype.kind in "UO":
            texts = [str(text) for text in np.ma.filled(np.ma.asarray(table[name], object), "")]
            safe = [portable(text) for text in texts]
            if safe != texts or table[name].dtype.kind == "O":
                out = table.copy(copy_data=False) if out is table else out
                notes = {"description": table[name].description, "meta": table[name].meta}
                out[name] = Column(np.array(safe, np.str_).reshape(len(safe)), **notes)
    return out


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
        lost = " that can be read back (CSV keeps no units)" if path.suffix.lower() in WRITERS else ""
        raise OutputError(
            f"{path}: the suffix {path.suffix!r} names no format{lost}; use one of {', '.join(READERS)}"
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
            notes = {"description": table[name].description, "meta": table[name].meta}
            table[name] = Column(np.array(values, dtype=np.str_).reshape(len(values)), **notes)
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
