"""The files of a catalogue, written row block by row block: FITS, ECSV, CSV, VOTable, Parquet and HDF5.

What precedes the rows of a file (widths of strings, which columns have missing values, number of rows) is a
:class:`Layout`, known before the first row is written. astropy writes a table of one row with that layout,
and the rows replace that one: the file is what astropy would write from the whole table at once.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.units import Unit, dex
from astropy.utils.exceptions import AstropyUserWarning

from specinn.errors import ConfigError
from specinn.files import Sink

__all__ = [
    "HDF5_PATH",
    "READERS",
    "ROW_GROUP",
    "WRITERS",
    "Layout",
    "ParquetWriter",
    "Width",
    "arrow_schema",
    "from_arrow",
    "parquet_schema",
    "read_table",
]

HDF5_PATH = "catalogue"
ROW_GROUP = 1 << 16  # rows of a Parquet file that are compressed together: 40 MB of a usual catalogue
_FITS_BLOCK = 2880


@attrs.frozen
class Width:
    """Of the longest string of a column: in characters, and in UTF-8."""

    characters: int = 1
    utf8: int = 1

    @classmethod
    def of(cls, values: Any) -> Width:
        """Of an arrow or numpy array of strings."""
        import pyarrow as pa
        from pyarrow import compute

        texts = pa.array([str(v) for v in values], pa.string()) if isinstance(values, np.ndarray) else values
        characters = compute.max(compute.utf8_length(texts)).as_py() or 1
        utf8 = compute.max(compute.binary_length(texts)).as_py() or 1
        return cls(max(1, characters), max(1, utf8))

    def __or__(self, other: Width) -> Width:
        return Width(*map(max, attrs.astuple(self), attrs.astuple(other)))


@attrs.frozen(eq=False)
class Layout:
    """A table without its rows: ``head`` has the columns (names, dtypes, units, descriptions, meta)."""

    head: Table
    n_rows: int
    widths: Mapping[str, Width]
    masked: frozenset[str]

    @classmethod
    def of(cls, table: Table) -> Layout:
        texts = [name for name in table.colnames if table[name].dtype.kind == "U"]
        masked = frozenset(name for name in table.colnames if np.any(getattr(table[name], "mask", False)))
        widths = {name: Width.of(np.asarray(table[name])) for name in texts}
        return cls(table[:0], len(table), widths, masked)

    def one_row(self, width: str = "characters") -> Table:
        """A table of one row, its strings as long as the longest of all."""
        out = Table(meta=dict(self.head.meta))
        for name in self.head.colnames:
            old = self.head[name]
            if name in self.widths:
                values = np.array(["x" * getattr(self.widths[name], width)])
            else:
                values = np.zeros(1, old.dtype)
            info = {"unit": old.unit, "description": old.description, "meta": old.meta}
            out[name] = (
                MaskedColumn(values, mask=[True], **info) if name in self.masked else Column(values, **info)
            )
        return out


def _write_ecsv(path: Path, layout: Layout, chunks: Iterable[Table]) -> None:
    def parts(table: Table) -> tuple[str, str]:
        """The header, which ends with the names of the columns, and the rows."""
        buffer = io.StringIO()
        table.write(buffer, format="ascii.ecsv")
        text = buffer.getvalue()
        start = text.index("\n", re.search("^[^#]", text, re.MULTILINE).start()) + 1  # type: ignore[union-attr]
        return text[:start], text[start:]

    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(parts(layout.one_row())[0])
        for chunk in chunks:
            file.write(parts(chunk)[1])


def _write_csv(path: Path, layout: Layout, chunks: Iterable[Table]) -> None:
    """Names and values; missing ones are empty, logical ones true and false."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(layout.head.colnames)
        for chunk in chunks:
            writer.writerows(zip(*(_cells(chunk[name]) for name in chunk.colnames), strict=True))


def _cells(column: Any) -> list[str]:
    """The values as text, floats with the fewest digits that give them back."""
    missing = np.ma.getmaskarray(np.ma.asarray(column))
    texts = [str(value) for value in np.asarray(column)]
    if column.dtype.kind == "b":
        texts = [text.lower() for text in texts]
    return ["" if lost else text for text, lost in zip(texts, missing, strict=True)]


def _write_votable(path: Path, layout: Layout, chunks: Iterable[Table]) -> None:
    """TABLEDATA; the header of the catalogue is in PARAM elements."""
    row = layout.one_row()
    head, _, tail = _votable_parts(row, row.meta)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(head)
        for chunk in chunks:
            file.write(_votable_parts(chunk, {})[1])
        file.write(tail)


