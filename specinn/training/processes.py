"""A search in several processes of this machine: one that dies is replaced, and its trial resumes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import attrs

from specinn.errors import SpecinnError
from specinn.parallel.processes import THREADS, TRIES, Child, Children
from specinn.training.search import SEARCH, Search
from specinn.training.tuning import Report, fail, open_study, work

__all__ = ["work_in_processes"]


def work_in_processes(search: Search, folder: Path, n_processes: int, report: Report) -> None:
    """:func:`.tuning.work` in ``n_processes`` processes, which share the cores available to this one.

    They end with this process, however it ends. Raises ``SpecinnError`` where one of them does.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // n_processes))
    environment = {name: threads for name in THREADS if name not in os.environ}
    deaths = Counter[int]()
    with Children(Child, _serve, folder, search.trials, environment=environment) as children:
        for _ in range(n_processes):
            children.start()
        for child, word, values in children.told():
            if word == "report":
                child.task = values[0]
                report(*values)
            elif child.process.exitcode:
                deaths[child.task] += 1
                _mourn(search, folder, child, deaths[child.task], report)
                children.start()


def _mourn(search: Search, folder: Path, child: Child, times: int, report: Report) -> None:
    """A trial that kills every process is a failure; so is a search whose processes never reach a trial."""
    why = child.death("was killed", "ended with")
    if child.task < 0:
        if times == TRIES:
            raise SpecinnError(f"{TRIES} processes died before they began a trial; the last one {why}")
        return
    report(child.task, f"its process {why}")
    if times == TRIES:
        fail(open_study(search, folder), child.task, f"{TRIES} processes died of it; the last one {why}")
        report(child.task, "failed")


def _serve(connection: Connection, folder: Path, trials: int) -> None:
    """What a process does; it ends when its parent no longer listens."""
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    from specinn.plugins import Plugins

    try:
        search = attrs.evolve(Search.load(folder / SEARCH), trials=trials)
        work(search, folder, Plugins(), lambda number, text: connection.send(("report", number, text)))
    except OSError as error:
        raise SpecinnError(f"{folder} cannot be used: {error}") from error


def _end_with_parent(connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.poll(None)  # nothing is ever sent: the only event is the end
    os._exit(1)
