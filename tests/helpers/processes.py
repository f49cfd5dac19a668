"""``specinn`` in a process of its own, which can die or find a full disk at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def said(folder: Path) -> str:
    """What the last process in ``folder`` wrote to its stderr."""
    return _stderr(folder).read_text()


def _stderr(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-stderr.txt")


def command(
    arguments: list[str], folder: str, environment: dict[str, str], limit: int, dies_at: int, smallest: int
) -> None:
    """Runs in the process. It must be imported by name there, which a test module cannot be."""
    import specinn.survey.manifest
    from specinn.cli import main

    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    os.chdir(folder)
    sys.stderr = open(_stderr(Path(folder)), "w", buffering=1)  # noqa: SIM115
    if smallest:
        specinn.survey.manifest.SMALLEST = smallest
    if limit:  # files cannot grow beyond it, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if dies_at:
        usual, names = os.replace, []

        def replace(*given: Any) -> None:
            names.append(given)
            if len(names) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            usual(*given)

        os.replace = replace
    main(arguments)


@contextmanager
def processes(
    folder: Path, path: str, preload: Sequence[str], smallest: int = 0
) -> Iterator[Callable[..., Any]]:
    """A function that starts ``specinn`` with its arguments in ``folder``.

    ``limit`` is the size of files on a full disk in bytes; the process kills itself when the file number
    ``dies_at`` is to get its name; further keywords are its environment. Those that are left are killed in
    the end. ``smallest`` is the size of the smallest shard in bytes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    started = []

    def start(*arguments: object, limit: int = 0, dies_at: int = 0, **environment: str) -> Any:
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
        call = ([str(a) for a in arguments], str(folder), environment, limit, dies_at, smallest)
        started.append(context.Process(target=command, args=call))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