def _votable_parts(table: Table, meta: Mapping[str, Any]) -> tuple[str, str, str]:
    """The text before the rows, the rows, and the text after them."""
    from astropy.io.votable import from_table
    from astropy.io.votable.exceptions import VOTableSpecWarning
    from astropy.io.votable.tree import Param

    if unsigned := [name for name in table.colnames if table[name].dtype.kind == "u"]:
        table = table.copy(copy_data=False)  # VOTable has none of 32 bits
        for name in unsigned:
            table.replace_column(name, table[name].astype(np.int64))
    document = from_table(table)
    (inner,) = document.iter_tables()
    for field in inner.fields:
        if field.datatype == "bit":
            field.datatype = "boolean"
        elif field.datatype == "unicodeChar":
            field.arraysize = "*"
    for key, value in meta.items():
        text = str(value)
        width = str(max(1, len(text)))
        inner.params.append(Param(document, name=key, datatype="unicodeChar", arraysize=width, value=text))
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # dex is not a unit of the VOUnits standard, and astropy says so
        warnings.simplefilter("ignore", VOTableSpecWarning)
        document.to_xml(buffer, tabledata_format="tabledata")
    text = buffer.getvalue().decode()
    start, end = text.index("<TABLEDATA>\n") + len("<TABLEDATA>\n"), text.rindex("    </TABLEDATA>")
    return text[:start], text[start:end], text[end:]


def _write_hdf5(path: Path, layout: Layout, chunks: Iterable[Table]) -> None:
    """One compound dataset, contiguous, and astropy's description of its columns."""
    import h5py

    with h5py.File(io.BytesIO(), "w") as model:
        layout.one_row().write(model, format="hdf5", path=HDF5_PATH, serialize_meta=True)
        dtype, notes = model[HDF5_PATH].dtype, model[f"{HDF5_PATH}.__table_column_meta__"][:]
        width = {name: f"S{layout.widths[name].utf8}" for name in layout.widths}
        dtype = np.dtype([(name, width.get(name, dtype[name])) for name in dtype.names])
    with Sink(path) as sink, h5py.File(sink, "w") as file:
        dataset = file.create_dataset(HDF5_PATH, (layout.n_rows,), dtype)
        start = 0
        for chunk in chunks:
            rows = np.zeros(len(chunk), dtype)
            for name in chunk.colnames:
                values = chunk[name]
                if values.dtype.kind == "U":
                    rows[name] = np.char.encode(np.asarray(values), "utf-8")
                elif name in layout.masked:
                    rows[name] = _filled(values)  # a reader that ignores the mask must not find a number
                    rows[f"{name}.mask"] = np.ma.getmaskarray(np.ma.asarray(values))
                else:
                    rows[name] = values
            dataset[start : start + len(rows)] = rows
            start += len(rows)
        file.create_dataset(f"{HDF5_PATH}.__table_column_meta__", data=notes)


def _filled(column: Any) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(column), np.nan)


def _write_fits(path: Path, layout: Layout, chunks: Iterable[Table]) -> None:
    """Binary table with TUNIT, TCOMM and TUCD.

    Of dex, unknown to FITS, astropy would warn in TUNIT; it is in astropy's notes and, for TOPCAT, in the
    description of the table as VOTable in the primary HDU ("FITS-plus").
    """
    primary, header, dtype = _fits_head(layout)
    size = 0
    with path.open("wb") as file:
        file.write(primary)
        file.write(header)
        for chunk in chunks:
            rows = np.zeros(len(chunk), dtype)
            for name in chunk.colnames:
                values = chunk[name]
                if values.dtype.kind == "U":  # the standard knows ASCII only; astropy and TOPCAT read UTF-8
                    rows[name] = np.char.encode(np.asarray(values), "utf-8")
                elif values.dtype.kind == "b":
                    rows[name] = np.where(values, ord("T"), ord("F"))
                elif values.dtype.kind == "u":  # FITS has signed integers and TZERO
                    rows[name] = np.asarray(values, np.int64) - 2**31
                else:
                    rows[name] = _filled(values) if values.dtype.kind == "f" else values
            file.write(rows.tobytes())
            size += rows.nbytes
        file.write(bytes(-size % _FITS_BLOCK))


