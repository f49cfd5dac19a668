"""Processes of this machine that work for this one: how they begin, what they report, and how they end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Self, TypeVar

import attrs

from specinn.errors import SpecinnError

__all__ = ["THREADS", "TRIES", "C", "Child", "Children", "spread"]

TRIES = 3  # of a task whose process dies
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@attrs.define(eq=False)
class Child:
    """A process, the connection to it, and the number of its current task."""

    process: Any
    connection: Connection
    task: int = -1

    def death(self, killed: str, ended: str) -> str:
        """How it died, in words that begin with one of these two."""
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            return f"{killed}, as happens when memory runs out"
        return f"{ended} code {code}"


C = TypeVar("C", bound=Child)


class Children(Generic[C]):
    """Processes that call ``serve`` with a connection to this one, on which they send tuples that begin with
    a word, and with ``arguments``. They start with ``environment``, and end with the context."""

    def __init__(
        self, kind: type[C], serve: Callable[..., None], *arguments: Any, environment: Mapping[str, str]
    ) -> None:
        self._kind, self._target, self._environment = kind, (serve, *arguments), environment
        self._living: list[C] = []

    def start(self) -> C:
        """One more of them."""
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        connection, remote = context.Pipe()
        process = context.Process(target=_run, args=(remote, *self._target), daemon=True)
        with _environment(self._environment):  # of libraries that are imported before anything is called
            process.start()
        remote.close()  # so that the death of the process is the end of what can be received
        self._living.append(child := self._kind(process, connection))
        return child

    def told(self) -> Iterator[tuple[C, str, tuple[Any, ...]]]:
        """The word and the rest of what each one sends, until all have ended; ``"end"`` when one has.

        Raises the ``SpecinnError`` of any of them.
        """
        while self._living:
            ready = wait([child.connection for child in self._living])
            for child in [child for child in self._living if child.connection in ready]:
                try:
                    word, *rest = child.connection.recv()
                except (EOFError, OSError):
                    self.end(child)
                    word, rest = "end", []
                if word == "error":
                    raise SpecinnError(*rest)
                yield child, word, tuple(rest)

    def end(self, child: C) -> None:
        """Wait for one that has finished."""
        self._living.remove(child)
        child.connection.close()
        child.process.join(10)
        if child.process.is_alive():
            child.process.kill()
            child.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._living:
            child.process.terminate()
        for child in list(self._living):
            self.end(child)


def spread(
    function: Callable[[str, int], Any], folder: str, numbers: Sequence[int], n_processes: int
) -> Generator[tuple[int, Any]]:
    """Each of ``numbers``, as it is done, with ``function(folder, number)`` of one of ``n_processes``
    processes, which have one thread, or with None where ``TRIES`` of them died over it.

    Raises the ``SpecinnError`` of any of them; any other exception of the function becomes one.
    """
    waiting, deaths = deque(numbers), Counter[int]()
    with Children(Child, _answer, function, folder, environment=dict.fromkeys(THREADS, "1")) as children:

        def give(child: Child) -> None:
            if not waiting:
                return children.end(child)
            child.task = waiting.popleft()
            with contextlib.suppress(OSError):  # it has died, which shows when it should answer
                child.connection.send(child.task)

        for _ in range(min(n_processes, len(waiting))):
            give(children.start())
        for child, word, values in children.told():
            if word == "done":
                yield child.task, values[0]
                give(child)
                continue
            deaths[child.task] += 1
            if deaths[child.task] < TRIES:
                waiting.appendleft(child.task)
            else:
                yield child.task, None
            if waiting:
                give(children.start())


def _answer(connection: Connection, function: Callable[[str, int], Any], folder: str) -> None:
    """What a process of :func:`spread` does, until it receives no more tasks."""
    with contextlib.suppress(EOFError):
        while True:
            number = connection.recv()
            try:
                connection.send(("done", function(folder, number)))
            except (BrokenPipeError, ConnectionResetError, SpecinnError):
                raise
            except Exception as error:
                raise SpecinnError(f"unexpected {type(error).__name__} in a worker: {error}") from error


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _run(connection: Connection, serve: Callable[..., None], *arguments: Any) -> None:
    """What a process does, unless nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the process that started it
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            serve(connection, *arguments)
        except SpecinnError as error:
            connection.send(("error", str(error)))
