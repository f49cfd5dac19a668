"""Shards in processes of this machine: one that dies costs only its current shard, which is repeated."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs

from specinn.errors import SpecinnError
from specinn.parallel.processes import THREADS, TRIES, Child, Children
from specinn.parallel.progress import Watch
from specinn.survey.manifest import Manifest
from specinn.survey.shards import compute_elsewhere

__all__ = ["compute_here"]


def compute_here(
    manifest: Manifest, folder: Path, shards: Sequence[int], n_workers: int, watch: Watch
) -> None:
    """Do ``shards`` in ``n_workers`` processes of one thread each.

    Raises ``SpecinnError`` where a worker reports an error, or where a shard kills its workers.
    """
    waiting, deaths = deque(shards), Counter[int]()
    one_thread = dict.fromkeys(THREADS, "1")
    with Children(_Worker, _serve, str(folder.resolve()), environment=one_thread) as workers:
        for _ in range(min(n_workers, len(shards))):
            workers.start().give(waiting.popleft())
        for worker, word, values in workers.told():
            if word == "report":
                watch.report(*values)
            elif word == "remark":
                watch.remark(*values)
            elif word == "progress":
                worker.spectra += values[0]
                worker.files += values[1]
                watch.progress(*values)
            elif word == "end":
                shard = worker.task
                deaths[shard] += 1
                if deaths[shard] == TRIES:
                    raise SpecinnError(
                        f"{TRIES} workers died one after another over {manifest.describe(shard)} "
                        f"({worker.death('killed', 'exit')}): what is done is kept, and the same command "
                        "with --resume continues; fewer --workers need less memory"
                    )
                watch.progress(-worker.spectra, -worker.files)
                workers.start().give(shard)
            elif waiting:
                worker.give(waiting.popleft())
            else:
                workers.end(worker)


@attrs.define(eq=False)
class _Worker(Child):
    """``task`` is its shard; ``spectra`` and ``files`` count what it has done of it."""

    spectra: int = 0
    files: int = 0

    def give(self, shard: int) -> None:
        self.task, self.spectra, self.files = shard, 0, 0
        with contextlib.suppress(OSError):  # it has died, which shows when it should answer
            self.connection.send(shard)


def _serve(connection: Connection, folder: str) -> None:
    """What a worker does, until nobody gives it anything more to do."""
    one_at_a_time = threading.Lock()  # remarks come from the thread that reads

    def tell(*words: Any) -> None:
        with one_at_a_time:
            connection.send(words)

    while True:
        try:
            shard = connection.recv()
        except EOFError:
            return
        try:
            compute_elsewhere(
                folder,
                shard,
                partial(tell, "report"),
                partial(tell, "progress"),
                partial(tell, "remark"),
            )
        except (BrokenPipeError, ConnectionResetError, SpecinnError):
            raise
        except Exception as error:
            raise SpecinnError(f"unexpected {type(error).__name__} in a worker: {error}") from error
        tell("done")
