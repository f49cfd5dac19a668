"""A run in shards: consecutive files whose rows are written together, whole or not at all.

The folder of a run holds a manifest, which says what is to be done, and a Parquet file for every shard that
is done. Shards know nothing of one another, so they can be computed anywhere and in any order; at the end
their rows are numbered, and they are the catalogue, or are merged into one file.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn import catalogue
from specinn.catalogue import samples
from specinn.catalogue.formats import Layout, ParquetWriter, Width, arrow_schema, from_arrow, parquet_schema
from specinn.catalogue.table import MANIFEST
from specinn.errors import OutputError, SpecinnError
from specinn.files import replacing, sweep
from specinn.flags import is_bad
from specinn.inference.options import RunOptions
from specinn.inference.run import AHEAD, Progress, Report, Run, prepare, unmatched, unread
from specinn.parallel.threads import ahead, behind
from specinn.parallel.workdir import folder_of, time_of
from specinn.survey.manifest import Plan, settings_of

if TYPE_CHECKING:
    from astropy.table import Table

    from specinn.plugins import Plugins

_ID = b"specinn_shard"  # in the metadata of its file: what it was computed from
_ROWS = 1 << 12  # held in memory while files are read and written
_OURS = (MANIFEST, "part-*.parquet", "part-*.h5", ".part-*.partial*", f".{Path(MANIFEST).stem}.*.partial*")
_PATIENCE = 60.0  # seconds until a file that another machine wrote is seen here


def begin(
    output: Path, plan: Plan, *, resume: bool, overwrite: bool, say: Callable[[str], None]
) -> tuple[Plan, Path]:
    """Begin in the folder of a run, which is :func:`held`, or go on with what an interrupted one left there.

    The plan is then that of the manifest.
    ``say`` is told what is kept and what is done again. Raises ``OutputError`` or ``ConfigError``.
    """
    folder = folder_of(output)
    if output.is_dir():  # to be replaced, in the end
        check_ours(output)
    if resume and (folder / MANIFEST).is_file():
        old = Plan.load(folder)
        old.check_same(plan, folder)
        pairs = zip(old.files, plan.files, strict=True)
        changed = list(dict.fromkeys(now.path for then, now in pairs if then != now))
        plan = attrs.evolve(old, files=plan.files)
        if changed:
            say(
                f"{len(changed)} of the files changed since the run began, the first is {changed[0]}: "
                "their shards are done again"
            )
    else:
        if any(folder.glob("part-*")) and not overwrite:
            raise OutputError(
                f"{folder} holds a run that is not finished: the same command with --resume goes on with it, "
                "with --overwrite it starts anew"
            )
        _empty(folder)
    try:
        plan.save(folder, state="running")
    except OutputError:
        abandon(folder)
        raise
    return plan, folder


def abandon(folder: Path) -> None:
    """Leave the folder of a run that stops to be resumed, or remove it where no shard is done."""
    if folder.is_dir() and not any(folder.glob("part-*")):
        with contextlib.suppress(OSError, OutputError):
            clear(folder)


def check_ours(folder: Path) -> None:
    """Raises ``OutputError`` where a folder holds anything that specinn did not write."""
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if not any(fnmatch.fnmatch(name, ours) for ours in _OURS)]
    if foreign:
        raise OutputError(f"{folder} holds {foreign[0]}, which is not of specinn: move it elsewhere")


def clear(folder: Path) -> None:
    """Remove the folder of a run, and nothing else; raises ``OutputError``."""
    _empty(folder)
    folder.rmdir()


def _empty(folder: Path) -> None:
    check_ours(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
        path.unlink()


def _part(folder: Path, shard: int, suffix: str = ".parquet") -> Path:
    return folder / f"part-{shard:05d}{suffix}"


def is_done(plan: Plan, folder: Path, shard: int) -> bool:
    """Whether the files of a shard are there, whole, and of this plan."""
    part = _part(folder, shard)
    if not part.is_file() or (plan.settings["keep"] and not _part(folder, shard, ".h5").is_file()):
        return False
    from pyarrow import ArrowException, parquet

    try:
        found = parquet.read_schema(part).metadata
    except (OSError, ArrowException):
        return False
    return (found or {}).get(_ID) == plan.id_of(shard).encode()


def missing(plan: Plan, folder: Path) -> list[int]:
    """The shards that are to be done."""
    return [shard for shard in range(len(plan.counts)) if not is_done(plan, folder, shard)]


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Says of an error of writing that nothing is lost."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error}; what is done is kept, the same command with --resume goes on") from error


# Computing --------------------------------------------------------------------------------------------------


def compute(
    plan: Plan,
    folder: Path,
    shards: Iterable[int],
    run: Run,
    plugins: Plugins,
    report: Report,
    progress: Progress,
) -> None:
    """Do shards: a thread reads files ahead, this one infers, a third one writes."""
    if plan.settings["options"]["device"] == "cpu":
        import torch

        torch.set_num_threads(1)  # the matrices are small: a second thread costs more than it brings

    def read() -> Iterator[tuple[int, Any]]:
        for shard in shards:
            numbers = plan.numbers(shard)
            for i in numbers:
                plan.files[i].check()
            for piece in run.pieces(plan.sources(shard, plugins, plan.settings["options"]["format"])):
                yield shard, piece
            for i in numbers:
                plan.files[i].check()

    def write_all(rows: Iterator[tuple[int, Any, Any]]) -> None:
        _write(plan, folder, run, rows)

    keep = plan.settings["keep"]
    with (
        _writing(),
        behind(write_all, AHEAD) as write,
        contextlib.closing(ahead(read(), AHEAD)) as pieces,
    ):
        for shard, piece in pieces:
            result = run.infer(piece, report, progress)
            write((shard, run.rows(result), result.posterior if keep else None))


def _write(plan: Plan, folder: Path, run: Run, rows: Iterator[tuple[int, Any, Any]]) -> None:
    """The file of each shard, and that of its samples, when its last rows have come."""
    schema = _schema(run.fields)
    keep = plan.settings["keep"]
    attributes = samples.attributes_of(run.pipeline.estimator.labels, model=run.model, seed=run.pipeline.seed)
    for shard, group in itertools.groupby(rows, key=lambda entry: entry[0]):
        notes = {_ID.decode(): plan.id_of(shard)}
        with contextlib.ExitStack() as stack:  # the file of the rows is closed last
            temporary = stack.enter_context(replacing(_part(folder, shard)))
            file = stack.enter_context(ParquetWriter(temporary, schema, notes))
            if keep:
                append = stack.enter_context(
                    samples.samples_file(_part(folder, shard, ".h5"), keep, attributes)
                )
            waiting: list[Mapping[str, np.ndarray]] = []
            n = 0
            for _, columns, posterior in group:
                waiting.append(columns)
                n += len(columns["flags"])
                if keep:
                    append(samples.rows_of(columns["id"], columns["flags"], posterior, keep))
                if n >= _ROWS:
                    file.append(catalogue.build(waiting, run.fields, run.meta))
                    waiting, n = [], 0
            if waiting:
                file.append(catalogue.build(waiting, run.fields, run.meta))


@lru_cache(maxsize=1)
def _schema(fields: tuple[catalogue.Field, ...]) -> Any:
    """Of the files of shards, without the header, which depends on all rows."""
    return arrow_schema(catalogue.build([], fields, {}))


_ONE_AT_A_TIME = threading.Lock()


def compute_elsewhere(folder: str, shard: int, report: Report, progress: Progress) -> None:
    """Do a shard in a process that knows nothing but where the manifest is. The model stays loaded."""
    with _ONE_AT_A_TIME:
        plan, plugins, run = _opened(folder, time_of(Path(folder) / MANIFEST))
        with contextlib.chdir(plan.settings["folder"]):
            compute(plan, Path(folder), [shard], run, plugins, report, progress)


@lru_cache(maxsize=1)
def _opened(folder: str, _mtime: int) -> tuple[Plan, Plugins, Run]:
    from specinn.plugins import Plugins

    plan, plugins = Plan.load(Path(folder)), Plugins()
    settings = plan.settings
    with contextlib.chdir(settings["folder"]):
        options = RunOptions(**settings["options"])
        run = prepare(plugins, options, keep_samples=bool(settings["keep"]))
        here = settings_of(run, options, keep=settings["keep"])
    different = plan.difference(attrs.evolve(plan, settings=here))
    if different:
        raise SpecinnError(
            "the worker on {} has another {}: {} here, {} there".format(socket.gethostname(), *different)
        )
    return plan, plugins, run


# The end ----------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Outcome:
    """What a run gave: ``first`` are some rows of the catalogue; ``unread`` were not read or processed.

    Where these are all, nothing is written. ``unmatched`` are the velocities that the user gave for spectra
    that there are not.
    """

    rows: int
    bad: int
    unread: int
    first: Table
    unmatched: Sequence[str] = ()


def finish(
    plan: Plan, folder: Path, output: Path, run: Run, *, show: int = 0, save_samples: Path | None = None
) -> Outcome:
    """Number the rows of all shards and make them the catalogue; nothing is held in memory but a block."""
    patience = time.monotonic() + _PATIENCE
    while lost := missing(plan, folder):
        if time.monotonic() > patience:
            raise OutputError(
                f"{plan.describe(lost[0])} was computed, but {_part(folder, lost[0])} is not seen here: do "
                "all machines share that folder? The same command with --resume goes on"
            )
        time.sleep(1.0)
    parts = [_part(folder, shard) for shard in range(len(plan.counts))]
    layout, bad, n_unread, lost_velocities = _survey(parts, run)
    outcome = Outcome(layout.n_rows, bad, n_unread, _head(parts, run, show), lost_velocities)
    if n_unread == layout.n_rows:  # a catalogue of nothing would be in the way of the corrected command
        clear(folder)
        return outcome
    with _writing():
        if save_samples is not None:
            sweep(save_samples)
            samples.join([part.with_suffix(".h5") for part in parts], save_samples)
        if not catalogue.is_folder(output):
            sweep(output)
            catalogue.write_rows(output, layout, _blocks(parts, run))
            _remove(folder)
        else:
            schema, n = parquet_schema(layout), 0
            for shard, part in enumerate(parts):
                notes = {_ID.decode(): plan.id_of(shard)}
                with replacing(part) as temporary, ParquetWriter(temporary, schema, notes) as file:
                    for block in _blocks([part], run, first=n):
                        file.append(block)
                        n += len(block)
            for path in folder.iterdir():
                if path.name.startswith(".") or path.suffix == ".h5":
                    path.unlink()
            plan.save(folder, state="finished", rows=n, failures=bad)
            if output.is_dir():
                _remove(output)
            os.replace(folder, output)
    return outcome


def _remove(folder: Path) -> None:
    """Take a folder away at once, and then what is in it."""
    check_ours(folder)
    aside = folder.with_name(f".{folder.name}.old")
    if aside.is_dir():
        clear(aside)
    os.replace(folder, aside)
    clear(aside)


def _survey(parts: Sequence[Path], run: Run) -> tuple[Layout, int, int, list[str]]:
    """The layout of all rows together, how many are bad, how many were not read, and which velocities that
    the user gave are of none of them."""
    from pyarrow import parquet

    head = catalogue.build([], run.fields, run.meta)
    texts = [name for name in head.colnames if head[name].dtype.kind == "U"]
    widths, masked, n, bad, n_unread = dict.fromkeys(texts, Width()), set(), 0, 0, 0
    velocities = list(run.velocities)
    for part in parts:
        with parquet.ParquetFile(part) as file:
            n += file.metadata.num_rows
            for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
                for column in map(group.column, range(group.num_columns)):
                    if column.statistics is None or column.statistics.null_count:
                        masked.add(column.path_in_schema)
            for batch in file.iter_batches(_ROWS, columns=[*texts, "flags"]):
                for name in texts:
                    widths[name] |= Width.of(batch[name])
                bad += int(is_bad(batch["flags"].to_numpy()).sum())
                n_unread += int(unread(batch).sum())
                if velocities:
                    velocities = unmatched(velocities, batch["id"].to_pylist(), batch["path"].to_pylist())
    return Layout(head, n, widths, frozenset(masked)), bad, n_unread, velocities


def _head(parts: Sequence[Path], run: Run, n: int) -> Table:
    """The first ``n`` rows."""
    from astropy.table import vstack

    blocks: list[Table] = []
    for block in _blocks(parts, run):
        blocks.append(block[:n])
        n -= len(blocks[-1])
        if n <= 0:
            break
    return vstack(blocks, metadata_conflicts="silent")


def _blocks(parts: Sequence[Path], run: Run, first: int = 0) -> Iterator[Table]:
    """The rows of all shards, block by block, numbered from ``first``."""
    from astropy.table import Column
    from pyarrow import Table as ArrowTable
    from pyarrow import parquet

    for part in parts:
        with parquet.ParquetFile(part) as file:
            for batch in file.iter_batches(_ROWS):
                table = from_arrow(ArrowTable.from_batches([batch]), run.meta)
                numbers = np.arange(first, first + len(table))
                table.replace_column("row", Column(numbers, "row", description=table["row"].description))
                first += len(table)
                yield table
