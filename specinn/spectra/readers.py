"""From a file of any known format to batches of spectra; every failure is one sentence."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import mmap
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from specinn.errors import PluginError, ReadError, SpecinnError, SpectrumWarning
from specinn.instruments import Medium
from specinn.plugins import Plugins
from specinn.plugins.interfaces import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.batch import as_medium, warn_of_snr
from specinn.spectra.hdus import check_hdus

__all__ = [
    "MOST_BYTES",
    "count",
    "find_format",
    "let_go",
    "open_fits",
    "read",
    "read_rows",
    "reason",
    "unpacked",
]

_PACKED: dict[bytes, tuple[str, Any]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
MOST_BYTES = 2**30  # of a packed file when it is unpacked
_IN_MEMORY = 2**26  # bytes that are unpacked in memory and not on the disk
_BLOCK = 2**20
_RECORD = 2880  # bytes, whose multiples FITS files have
_MEANINGS = {  # of what astropy says
    r"Unparsable card \((\S+)\)": r"the value of \1 in a header is not closed or no value",
    r"Keyword '(\S+)' not found": r"\1 is missing in a header",
    r"[Cc]olumn name must be a string|field names must be strings": "a TTYPE is not the name of a column",
    r"Format (\S+) is not recognized": r"a TDISP is \1, which is no format of a column",
    "name already used as a name": "two columns have the same name",
    r"could not convert string to float: (?:np\.bytes_\()?b?('[^']*'|\"[^\"]*\")": (
        r"a number of a table is \1"
    ),
    "COMPRESSED_DATA column has zero length": "the tiles of a compressed image have no bytes",
    "Key 'COMPRESSED_DATA' does not exist": "the column COMPRESSED_DATA of a compressed image is missing",
    "_CorruptedHDU": "the header of an HDU cannot be understood",
    r"ERROR \d+ in wcs\w+\(\) at line \d+ of file \S+ (?:In (\w+) : )?(.+?)\.?$": (
        r"the axis is none that the FITS standard knows: \1 \2"
    ),
    r"Spectral\w+ instances require units .* cannot set it to '(.*)'\.?$": r"the unit of the axis is \1",
    "decompression (?:error|warning)|hit end of compressed": "the tiles of a compressed image are damaged",
}
_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "a NumPy array",
    **{magic: f"a {name} file" for magic, (name, _) in _PACKED.items()},
}


def read(
    path: str | Path, plugins: Plugins, format: str = "auto", medium: str | None = None
) -> Iterator[SpectrumBatch]:
    """The spectra of one file, in file order, in batches of bounded size.

    What a reader did not understand, left out or doubts is a ``SpectrumWarning`` that names the file, and
    stands in the column ``remarks`` of ``meta``. Warnings of the libraries underneath are silenced.

    Parameters
    ----------
    path : str or Path
        The file, packed (gzip, bzip2, xz) or not.
    plugins : Plugins
        Those that offer the readers.
    format : str
        The name of a reader, or ``auto``: then the readers of all plugins look at the content of the file,
        highest priority first, and the first that knows it reads it.
    medium : {"air", "vacuum"}, optional
        Stands in for what the file says of its wavelengths.

    Yields
    ------
    SpectrumBatch
        As :meth:`specinn.plugins.interfaces.Reader.read` says.

    Raises
    ------
    ReadError
        One sentence that names the file, what was found and what was expected.
    PluginError
        For a ``format`` that no plugin offers.

    Examples
    --------
    >>> import specinn
    >>> from specinn.plugins import Plugins
    >>> from specinn.spectra.readers import find_format, read
    >>> plugins, path = Plugins(), specinn.example_files()[0]
    >>> find_format(path, plugins)
    '4most'
    >>> [len(batch) for batch in read(path, plugins, medium="air")]
    [1]
    """
    path = Path(path)
    wanted = None if medium is None else as_medium(medium)
    name, reader = _choose(path, plugins, format)
    yield from _guarded(path, name, lambda: reader.read(path), wanted)


def _guarded(
    path: Path, name: str, read_all: Callable[[], Iterable[SpectrumBatch]], wanted: Medium | None = None
) -> Iterator[SpectrumBatch]:
    """What the reader ``name`` gives for a file; whatever it raises is a ``ReadError``. The medium ``wanted``
    stands in for that of the file."""
    batches: Iterator[SpectrumBatch] | None = None
    n_spectra = 0
    remarks: list[str] = []
    while True:
        try:
            # not around the yield: the caller's filters are his own
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", SpectrumWarning)
                if batches is None:
                    batches = iter(read_all())
                batch = next(batches, None)
                if batch is not None:
                    warn_of_snr(batch)
        except SpecinnError as cause:
            raise ReadError(_named(path, str(cause))) from cause
        except Exception as cause:
            raise ReadError(f"{path}: cannot be read as {name} ({reason(cause)})") from cause
        new = list(dict.fromkeys(str(each.message) for each in caught))
        for sentence in new:
            if sentence not in remarks and not (wanted and "--medium" in sentence):
                remarks.append(sentence)
                warnings.warn(SpectrumWarning(f"{path}: {sentence}"), stacklevel=2)
        if batch is None:
            break
        if n_spectra == 0 and len(batch) == 1 and batch.mask.all():
            raise ReadError(
                f"{path}: all {batch.mask.size} pixels are zero, not finite or flagged as bad: nothing to use"
            )
        n_spectra += len(batch)
        batch = batch.with_medium(wanted)
        batch.meta["medium"] = [batch.medium] * len(batch)
        batch.meta["remarks"] = ["; ".join(remarks)] * len(batch)
        yield batch
    if n_spectra == 0:
        raise ReadError(f"{path}: holds no spectrum (read as {name})")


def count(path: str | Path, plugins: Plugins, format: str = "auto") -> int | None:
    """The number of spectra in a file, where its reader can tell without reading them; else None.

    None for whatever cannot be read, too: why not is said by :func:`read`.
    """
    try:
        return _choose(Path(path), plugins, format)[1].count(Path(path))
    except Exception:  # of any kind, as strange files give
        return None


def read_rows(
    path: str | Path, plugins: Plugins, format: str, start: int, stop: int
) -> Iterator[SpectrumBatch]:
    """The spectra from number ``start`` to before ``stop`` of a file whose reader can count them.

    As :func:`read`, and raises what it raises.
    """
    path = Path(path)
    name, reader = _choose(path, plugins, format)
    yield from _guarded(path, name, lambda: reader.read_rows(path, start, stop))


def find_format(path: str | Path, plugins: Plugins) -> str:
    """The name of the reader that ``auto`` chooses for a file; errors as in :func:`read`."""
    return _choose(Path(path), plugins, "auto")[0]


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Any, int]]:
    """The content of a file (packed by gzip, bzip2 or xz, or not) as an open file, and its size in bytes.

    What is packed is unpacked in memory or, where it is large, on the disk. Raises ``ReadError`` where it is
    damaged, or larger than 1 GiB when unpacked.
    """
    with open(path, "rb") as file:
        start = file.read(6)
        kind = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
        if kind is None:
            file.seek(0)
            yield file, path.stat().st_size
            return
    name, opener = kind
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as out:
        size = 0
        try:
            with opener(path, "rb") as packed:
                while block := packed.read(_BLOCK):
                    size += len(block)
                    if size > MOST_BYTES:
                        raise ReadError(
                            f"{path}: a {name} file of {path.stat().st_size} bytes that unpacks to more than "
                            f"{MOST_BYTES} bytes: unpack it first if it is what it should be"
                        )
                    out.write(block)
        except (EOFError, OSError, lzma.LZMAError, ValueError) as cause:
            raise ReadError(
                f"{path}: the {name} file is truncated or damaged ({cause}): fetch it again"
            ) from cause
        except Exception as cause:  # zlib.error and its like
            if isinstance(cause, ReadError):
                raise
            raise ReadError(f"{path}: the {name} file is damaged ({cause}): fetch it again") from cause
        out.seek(0)
        yield out, size


@contextmanager
def open_fits(path: Path) -> Iterator[fits.HDUList]:
    """An open FITS file (packed or not) all of whose bytes are there; data are read when they are asked for.

    Raises ``ReadError`` for a truncated file, which astropy gives as zeros or short, with a warning, and for
    whatever :func:`specinn.spectra.hdus.check_hdus` finds.
    """
    with contextlib.ExitStack() as stack:
        file, size = stack.enter_context(unpacked(path))
        end = check_hdus(path, file, size)
        file.seek(end)
        if file.read(_BLOCK).strip(b"\0 \r\n\x1a"):
            sentence = f"{size - end} bytes after the last HDU are not understood and left out"
            warnings.warn(SpectrumWarning(sentence), stacklevel=2)
        file.seek(0)
        if end == size and size % _RECORD and size <= _IN_MEMORY:
            # without the padding at the end astropy reads no columns of variable length
            file = io.BytesIO(file.read() + bytes(-size % _RECORD))
        plain = isinstance(getattr(file, "name", None), str)
        try:
            hdus = fits.open(path if plain else file, memmap=plain)
            scaled = any(_is_scaled(hdu.header) for hdu in hdus)
            if plain and scaled:  # integers that stand for other numbers cannot be mapped
                hdus.close()
                hdus = fits.open(path, memmap=False)
        except Exception as cause:  # of any kind, as astropy raises for headers that contradict themselves
            raise _damaged_header(path, cause) from cause
        with hdus:
            yield hdus


def _damaged_header(path: Path, cause: Exception) -> ReadError:
    return ReadError(f"{path}: a FITS header is damaged ({reason(cause)}): fetch the file again")


def reason(cause: Exception) -> str:
    """What an error of the libraries underneath means, where that is known; else what it says."""
    text = " ".join(str(cause).split()) or "no reason given"
    for pattern, meaning in _MEANINGS.items():
        match = re.search(pattern, text)
        if match:
            return match.expand(meaning)
    return f"{type(cause).__name__}: {text}"


def _is_scaled(header: Any) -> bool:
    return any(key in header for key in ("BSCALE", "BZERO", "BLANK")) and header.get("XTENSION") in (
        None,
        "IMAGE",
    )


def let_go(data: np.ndarray) -> None:
    """Take what was read of a file's data out of memory; what is asked for again is read again.

    Pages of a mapped file stay, and count as memory, until the file is closed, which may be much later.
    """
    source: Any = data
    while isinstance(source, np.ndarray):
        source = source.base
    if isinstance(source, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        source.madvise(mmap.MADV_DONTNEED)


def _choose(path: Path, plugins: Plugins, format: str) -> tuple[str, Reader]:
    """Name and instance of the reader of a file."""
    _check_readable(path)
    if format != "auto":
        return format, plugins.load("reader", format)()
    # what unpacks to too much, or declares it, must not be shown to libraries that do not look
    with unpacked(path) as (file, size):
        if file.read(9) == b"SIMPLE  =":
            check_hdus(path, file, size)
    offers = plugins.offers("reader")
    for offer in sorted(offers, key=lambda offer: -offer.record.priority):
        try:
            reader = plugins.load("reader", offer.record.name)()
        except PluginError:
            continue  # only choosing a broken plugin by name is an error
        if _recognises(reader, path):
            return offer.record.name, reader
    known = ", ".join(offer.record.name for offer in offers) or "none is installed"
    raise ReadError(
        f"{path}: not a spectrum that any reader knows: found {_describe(path)}; expected one of the formats "
        f"{known} (--format NAME forces one)"
    )


def _recognises(reader: Reader, path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return reader.recognises(path)
        except Exception:  # a reader that trips over a strange file does not know it
            return False


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise ReadError(f"{path}: is a folder: give the files in it, for example {path}/*.fits")
    try:
        if path.stat().st_size == 0:
            raise ReadError(f"{path}: the file is empty")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise ReadError(f"{path}: no such file") from None
    except OSError as error:
        raise ReadError(f"{path}: cannot be opened: {error.strerror}") from None


def _describe(path: Path) -> str:
    """What a file is that no reader knows; raises ``ReadError`` if it is a truncated FITS file."""
    with open(path, "rb") as file:
        start = file.read(4096)
    unzipped = start
    if start.startswith(tuple(_PACKED)):
        with unpacked(path) as (packed, _):
            unzipped = packed.read(4096)
    if unzipped.startswith(b"SIMPLE"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_fits(path) as hdus:
                try:
                    return "a FITS file with " + "; ".join(_describe_hdu(hdu) for hdu in hdus)
                except Exception as cause:
                    raise _damaged_header(path, cause) from cause
    for magic, what in _MAGIC.items():
        if start.startswith(magic) and unzipped is start:
            return what
    if b"\0" in unzipped:
        return "binary data"
    first = unzipped.decode("utf-8", "replace").strip().split("\n")[0][:60]
    return (
        f"text without two columns of numbers (it begins {first!r})" if first.isprintable() else "binary data"
    )


def _describe_hdu(hdu: Any) -> str:
    if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)):
        names = [name or "(one without a name)" for name in hdu.columns.names]
        return f"a table of columns {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    shape = hdu.shape
    ctype = hdu.header.get("CTYPE1")
    return (
        f"an image of {' x '.join(map(str, shape))}{f' (CTYPE1 {ctype})' if ctype else ''}"
        if shape
        else "no data"
    )


def _named(path: Path, message: str) -> str:
    return message if message.startswith(str(path)) else f"{path}: {message}"
