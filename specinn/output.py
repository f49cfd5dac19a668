"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from specinn.errors import OutputError


def check_output(path: str | Path, suffixes: Collection[str], *, overwrite: bool = False) -> Path:
    """The path, if a file can be written there; asked before the work starts and not after.

    Raises ``OutputError`` for an unknown suffix, a missing or read-only folder, and for a file that exists
    unless ``overwrite``.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise OutputError(
            f"{path}: the suffix {path.suffix!r} names no format; use one of {', '.join(suffixes)}"
        )
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; create it or choose another")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in the folder {path.parent.resolve()}")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: give another name, or --overwrite (overwrite=True) to replace it")
    return path


def write_error(path: Path, error: Exception) -> OutputError:
    """The error of the operating system or of a file library as a sentence."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or "no space left" in str(error).lower() or "not enough space" in str(error).lower():
        return OutputError(
            f"{path} could not be written, the disk is full: free some space or write elsewhere"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(f"{path} could not be written: {reason}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path`` to write to; it becomes ``path`` when the block ends well.

    When it does not, nothing is left behind; failures of the file system become an ``OutputError``.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError when a file cannot be flushed
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