def _fits_head(layout: Layout) -> tuple[bytes, bytes, np.dtype]:
    """The headers of the file, and the bytes of a row."""
    from astropy.io import fits

    buffer = io.BytesIO()
    with warnings.catch_warnings():  # dex is not a unit of the FITS standard, and astropy says so
        warnings.filterwarnings("ignore", ".*dex", AstropyUserWarning)
        QTable(layout.one_row("utf8")).write(buffer, format="fits")  # a QTable: then astropy reads dex back
    buffer.seek(0)
    with fits.open(buffer) as hdus:
        dtype = np.dtype(hdus[1].data.dtype.descr)
        header = hdus[1].header
        header["NAXIS2"] = layout.n_rows
        header["EXTNAME"] = "CATALOGUE"
        for i, name in enumerate(layout.head.colnames, start=1):
            column = layout.head[name]
            note = " (dex)" if column.unit == dex else ""
            header.set(f"TCOMM{i}", f"{column.description}{note}", after=f"TFORM{i}")
            if "ucd" in column.meta:
                header.set(f"TUCD{i}", column.meta["ucd"], after=f"TCOMM{i}")
        return _fits_plus(layout), header.tostring().encode(), dtype


def _fits_plus(layout: Layout) -> bytes:
    """A primary HDU with the columns of the table that follows, as a VOTable without data."""
    from astropy.io import fits

    head, _, tail = _votable_parts(layout.one_row(), {})
    text = (head[: head.rindex("<DATA>")] + tail[tail.rindex("</TABLE>") :]).encode()
    header = fits.Header()
    cards = {"SIMPLE": True, "BITPIX": 8, "NAXIS": 1, "NAXIS1": len(text), "VOTMETA": True, "EXTEND": True}
    header.update(cards)
    return header.tostring().encode() + text + bytes(-len(text) % _FITS_BLOCK)


def arrow_schema(table: Table) -> Any:
    """The columns of a table, with unit and description in the metadata of each."""
    import pyarrow as pa

    fields = []
    for name in table.colnames:
        column = table[name]
        unit = column.unit.to_string() if column.unit else ""
        notes = {"description": column.description or "", "unit": unit, "ucd": column.meta.get("ucd", "")}
        kind = pa.string() if column.dtype.kind == "U" else pa.from_numpy_dtype(column.dtype)
        fields.append(pa.field(name, kind, metadata=notes))
    return pa.schema(fields)


def parquet_schema(layout: Layout) -> Any:
    """That of :func:`arrow_schema`, and in the metadata of the file what astropy looks for."""
    from astropy.table import meta as astropy_meta

    row = layout.one_row()
    header = {"table_meta_yaml": "\n".join(astropy_meta.get_yaml_from_table(row))}
    for name, width in layout.widths.items():
        header[f"table::len::{name}"] = str(width.characters)
    return arrow_schema(row).with_metadata(header)


class ParquetWriter:
    """A Parquet file, with nulls for missing values; ``notes`` are added to the metadata of ``schema``."""

    def __init__(self, path: Path, schema: Any, notes: Mapping[str, str] | None = None) -> None:
        from pyarrow import parquet

        self._schema = schema.with_metadata({**(schema.metadata or {}), **(notes or {})})
        self._waiting: list[Any] = []
        self._writer = parquet.ParquetWriter(path, self._schema)

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self._writer.close()

    def append(self, table: Table) -> None:
        """Add rows; they are written in groups of ``ROW_GROUP``."""
        import pyarrow as pa

        arrays = []
        for field in self._schema:
            column = table[field.name]
            mask = np.asarray(column.mask) if isinstance(column, MaskedColumn) else None
            values = np.asarray(column)
            arrays.append(
                pa.array(values.tolist() if values.dtype.kind == "U" else values, field.type, mask=mask)
            )
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        while sum(map(len, self._waiting)) >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _flush(self, n: int) -> None:
        import pyarrow as pa

        rows = pa.concat_tables(self._waiting).combine_chunks()
        self._writer.write_table(rows.slice(0, n))
        self._waiting = [rows.slice(n)]

    def close(self) -> None:
        if sum(map(len, self._waiting)):
            self._flush(ROW_GROUP)
        self._writer.close()


def _write_parquet(path: Path, layout: Layout, chunks: Iterable[Table]) -> None:
    with ParquetWriter(path, parquet_schema(layout)) as writer:
        for chunk in chunks:
            writer.append(chunk)


def _read_ecsv(path: Path) -> Table:
    return Table.read(path, format="ascii.ecsv")


def _read_hdf5(path: Path) -> Table:
    return Table.read(path, format="hdf5", path=HDF5_PATH, character_as_bytes=False)


