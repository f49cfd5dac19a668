"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from specinn.errors import OutputError

__all__ = [
    "Sink",
    "check_folder",
    "check_new",
    "check_not_input",
    "check_output",
    "replacing",
    "replacing_folder",
    "sweep",
    "write_error",
]


def check_output(path: str | Path, suffixes: Collection[str], *, overwrite: bool = False) -> Path:
    """The path, if a file can be written there; checked before the work starts and not after.

    Raises ``OutputError`` for an unknown suffix, a missing or read-only folder, and for a file that exists
    unless ``overwrite``.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise OutputError(
            f"{path}: the suffix {path.suffix!r} is not a known format; use one of {', '.join(suffixes)}"
        )
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file")
    check_folder(path.parent, path)
    return check_new(path, overwrite=overwrite)


def check_folder(folder: Path, path: Path) -> None:
    """Raises ``OutputError`` where ``path`` cannot be made in ``folder``."""
    if not folder.is_dir():
        raise OutputError(f"{path}: there is no folder {folder}; create it or choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in the folder {folder.resolve()}")


def check_new(path: Path, *, overwrite: bool = False) -> Path:
    """The path, unless it exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: give another name, or --overwrite (overwrite=True) to replace it")
    return path


def check_not_input(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raises ``OutputError`` where ``output`` is one of the files ``inputs``, under any name or link."""
    output = Path(output)
    if not output.is_file():
        return
    for path in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samefile(output, path):
                raise OutputError(f"{output} is an input of this command: give the output another name")


def write_error(path: Path, error: Exception) -> OutputError:
    """The error of the operating system or of a file library as a sentence."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or "no space left" in str(error).lower() or "not enough space" in str(error).lower():
        return OutputError(
            f"{path} could not be written: the disk is full; free some space or write elsewhere"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(f"{path} could not be written: {reason}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path`` to write to; it becomes ``path`` when the block ends well.

    If it does not, nothing is left behind; failures of the file system become an ``OutputError``. The name is
    unique among processes, on this machine and on others.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.partial{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError when a file cannot be flushed
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As :func:`replacing`, for a folder: a temporary one to fill, which takes the place of ``path``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    former = temporary.with_suffix(".former")
    try:
        temporary.mkdir()
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            _sync(file)
        if path.exists():  # folders cannot be exchanged atomically: for an instant there is none
            os.replace(path, former)
        try:
            os.replace(temporary, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
        _sync(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what processes left behind that were killed within :func:`replacing` of this path."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"):
        left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until it is on the disk, so that a file that has its name also has its content, whatever
    happens."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system supports it for folders
            raise
    finally:
        os.close(handle)


class Sink(io.FileIO):
    """A file beneath HDF5. The first failure is kept in ``error`` and from then on nothing is written:
    success is reported to the HDF5 library, because it cannot close a file whose disk is full (it crashes).
    Leaving its context raises the error.
    """

    error: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.error is None else 0
        except OSError as error:
            self.error = error
            return 0

    def flush(self) -> None:
        """Nothing is buffered."""

    def check(self) -> None:
        """Raises the first failure."""
        if self.error is not None:
            raise self.error

    def __exit__(self, *_: object) -> None:
        self.close()
        self.check()
