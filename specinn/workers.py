"""Shards in processes of this machine: one that dies costs the shard that it was at, which is done again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import attrs

from specinn.errors import SpecinnError
from specinn.plan import Plan
from specinn.run import Progress, Report
from specinn.shards import compute_elsewhere

TRIES = 3  # of a shard whose worker dies
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def compute_here(
    plan: Plan, folder: Path, shards: Sequence[int], n_workers: int, report: Report, progress: Progress
) -> None:
    """Do ``shards`` in ``n_workers`` processes of one thread each.

    Raises ``SpecinnError`` where a worker reports an error, or where a shard kills its workers.
    """
    waiting, deaths = deque(shards), Counter[int]()
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < n_workers:
                worker = _Worker.start(folder)
                workers[worker.connection] = worker
                worker.give(waiting.popleft())
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                try:
                    kind, *values = connection.recv()
                except (EOFError, OSError):
                    del workers[connection]
                    shard = worker.shard
                    deaths[shard] += 1
                    if deaths[shard] == TRIES:
                        raise SpecinnError(_died(plan, shard, worker)) from None
                    progress(-worker.spectra, -worker.files)
                    waiting.appendleft(shard)
                    continue
                if kind == "report":
                    report(*values)
                elif kind == "progress":
                    worker.spectra += values[0]
                    worker.files += values[1]
                    progress(*values)
                elif kind == "error":
                    raise SpecinnError(values[0])
                elif waiting:
                    worker.give(waiting.popleft())
                else:
                    del workers[connection]
                    worker.end()
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            worker.end()


def _died(plan: Plan, shard: int, worker: _Worker) -> str:
    worker.end()
    code = worker.process.exitcode
    killed = code == -signal.SIGKILL
    why = "killed, as happens when memory runs out" if killed else f"exit code {code}"
    return (
        f"{TRIES} workers died one after another over {plan.describe(shard)} ({why}): what is done is kept, "
        "the same command with --resume goes on, and fewer --workers need less memory"
    )


@attrs.define(eq=False)
class _Worker:
    """A process, the shard that it is at, and how far it has come with it."""

    process: Any
    connection: Connection
    shard: int = -1
    spectra: int = 0
    files: int = 0

    @classmethod
    def start(cls, folder: Path) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, str(folder.resolve())), daemon=True)
        with _one_thread():
            process.start()
        there.close()  # so that the death of the process is the end of what can be received
        return cls(process, here)

    def give(self, shard: int) -> None:
        self.shard, self.spectra, self.files = shard, 0, 0
        with contextlib.suppress(OSError):  # it has died: that is seen when it should answer
            self.connection.send(shard)

    def end(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The environment in which libraries start with one thread each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, folder: str) -> None:
    """What a worker does, until nobody gives it anything more to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who gives the work
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            shard = connection.recv()
            try:
                compute_elsewhere(
                    folder,
                    shard,
                    lambda name, message: connection.send(("report", name, message)),
                    lambda spectra, files: connection.send(("progress", spectra, files)),
                )
                connection.send(("done",))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except SpecinnError as error:
                connection.send(("error", str(error)))
            except Exception as error:
                connection.send(("error", f"unexpected {type(error).__name__} in a worker: {error}"))
