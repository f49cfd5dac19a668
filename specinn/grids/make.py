"""Grids made by a synthesizer: labels from a prior, spectra from many processes, one file at the end."""

from __future__ import annotations

import contextlib
import csv
import os
import socket
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.errors import GridError, OutputError, SpecinnError
from specinn.files import check_output, replacing, sweep
from specinn.grids import Grid
from specinn.grids.recipe import Recipe
from specinn.grids.workdir import AGAIN, MANIFEST, Work, described, difference

if TYPE_CHECKING:
    from specinn.parallel.progress import Watch
    from specinn.plugins import Plugins

__all__ = ["Made", "compute", "compute_elsewhere", "make", "table_of"]

_FIX = "fix the cause, then the same command with --retry resumes"
_PATIENCE = 60.0  # seconds until a file that another machine wrote is seen here


@attrs.frozen
class Made:
    """What became of it: ``computed`` spectra now, in so many seconds; ``table`` lists those that failed."""

    models: int
    failed: int
    computed: int
    seconds: float
    table: Path | None


def make(
    recipe: Recipe,
    output: Path,
    plugins: Plugins,
    watch: Watch,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    cluster: str | Path | None = None,
    overwrite: bool = False,
    retry: bool = False,
    give_up: int = 20,
) -> Made:
    """Make the grid, or resume: spectra that are done, or failed, are not computed again.

    With ``retry`` those that failed are. ``give_up`` failures one after another stop it, and so does a run in
    which nothing comes of any model. Raises a ``SpecinnError``; the same call can then resume.
    """
    from specinn.parallel.workdir import folder_of, held

    folder = folder_of(output)
    begun = folder.is_dir()  # perhaps only the last step is missing
    check_output(output, (".h5", ".hdf5"), overwrite=overwrite or begun)
    grid = recipe.lazy(plugins)
    with held(folder):
        work = Work(folder)
        if work.is_over(output):
            same = not difference(work.manifest() or {}, described(recipe, grid))
            work.clear(but_folder=not same)
            if same:
                return Made(len(Grid.open(output)), 0, 0, 0.0, None)
        if output.exists() and not overwrite:
            raise OutputError(f"{output} exists: give another name, or --overwrite to replace it")
        for path in (output, table_of(output)):
            sweep(path)
        work.begin(recipe, grid, output, anew=overwrite)
        began, first = time.monotonic(), recipe.grid.first
        numbers = _to_do(work, grid, first, retry)
        watch.start(len(grid), len(grid) - len(numbers))
        computed = _computed(work, numbers, grid, first, workers, scheduler, cluster)
        with contextlib.closing(computed) as results:
            _watched(results, work, grid, first, output, watch, give_up)
        _see(work, numbers)
        table = _list_failures(work, grid, first, output)
        rows = _computed_rows(work, grid, first, table)
        _write(work, grid, rows, first, output)
        work.clear()
        return Made(len(rows), len(grid) - len(rows), len(numbers), time.monotonic() - began, table)


def _to_do(work: Work, grid: Grid, first: int, retry: bool) -> list[int]:
    """The numbers of the spectra to compute; records of failures that no longer hold are deleted."""
    done, failures = work.done(), work.failures()
    for number in failures if retry else done & failures.keys():
        work.failed_file(number).unlink(missing_ok=True)
    over = done | (set() if retry else failures.keys())
    return [number for number in range(first, first + len(grid)) if number not in over]


def _watched(
    results: Iterator[tuple[int, str]],
    work: Work,
    grid: Grid,
    first: int,
    output: Path,
    watch: Watch,
    give_up: int,
) -> None:
    """Report the results as they come. Raises ``GridError`` after ``give_up`` failures one after another."""
    ids, in_a_row = grid.ids, 0
    for number, message in results:
        in_a_row = in_a_row + 1 if message else 0
        if message:
            watch.report(ids[number - first], _short(message))
        if in_a_row == give_up:
            table = _list_failures(work, grid, first, output)
            raise GridError(
                f"{give_up} spectra failed one after another, the last one so: {_short(message)}; "
                f"all are in {table}: {_FIX}"
            )
        watch.progress(1, 1)


def _computed_rows(work: Work, grid: Grid, first: int, table: Path | None) -> np.ndarray:
    """``(n,)`` the rows of the grid that did not fail. Raises ``GridError`` where none is left."""
    failures = work.failures()
    rows = np.array([row for row in range(len(grid)) if row + first not in failures], int)
    if not rows.size:
        raise GridError(
            f"none of the {len(grid)} spectra could be computed, the first one so: "
            f"{_short(failures[first])}; all are in {table}: {_FIX}"
        )
    return rows


