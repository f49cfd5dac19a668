"""Stages of a run that overlap: a thread that makes items before, or takes them after, the one that computes.

Queues between stages are bounded, so that the slowest sets the pace and memory does not grow.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def ahead(items: Iterable[T], depth: int) -> Generator[T]:
    """The items, made by a thread of their own that is at most ``depth`` of them ahead."""
    waiting: queue.Queue[tuple[T, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T, error: BaseException | None = None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put((item, error), timeout=0.1)

    def make() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
        except BaseException as error:
            put(_END, error)
        else:
            put(_END)

    thread = threading.Thread(target=make, name="specinn reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def behind(consume: Callable[[Iterator[T]], None], depth: int) -> Iterator[Callable[[T], None]]:
    """A function that hands items to ``consume``, which runs in a thread and may be ``depth`` of them behind.

    The block ends when ``consume`` has, with the error that either of them raised; where it is the block's,
    ``consume`` sees it, too, in place of the next item.
    """
    waiting: queue.Queue[tuple[T, BaseException | None]] = queue.Queue(depth)
    failed: list[BaseException] = []

    def items() -> Iterator[T]:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    def run() -> None:
        try:
            consume(items())
        except BaseException as error:
            failed.append(error)

    def put(item: T, error: BaseException | None = None) -> None:
        while thread.is_alive():
            with contextlib.suppress(queue.Full):
                return waiting.put((item, error), timeout=0.1)
        if failed:
            raise failed[0]

    thread = threading.Thread(target=run, name="specinn writer", daemon=True)
    thread.start()
    try:
        yield put
    except BaseException as error:
        with contextlib.suppress(BaseException):
            put(_END, error)
        thread.join()
        raise
    put(_END)
    thread.join()
    if failed:
        raise failed[0]
