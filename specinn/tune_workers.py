"""A search in several processes of this machine: one that dies is replaced, and its trial goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import attrs

from specinn.errors import SpecinnError
from specinn.searches import SEARCH, Search
from specinn.tune import Report, fail, open_study, work

TRIES = 3  # of a trial that kills its processes
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def work_in_processes(search: Search, folder: Path, n_processes: int, report: Report) -> None:
    """:func:`specinn.tune.work` in ``n_processes`` processes, which share the cores that this one may use.

    They end with this process, however it ends. Raises ``SpecinnError`` where one of them does.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // n_processes)
    environment = {name: str(threads) for name in _THREADS if name not in os.environ}
    children: dict[Connection, _Child] = {}
    deaths = Counter[int]()

    def start() -> None:
        child = _Child.start(folder, search.trials, environment)
        children[child.connection] = child

    try:
        for _ in range(n_processes):
            start()
        while children:
            for connection in wait(list(children)):
                assert isinstance(connection, Connection)
                child = children[connection]
                try:
                    kind, *values = connection.recv()
                except (EOFError, OSError):
                    del children[connection]
                    child.end()
                    if child.process.exitcode:
                        deaths[child.trial] += 1
                        _mourn(search, folder, child, deaths[child.trial], report)
                        start()
                    continue
                if kind == "error":
                    raise SpecinnError(values[0])
                child.trial = values[0]
                report(*values)
    finally:
        for child in children.values():
            child.process.terminate()
        for child in children.values():
            child.end()


def _mourn(search: Search, folder: Path, child: _Child, times: int, report: Report) -> None:
    """A trial that kills every process is a failure; so is a search whose processes never reach a trial."""
    code = child.process.exitcode
    why = (
        "was killed, as happens when memory runs out"
        if code == -signal.SIGKILL
        else f"ended with code {code}"
    )
    if child.trial < 0:
        if times == TRIES:
            raise SpecinnError(f"{TRIES} processes died before they began a trial; the last one {why}")
        return
    report(child.trial, f"its process {why}")
    if times == TRIES:
        fail(open_study(search, folder), child.trial, f"{TRIES} processes died of it; the last one {why}")
        report(child.trial, "failed")


@attrs.define(eq=False)
class _Child:
    """A process, and the trial that it is at."""

    process: Any
    connection: Connection
    trial: int = -1

    @classmethod
    def start(cls, folder: Path, trials: int, environment: Mapping[str, str]) -> _Child:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, folder, trials, dict(environment)), daemon=True)
        process.start()
        there.close()  # so that the death of the process is the end of what can be received
        return cls(process, here)

    def end(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(connection: Connection, folder: Path, trials: int, environment: Mapping[str, str]) -> None:
    """What a process does; it ends when nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it
    os.environ.update(environment)  # before any library with threads is imported
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    from specinn.plugins import Plugins

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            search = attrs.evolve(Search.load(folder / SEARCH), trials=trials)
            work(search, folder, Plugins(), lambda number, text: connection.send(("report", number, text)))
        except SpecinnError as error:
            connection.send(("error", str(error)))
        except OSError as error:
            connection.send(("error", f"{folder} cannot be used: {error}"))


def _end_with_parent(connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.poll(None)  # nothing is ever sent: what comes is the end
    os._exit(1)