def _read_fits(path: Path) -> Table:
    from astropy.io import fits

    with fits.open(path) as file:
        if "CATALOGUE" not in file:  # astropy would read another table
            raise ValueError("it has no table CATALOGUE")
    table = Table.read(path, format="fits", hdu="CATALOGUE")
    foreign = re.compile(r"EXTNAME|comments|(TUCD|TCOMM)\d+")
    table.meta = {key.lower(): value for key, value in table.meta.items() if not foreign.fullmatch(key)}
    return table


def _read_votable(path: Path) -> Table:
    from astropy.io.votable import parse_single_table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        votable = parse_single_table(path, verify="ignore")
        table = votable.to_table(use_names_over_ids=True)
    table.meta = {param.name: _number_or_text(str(param.value)) for param in votable.params}
    for name in table.colnames:
        column = table[name]
        missing = np.ma.getmaskarray(np.ma.asarray(column))
        unit = Unit(str(column.unit)) if column.unit else None  # dex is not a unit of VOTable
        about = " ".join((column.description or "").split())  # which astropy wraps when it writes
        info = {"unit": unit, "description": about or None, "meta": column.meta}
        if column.dtype.kind in "OU":
            values = np.array([str(text) for text in np.ma.filled(column, "")], np.str_)
            table[name] = Column(values.reshape(len(values)), **info)
        elif missing.any():
            table[name] = MaskedColumn(np.asarray(column), mask=missing, **info)
        else:
            table[name] = Column(np.asarray(column), **info)
    return table


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False}.get(text, text)


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    return from_arrow(parquet.read_table(path))


def from_arrow(arrow: Any, meta: Mapping[str, Any] | None = None) -> Table:
    """A table of :class:`ParquetWriter` as astropy's, with units and descriptions; with its own meta, which
    takes time to parse, or with the meta given."""
    from astropy.table import meta as astropy_meta

    if meta is None:
        text = arrow.schema.metadata[b"table_meta_yaml"].decode()
        meta = astropy_meta.get_header_from_yaml(text.split("\n")).get("meta")
    table = Table(meta=dict(meta or {}))
    for field in arrow.schema:
        column = arrow[field.name]
        notes = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        info = {"unit": notes.get("unit") or None, "description": notes.get("description") or None}
        info["meta"] = {"ucd": notes["ucd"]} if notes.get("ucd") else {}
        missing = np.asarray(column.is_null())
        values = column.to_numpy()
        values = values.astype(np.str_) if values.dtype.kind == "O" else values
        table[field.name] = (
            MaskedColumn(values, mask=missing, **info) if missing.any() else Column(values, **info)
        )
    return table


WRITERS: dict[str, Callable[[Path, Layout, Iterable[Table]], None]] = {
    ".fits": _write_fits,
    ".ecsv": _write_ecsv,
    ".parquet": _write_parquet,
    ".h5": _write_hdf5,
    ".vot": _write_votable,
    ".xml": _write_votable,
    ".csv": _write_csv,
}
READERS: dict[str, Callable[[Path], Table]] = {
    ".fits": _read_fits,
    ".ecsv": _read_ecsv,
    ".parquet": _read_parquet,
    ".h5": _read_hdf5,
    ".vot": _read_votable,
    ".xml": _read_votable,
}


def read_table(path: Path, called: str = "") -> Table:
    """A table that a user made, in any of the formats, with its masks. Raises ``ConfigError``, in which
    ``called`` is its name (default: ``@path``)."""
    import warnings

    suffix = path.suffix.lower()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if suffix == ".parquet":
                from pyarrow import parquet

                return from_arrow(parquet.read_table(path), {})
            if suffix in (".h5", ".vot", ".xml"):
                return READERS[suffix](path)
            if suffix == ".csv":
                return _csv(path.read_text(encoding="utf-8-sig"))
            return Table.read(path, format={".ecsv": "ascii.ecsv"}.get(suffix, "fits"))
        except Exception as error:  # each format has errors of its own
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(f"{called or f'@{path}'} could not be read as a table: {reason}") from error


def _csv(text: str) -> Table:
    """A table of CSV; where semicolons divide the columns, as spreadsheets in many languages have it, numbers
    may have decimal commas."""
    lines = text.splitlines()
    names = next((line for line in lines if line.strip()), "")
    if ";" not in names or "," in names:
        return Table.read(lines, format="ascii.csv")
    decimals = re.compile(r"(^|;)([-+]?\d+),(\d+)(?=;|$)")
    return Table.read([decimals.sub(r"\1\2.\3", line) for line in lines], format="ascii.csv", delimiter=";")