def _computed(
    work: Work,
    numbers: Sequence[int],
    grid: Grid,
    first: int,
    workers: int,
    scheduler: str | None,
    cluster: str | Path | None,
) -> Generator[tuple[int, str]]:
    """The numbers as they are done, each with the reason why it failed, or "": here, in processes, or on a
    cluster."""
    from specinn.parallel import processes

    if scheduler is not None or cluster is not None:
        from specinn.parallel.cluster import spread

        folder = str(work.folder.resolve())
        pairs: Iterator[tuple[int, Any]] = spread(
            compute_elsewhere, folder, numbers, scheduler=scheduler, cluster=cluster, again=AGAIN
        )
    elif workers > 1 and len(numbers) > 1:
        pairs = processes.spread(compute_elsewhere, str(work.folder.resolve()), numbers, workers)
    else:
        pairs = ((number, compute(work, grid, number - first, number)) for number in numbers)
    for number, message in pairs:
        if message is None:
            message = f"{processes.TRIES} processes died one after another over it"
            work.fail(number, message)
        yield number, message


def compute(work: Work, grid: Grid, row: int, number: int) -> str:
    """Compute a spectrum and keep it, or keep the reason why there is none; "" or that reason.

    Whatever a synthesizer raises is a failure of its star. Raises ``OutputError`` where it cannot be written.
    """
    try:
        flux = grid.storable(np.array([row]))[0]
    except SpecinnError as error:
        message = str(error) or type(error).__name__
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error}"
    else:
        work.keep(number, flux)
        return ""
    work.fail(number, message)
    return message


def compute_elsewhere(folder: str, number: int) -> str:
    """:func:`compute` in a process that knows nothing but the folder. The synthesizer stays loaded."""
    from specinn.parallel.workdir import time_of

    written = time_of(Path(folder) / MANIFEST)
    with _ONE_AT_A_TIME:
        there, grid, first = _opened(folder, written)
        with contextlib.chdir(there):
            return compute(Work(Path(folder)), grid, number - first, number)


_ONE_AT_A_TIME = threading.Lock()  # a worker of a cluster may have several threads


@lru_cache(maxsize=1)
def _opened(folder: str, _mtime: int) -> tuple[str, Grid, int]:
    from specinn.plugins import Plugins

    manifest = Work(Path(folder)).manifest() or {}
    recipe = Recipe.of(manifest["recipe"], folder)
    with contextlib.chdir(manifest["folder"]):
        grid = recipe.lazy(Plugins())
        different = difference(manifest, described(recipe, grid))
    if different:
        raise SpecinnError(f"the worker on {socket.gethostname()} would make another grid: {different}")
    return manifest["folder"], grid, recipe.grid.first


def _see(work: Work, numbers: Sequence[int]) -> None:
    """Wait until what other machines wrote is seen here. Raises ``OutputError``."""
    patience = time.monotonic() + _PATIENCE
    while lost := set(numbers) - work.done() - work.failures().keys():
        if time.monotonic() > patience:
            raise OutputError(
                f"{work.flux_file(min(lost))} was computed, but is not seen here: do all machines share that "
                f"folder? {AGAIN}"
            )
        time.sleep(1.0)


def _write(work: Work, grid: Grid, kept: np.ndarray, first: int, output: Path) -> None:
    """The grid of what did not fail, first within the folder, so that nothing is left beside it."""

    def flux_of(rows: np.ndarray) -> np.ndarray:
        numbers = kept[rows] + first
        flux = [work.flux(int(number)) for number in numbers]
        for values, number in zip(flux, numbers, strict=True):
            if values.shape != grid.wavelength.shape:
                raise GridError(f"{work.flux_file(int(number))} is damaged: delete it, and {AGAIN}")
        return np.stack(flux)

    whole = attrs.evolve(grid, values=grid.values[kept], ids=grid.ids[kept], flux_of=flux_of)
    whole.save(work.folder / "grid.h5", overwrite=True)
    with replacing(output) as temporary:
        os.replace(work.folder / "grid.h5", temporary)


def table_of(output: Path) -> Path:
    """The table of failures beside a grid."""
    return output.with_name(f"{output.stem}.failures.csv")


def _list_failures(work: Work, grid: Grid, first: int, output: Path) -> Path | None:
    """Write id, labels and reason of every failure to a table beside the grid; its name, or None."""
    table = table_of(output)
    failures = {number: why for number, why in work.failures().items() if 0 <= number - first < len(grid)}
    if not failures:
        table.unlink(missing_ok=True)
        return None
    with replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *grid.labels, "message"])
        for number, message in failures.items():
            row = number - first
            writer.writerow([grid.ids[row], *(f"{value:.6g}" for value in grid.values[row]), message])
    return table


def _short(message: str, most: int = 300) -> str:
    text = " ".join(message.split())
    return text if len(text) <= most else f"{text[:most]}..."
