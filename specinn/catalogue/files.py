"""The catalogue as a file or a folder of files: where it may be written, writing and reading it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.table import Column, Table

from specinn.catalogue.formats import READERS, WRITERS, Layout, from_arrow
from specinn.errors import OutputError
from specinn.files import check_folder, check_new, check_not_input, check_output, replacing
from specinn.texts import path_of, portable

__all__ = ["MANIFEST", "PARTS", "check", "is_folder", "read", "write", "write_rows"]

MANIFEST = "_manifest.json"  # readers of Parquet folders pass over what begins with an underscore
PARTS = "part-*.parquet"
_FORMER = {"stranger": "ood_score"}  # columns by their former names


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

    With masks, units and descriptions, and the present names of its columns, if an earlier version wrote it.
    Raises ``OutputError``.
    """
    path = Path(path)
    if path.is_dir():
        table = _read_folder(path)
    elif path.suffix.lower() not in READERS:
        lost = " that can be read back (CSV keeps no units)" if path.suffix.lower() in WRITERS else ""
        raise OutputError(
            f"{path}: the suffix {path.suffix!r} is not a known format{lost}; use one of {', '.join(READERS)}"
        )
    elif not path.is_file():
        raise OutputError(f"{path}: no such file")
    else:
        try:
            table = READERS[path.suffix.lower()](path)
        except Exception as error:  # each format has errors of its own
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise OutputError(f"{path} is not a catalogue that specinn run wrote: {reason}") from error
    for former, name in _FORMER.items():
        if former in table.colnames:
            table.rename_column(former, name)
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
        raise OutputError(f"{path} is an unfinished run: specinn run --resume continues it")
    return from_arrow(pa.concat_tables([parquet.read_table(part) for part in sorted(path.glob(PARTS))]))
