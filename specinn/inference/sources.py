"""Where spectra come from: files, lists and tables of files, folders; and what the user states for each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.catalogue.formats import read_table
from specinn.errors import ConfigError, ReadError, SpecinnError, near
from specinn.inference.options import as_frame, as_medium, resolving_power, velocity
from specinn.instruments import Instrument
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import read, read_rows
from specinn.texts import plural

if TYPE_CHECKING:
    from specinn.plugins import Plugins

__all__ = [
    "SUFFIXES",
    "Item",
    "Source",
    "by_instrument",
    "check_items",
    "expand",
    "failed_source",
    "file_source",
    "folder_message",
    "from_table",
    "group",
    "item_sources",
    "join_arms",
    "listed",
    "unused_columns",
    "with_stated",
]

SUFFIXES = (  # of files that are taken from a folder
    ".fits", ".fit", ".fts", ".fz", ".txt", ".csv", ".tsv", ".dat", ".asc", ".ascii", ".ecsv", ".s", ".vot",
    ".xml", ".spec", ".ndf",
)  # fmt: skip
_PACKED = (".gz", ".bz2", ".xz")
_TABLES = (".fits", ".fit", ".csv", ".ecsv", ".vot", ".xml", ".parquet", ".h5")
_COLUMNS = {  # names of the columns of a table of files, and their aliases
    "path": ("file", "filename"),
    "id": (),
    "rv": ("radial_velocity", "vrad", "v_rad", "radvel"),
    "medium": (),
    "frame": (),
    "resolving_power": ("r", "resolution", "spec_res"),
    "instrument": (),
}
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "id": str,
    "rv": lambda value: velocity("rv", value),
    "medium": as_medium,
    "frame": as_frame,
    "resolving_power": resolving_power,
    "instrument": str,
}
_UNITS = {"rv": "km/s"}
_SAME_ARM = (
    0.5  # of the pixels of a file, in the arms of another; those of one exposure share their edges at most
)


@attrs.frozen
class Item:
    """A file of spectra.

    ``stated`` holds what the user states for its spectra, overriding the file (``id``, ``rv`` in km/s,
    ``medium``, ``frame``, ``resolving_power``, ``instrument``); ``others`` are further columns of the table
    that named the file; neighbours with the same ``group`` are one spectrum.
    """

    path: str
    stated: Mapping[str, Any] = attrs.field(factory=dict)
    others: Mapping[str, str] = attrs.field(factory=dict)
    group: str = ""


def expand(
    arguments: Iterable[str | Path], *, recursive: bool = False, say: Callable[[str], None] = lambda _: None
) -> list[Item]:
    """The files denoted by the arguments: files as they are, ``@FILE`` the list or table of that name, and
    with ``recursive`` all spectra below a folder. Raises ``ConfigError``; ``say`` is called with what was
    left out.
    """
    out: list[Item] = []
    for entry in map(str, arguments):
        path = Path(entry)
        if entry.startswith("@") and not path.exists():
            out += listed(Path(entry[1:]))
        elif recursive and path.is_dir():
            out += _below(path, say)
        else:
            out.append(Item(entry))
    return out


def _below(folder: Path, say: Callable[[str], None]) -> list[Item]:
    """The files below a folder, by their suffix; in the order of their names."""
    out: list[str] = []
    left: list[str] = []
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                (out if _suffix(name) in SUFFIXES else left).append(os.path.join(at, name))
    if left:
        say(
            f"{plural(len(left), 'file')} below {folder} left out, because their names are not those of "
            f"spectra: {left[0]}"
        )
    if not out:
        raise ConfigError(
            f"{folder} holds no file with the suffix of a spectrum ({', '.join(SUFFIXES[:6])}, ...)"
        )
    return [Item(path) for path in out]


def _suffix(name: str) -> str:
    lower = name.lower()
    for packed in _PACKED:
        lower = lower.removesuffix(packed)
    return os.path.splitext(lower)[1]


# Lists and tables -------------------------------------------------------------------------------------------


def listed(path: Path) -> list[Item]:
    """The files that a list (one path per line) or a table (CSV, ECSV, FITS, VOTable, Parquet) names.

    Relative paths are those from the working folder or, where there is no such file, from that of the list.
    Raises ``ConfigError``.
    """
    if not path.is_file():
        raise ConfigError(
            f"@{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a list of files"
        )
    if path.suffix.lower() in _TABLES:
        items = from_table(read_table(path), str(path))
    else:
        lines = (os.fsdecode(line).strip() for line in path.read_bytes().splitlines())
        items = [Item(line) for line in lines if line and not line.startswith("#")]
        if any("\0" in item.path for item in items):
            raise ConfigError(
                f"@{path} is not text: expected one path per line, or a table ({', '.join(_TABLES)})"
            )
        first = (
            {word.strip("\"'").lower() for word in re.split(r"[\s,;]+", items[0].path)} if items else set()
        )
        if len(items) > 1 and first & {"path", *_COLUMNS["path"]} and not os.path.exists(items[0].path):
            raise ConfigError(
                f"@{path} begins with names of columns ({items[0].path}): a table needs the suffix of "
                "one, such as .csv"
            )
    if not items:
        raise ConfigError(f"@{path} names no files")
    return [attrs.evolve(item, path=_from(item.path, path.parent)) for item in items]


def _from(path: str, folder: Path) -> str:
    if os.path.isabs(path) or os.path.exists(path) or not (folder / path).exists():
        return path
    return str(folder / path)


def from_table(table: Any, name: str = "the table") -> list[Item]:
    """The files of a table (of astropy or pandas) with a column ``path``. Raises ``ConfigError``."""
    columns = {
        str(column).strip().lower(): column for column in getattr(table, "colnames", None) or table.columns
    }
    recognised = {
        key: next(columns[word] for word in (key, *words) if word in columns)
        for key, words in _COLUMNS.items()
        if any(word in columns for word in (key, *words))
    }
    if "path" not in recognised:
        found = ", ".join(map(str, columns.values()))
        hint = "; one that is a spectrum is for SpectrumBatch.from_arrays" if "flux" in columns else ""
        raise ConfigError(f"{name}: expected a column path, found {found}{hint}")
    values = {
        key: _plain(table[column], _UNITS.get(key, ""), f"{name}: {key}")
        for key, column in recognised.items()
    }
    others = {str(c): _plain(table[c], "", "") for c in columns.values() if c not in recognised.values()}
    items = []
    seen: set[str] = set()
    for i, path in enumerate(values.pop("path")):
        if path is None:
            raise ConfigError(f"{name}: row {i + 1} has no path")
        path = str(path)
        if path in seen:
            raise ConfigError(
                f"{name}: {path} is listed twice: give a file once, even if it holds many spectra"
            )
        seen.add(path)
        stated = {}
        for key, cells in values.items():
            if cells[i] is None:
                continue
            try:
                stated[key] = _CHECKS[key](cells[i])
            except ConfigError as error:
                raise ConfigError(f"{name}, row {i + 1} ({path}): {error}") from None
        rest = {
            key: str(cells[i])
            for key, cells in others.items()
            if cells[i] is not None and np.ndim(cells[i]) == 0
        }
        items.append(Item(path, stated, rest))
    return items


def unused_columns(items: Sequence[Item], group_by: str | None = None) -> str:
    """A sentence that names the columns of the tables of files that say nothing of the spectra; or ""."""
    names = dict.fromkeys(name for item in items for name in item.others if name != group_by)
    if not names:
        return ""
    shown = ", ".join(list(names)[:6]) + (", ..." if len(names) > 6 else "")
    return (
        f"of the table of files, {plural(len(names), 'column is', 'columns are')} not used: {shown} (it may "
        f"say {', '.join(list(_COLUMNS)[1:])}; what is known of stars is for --prior)"
    )


def _plain(column: Any, unit: str, what: str) -> list[Any]:
    """The cells, those without a value (masked, NaN, blank) as None."""
    if unit and getattr(column, "unit", None) is not None:
        from astropy import units as u

        try:
            factor = column.unit.to(unit)
        except u.UnitConversionError:
            raise ConfigError(f"{what} has the unit {column.unit}; expected {unit}") from None
        column = np.ma.asarray(column.value if hasattr(column, "value") else column, float) * factor
    out = []
    for cell in column:
        if isinstance(cell, bytes):
            cell = cell.decode("utf-8", "surrogateescape")
        if isinstance(cell, str):
            cell = cell.strip()
        if cell is None or cell is np.ma.masked or (np.ndim(cell) == 0 and (cell != cell or str(cell) == "")):
            cell = None
        out.append(cell)
    return out


# Groups -----------------------------------------------------------------------------------------------------


def group(items: Sequence[Item], by: str) -> list[Item]:
    """The items, with adjacent ones that are one exposure of one star grouped.

    ``by`` is a column of the table that names the files, else a keyword of their FITS headers; files of one
    group must also share the night, if the headers state it. A file without a value stays by itself. Raises
    ``ConfigError`` where no file has one.
    """
    keys = []
    for item in items:
        value = item.others.get(by) or item.stated.get(by)
        keys.append(str(value) if value else _header_key(item.path, by))
    if not any(keys):
        columns = sorted({name for item in items for name in item.others})
        hint = near(by, columns) if columns else "for example object"
        raise ConfigError(
            f"--group-by {by}: neither a column of a table nor a FITS keyword of the files has this name; "
            f"{hint}"
        )
    first: dict[str, int] = {}
    places = [first.setdefault(key, i) if key else i for i, key in enumerate(keys)]
    order = sorted(range(len(items)), key=lambda i: (places[i], i))
    return [attrs.evolve(items[i], group=keys[i] and f"{places[i]}:{keys[i]}") for i in order]


def _header_key(path: str, keyword: str) -> str:
    """The value of a keyword and the night, of the first headers of a FITS file that have them; else ""."""
    from astropy.io import fits

    value = night = ""
    try:
        with fits.open(path, lazy_load_hdus=True) as hdus:
            for hdu in hdus:
                value = value or str(hdu.header.get(keyword, "")).strip()
                night = night or _night(hdu.header)
                if value and night:
                    break
    except Exception:  # any defect of the file is reported when it is read
        return ""
    return f"{value} {night}".strip() if value else ""


def _night(header: Any) -> str:
    """The Julian day number that a header names: it changes at noon in Greenwich."""
    from astropy.time import Time

    for key in ("MJD-OBS", "UTMJD", "MJD"):
        value = header.get(key)
        if isinstance(value, (int, float)) and value > 0:
            return str(int(value - 0.5))
    date = str(header.get("DATE-OBS", "")).strip()
    if not date:
        return ""
    if "T" not in date and ":" in str(header.get("UTSTART", header.get("UT", ""))):
        date += f"T{str(header.get('UTSTART', header.get('UT'))).strip()}"
    try:
        return str(int(Time(date).mjd - 0.5))
    except ValueError:
        return ""


def join_arms(batches: Sequence[SpectrumBatch], name: str) -> SpectrumBatch:
    """Batches of the same stars in different wavelength ranges as one, whose arms are theirs.

    Raises ``ReadError`` where they differ in the number of spectra, or cover the same wavelengths.
    """
    first = batches[0]
    if any(len(batch) != len(first) for batch in batches):
        counts = ", ".join(str(len(batch)) for batch in batches)
        raise ReadError(f"{name}: files of {counts} spectra cannot be joined: expected equal numbers")
    batches = [batch.in_medium(first.medium) for batch in batches]
    _refuse_exposures(batches, name)
    arms: dict[str, slice] = {}
    start = 0
    for i, batch in enumerate(batches):
        for arm, pixels in batch.arms.items():
            low, high, _ = pixels.indices(batch.wavelength.size)
            arms[f"{i + 1}-{arm}"] = slice(start + low, start + high)
        start += batch.wavelength.size
    power: Any = None
    if any(batch.resolving_power is not None for batch in batches):
        lost = [batch for batch in batches if batch.resolving_power is None]
        if lost:
            path, others = lost[0].meta["path"][0], plural(len(batches) - len(lost), "other file")
            raise ReadError(
                f"{path} states no resolving power, but {others} of {name} do: give it with --resolving-power"
            )
        power = np.concatenate(
            [np.broadcast_to(np.asarray(b.resolving_power, float), b.wavelength.shape) for b in batches]
        )
    flux, sigma, mask = (
        np.concatenate([getattr(batch, field) for batch in batches], axis=1)
        for field in ("flux", "sigma", "mask")
    )
    meta = first.meta.copy()
    meta["id"] = [name] if len(first) == 1 else [f"{name}#{i}" for i in range(len(first))]
    meta["path"] = [";".join(str(batch.meta["path"][row]) for batch in batches) for row in range(len(first))]
    return SpectrumBatch(
        np.concatenate([batch.wavelength for batch in batches]),
        flux,
        sigma,
        mask,
        power,
        first.medium,
        meta,
        arms,
    )


def _refuse_exposures(batches: Sequence[SpectrumBatch], name: str) -> None:
    """Raises ``ReadError`` where one of two has most of its pixels within the arms of the other: exposures
    differ in flux, masks and velocity, and are no arms of one spectrum."""
    for one, other in permutations(batches, 2):
        ranges = [(wave[0], wave[-1]) for wave in (other.wavelength[arm] for arm in other.arms.values())]
        within = np.any([(one.wavelength >= a) & (one.wavelength <= b) for a, b in ranges], axis=0)
        if np.mean(within) > _SAME_ARM:
            paths = sorted(str(batch.meta["path"][0]) for batch in (one, other))
            low, high = one.wavelength[within].min(), one.wavelength[within].max()
            raise ReadError(
                f"{name}: {paths[0]} and {paths[1]} both cover {low:.0f} to {high:.0f} Angstrom, expected "
                "the arms of one exposure: group by what differs from exposure to exposure, or process "
                "exposures one by one and take specinn combine"
            )


# Sources ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Source:
    """Where spectra come from: ``open`` gives them, and may raise ``ReadError`` at any time.

    ``first_key`` is the ``meta["key"]`` of its first spectrum, on which that one's random draws depend; those
    of the following spectra continue from there. ``stated`` holds what the user states for all its spectra
    (see :class:`Item`), or ``rv`` as an array with a velocity in km/s for each (NaN: not known).
    """

    name: str
    open: Callable[[], Iterable[SpectrumBatch]]
    first_key: int = 0
    stated: Mapping[str, Any] = attrs.field(factory=dict)


def with_stated(
    batch: SpectrumBatch, stated: Mapping[str, Any], start: int, instrument: Instrument | None
) -> SpectrumBatch:
    """The batch with what the user states for its spectra, which are those from ``start`` of their source.

    ``instrument`` is the stated one, whose resolving power holds where neither the file nor the user has any.
    """
    n = len(batch)
    meta = batch.meta.copy()
    power = batch.resolving_power
    if stated.get("resolving_power") is not None:
        power = stated["resolving_power"]
    elif power is None and instrument is not None:
        power = instrument.resolving_power_at(batch.wavelength)
    if "id" in stated:
        meta["id"] = (
            [stated["id"]] if n == 1 and not start else [f"{stated['id']}#{start + i}" for i in range(n)]
        )
    if "instrument" in stated:
        meta["instrument"] = [stated["instrument"]] * n
    for name in ("medium", "frame"):
        if stated.get(name):
            meta[name], meta[f"{name}_from"] = [stated[name]] * n, ["user"] * n
    if stated.get("rv") is not None:
        rv = np.asarray(stated["rv"], float)
        rv = np.full(n, rv) if rv.ndim == 0 else rv[start : start + n]
        before = np.full(n, np.nan)
        if "rv" in meta.colnames:
            before = np.ma.filled(np.ma.asarray(meta["rv"], float), np.nan)
        meta["rv"] = np.where(np.isfinite(rv), rv, before)
    medium = stated.get("medium") or batch.medium
    return attrs.evolve(batch, meta=meta, resolving_power=power, medium=medium)


def by_instrument(batch: SpectrumBatch, instrument: Instrument) -> SpectrumBatch:
    """The batch with the medium and the frame of its instrument, where its file states none."""

    def unstated(column: str, word: str) -> bool:
        return column in batch.meta.colnames and all(text == word for text in batch.meta[column])

    said: dict[str, Any] = {}
    if instrument.medium != batch.medium and unstated("medium_from", "assumed"):
        said["medium"] = instrument.medium
    if instrument.frame and unstated("frame", "unknown"):
        said["frame"] = instrument.frame
    if not said:
        return batch
    meta = batch.meta.copy()
    for name, value in said.items():
        meta[name] = [value] * len(batch)
        meta[f"{name}_from"] = [f"the instrument {instrument.name}"] * len(batch)
    return attrs.evolve(batch, meta=meta, medium=said.get("medium", batch.medium))


def check_items(items: Sequence[Item], plugins: Plugins, format: str = "auto") -> None:
    """Check all items: raises ``ConfigError`` if every one is a folder, ``PluginError`` for a format that no
    reader knows, and for an unknown instrument."""
    if items and all(os.path.isdir(item.path) for item in items):
        raise ConfigError(folder_message(Path(items[0].path)))
    if format != "auto":
        plugins.record("reader", format)
    for name in dict.fromkeys(item.stated["instrument"] for item in items if "instrument" in item.stated):
        plugins.instrument(name)


def item_sources(
    items: Sequence[Item],
    plugins: Plugins,
    format: str = "auto",
    first: int = 0,
    rows: tuple[int, int] | None = None,
) -> list[Source]:
    """The sources of items, of which the first has the number ``first`` in its run; a group is one source.

    ``rows`` are the spectra that are wanted of a single item.
    """
    out: list[Source] = []
    start = 0
    while start < len(items):
        stop = start + 1
        while items[start].group and stop < len(items) and items[stop].group == items[start].group:
            stop += 1
        members = items[start:stop]
        stated = members[0].stated
        if len(members) == 1:
            out.append(
                file_source(Path(members[0].path), first + start, plugins, format, stated=stated, rows=rows)
            )
        else:
            out.append(_group_source(members, first + start, plugins, format))
        start = stop
    return out


def _group_source(members: Sequence[Item], number: int, plugins: Plugins, format: str) -> Source:
    name = str(members[0].stated.get("id") or members[0].group.partition(":")[2])

    def batches() -> Iterator[SpectrumBatch]:
        parts = []
        for i, item in enumerate(members):
            source = file_source(Path(item.path), number + i, plugins, format)
            stated = {key: value for key, value in item.stated.items() if key != "id"}
            instrument = plugins.instrument(stated["instrument"]) if "instrument" in stated else None
            read = [with_stated(batch, stated, 0, instrument) for batch in source.open()]
            parts.append(SpectrumBatch.concatenate(read))
        yield join_arms(parts, name)

    return Source(name, batches, number << 32)


def file_source(
    path: Path,
    number: int,
    plugins: Plugins,
    format: str = "auto",
    *,
    stated: Mapping[str, Any] | None = None,
    rows: tuple[int, int] | None = None,
) -> Source:
    """The source of a file, which is the one of that ``number`` in its run; of ``rows``, from one to before
    the other, where they are given."""

    def batches() -> Iterable[SpectrumBatch]:
        if path.is_dir():
            raise ReadError(folder_message(path))
        if not path.exists():
            raise ReadError(f"{path}: no such file")
        if rows is not None:
            return read_rows(path, plugins, format, *rows)
        return read(path, plugins, format, (stated or {}).get("medium"))

    # far apart, so that the draws of a spectrum do not depend on how many others the files before it hold
    start = 0 if rows is None else rows[0]
    return Source(str(path), batches, (number << 32) + start, stated or {})


def folder_message(path: Path) -> str:
    """The message about a folder given as a file."""
    return (
        f"{path} is a folder: give its files, for example {path / '*.fits'} "
        "(specinn run --recursive takes all below it)"
    )


def failed_source(name: str, error: SpecinnError, first_key: int) -> Source:
    """A source that only raises the reason."""

    def batches() -> Iterable[SpectrumBatch]:
        raise error

    return Source(name, batches, first_key)
