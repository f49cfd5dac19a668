"""Stages of a run that overlap: a thread that makes items before, or takes them after, the one that computes.

Queues between stages are bounded, so that the slowest sets the pace and memory does not grow.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["T", "Waiting", "ahead", "behind"]

T = TypeVar("T")
_END: Any = object()


Waiting = queue.Queue[tuple[Any, BaseException | None]]


def _put(waiting: Waiting, while_: Callable[[], bool], item: Any, error: BaseException | None = None) -> None:
    """Hand over an item, or the error that ends the items, unless nobody is left to take it."""
    while while_():
        with contextlib.suppress(queue.Full):
            return waiting.put((item, error), timeout=0.1)


def _received(waiting: Waiting) -> Iterator[Any]:
    """The items that are handed over, until their end or the error that ends them."""
    while True:
        item, error = waiting.get()
        if error is not None:
            raise error
        if item is _END:
            return
        yield item


def ahead(items: Iterable[T], depth: int) -> Generator[T]:
    """The items, made by a separate thread that is at most ``depth`` of them ahead."""
    waiting: Waiting = queue.Queue(depth)
    stop = threading.Event()

    def wanted() -> bool:
        return not stop.is_set()

    def make() -> None:
        try:
            for item in items:
                _put(waiting, wanted, item)
                if stop.is_set():
                    return
        except BaseException as error:
            _put(waiting, wanted, _END, error)
        else:
            _put(waiting, wanted, _END)

    thread = threading.Thread(target=make, name="specinn reader", daemon=True)
    thread.start()
    try:
        yield from _received(waiting)
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def behind(consume: Callable[[Iterator[T]], None], depth: int) -> Iterator[Callable[[T], None]]:
    """A function that hands items to ``consume``, which runs in a thread and may be ``depth`` of them behind.

    The block ends when ``consume`` has, with the error that either of them raised; if it is the block's,
    ``consume`` receives it, too, in place of the next item.
    """
    waiting: Waiting = queue.Queue(depth)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            consume(_received(waiting))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="specinn writer", daemon=True)

    def put(item: T, error: BaseException | None = None) -> None:
        _put(waiting, thread.is_alive, item, error)
        if failed:
            raise failed[0]

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
