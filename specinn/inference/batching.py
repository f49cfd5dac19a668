"""How spectra are gathered: those of many sources, one after another, in pieces that are inferred at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
from astropy.table import Table

from specinn.errors import SpecinnError
from specinn.inference.sources import Source
from specinn.spectra import SpectrumBatch

__all__ = ["AHEAD", "CHUNK", "Piece", "pieces"]

log = logging.getLogger(__name__)

CHUNK = 32  # spectra inferred at once: their arrays are 4 MB each, and fit the cache
AHEAD = 1  # chunks that are read while one is inferred


@attrs.frozen(eq=False)
class Piece:
    """What goes through the pipeline at once: at most ``CHUNK`` spectra on one wavelength grid, or what could
    not be read, as a row of ``meta`` and the reason. ``files`` is the number of sources that end with it.
    """

    batch: SpectrumBatch | None
    files: int = 0
    meta: Table | None = None
    message: str = ""


def pieces(
    sources: Iterable[Source], complete: Callable[[SpectrumBatch, Source, int], SpectrumBatch]
) -> Iterator[Piece]:
    """The spectra of all sources in order. Neighbours on one grid travel together, those of different
    sources too; a source that cannot be read is a piece of its own, after the spectra that it gave.

    ``complete`` is called with each batch as read, its source, and the number of its first spectrum there.
    """
    waiting: list[SpectrumBatch] = []
    ended = 0

    def together() -> Piece:
        nonlocal waiting, ended
        piece = Piece(waiting[0] if len(waiting) == 1 else SpectrumBatch.concatenate(waiting), ended)
        waiting, ended = [], 0
        return piece

    for source in sources:
        done = 0
        for batch, message in _guarded(source):
            if batch is None:
                if waiting:
                    yield together()
                key = source.first_key + done
                meta = Table({"id": [source.name], "path": [source.name], "key": [key]})
                yield Piece(None, 1, meta, message)
                break
            batch = complete(batch, source, done)
            done += len(batch)
            start = 0
            while start < len(batch):
                if waiting and not (_size(waiting) < CHUNK and waiting[-1].is_like(batch)):
                    yield together()
                stop = start + CHUNK - _size(waiting)
                waiting.append(batch[start:stop])
                start = stop
        else:
            ended += 1
    if waiting:
        yield together()


def _size(batches: Sequence[SpectrumBatch]) -> int:
    return sum(map(len, batches))


def _guarded(source: Source) -> Iterator[tuple[SpectrumBatch | None, str]]:
    """The batches of a source; a failure ends them with ``(None, sentence)``."""
    empty = True
    try:
        for batch in source.open():
            if len(batch):
                empty = False
                yield batch, ""
        if empty:
            yield None, f"{source.name} holds no spectra"
    except SpecinnError as error:
        yield None, str(error)
    except Exception as error:
        log.error("%s: unexpected error", source.name, exc_info=True)
        yield None, f"{source.name} could not be read: {type(error).__name__}: {error}"
