"""The folder in which processes, here and on other machines, do the parts of one job."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from specinn.errors import OutputError, SpecinnError
from specinn.files import write_error
from specinn.parallel.locks import lock_file

if TYPE_CHECKING:
    pass

__all__ = ["folder_of", "held", "time_of"]


def folder_of(output: Path) -> Path:
    """Where the shards of a catalogue wait until all of them are done."""
    return output.with_name(f"{output.name}.run")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder of a run, made where it is missing, and locked against every other run meanwhile.

    The lock ends with the process that holds it, however that ends. Raises ``OutputError``.
    """
    try:
        folder.mkdir(exist_ok=True)
        directory = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        if lock_file(directory) is False:
            raise OutputError(
                f"another run is writing {folder} now: wait for it, or give another name to the output"
            )
        yield
    finally:
        os.close(directory)
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was done


def time_of(manifest: Path) -> int:
    """When a manifest was written, in ns; raises ``SpecinnError`` if a worker does not see it."""
    try:
        return manifest.stat().st_mtime_ns
    except FileNotFoundError:
        raise SpecinnError(
            f"the worker on {socket.gethostname()} sees no {manifest}: all machines need the same files "
            "under the same paths"
        ) from None
