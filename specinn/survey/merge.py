"""The end of a run: the rows of all shards are numbered and made the catalogue, a folder or one file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from specinn import catalogue
from specinn.catalogue import samples
from specinn.catalogue.formats import Layout, ParquetWriter, Width, from_arrow, parquet_schema
from specinn.errors import OutputError
from specinn.files import replacing, sweep
from specinn.flags import is_bad
from specinn.inference.run import Run, unmatched, unread
from specinn.survey.manifest import Manifest
from specinn.survey.shards import ROWS, SHARD_ID, check_ours, clear, missing, part_of, resumable

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["Outcome", "finish"]


_PATIENCE = 60.0  # seconds until a file written by another machine must be visible


@attrs.frozen(eq=False)
class Outcome:
    """The outcome of a run: ``first`` are some rows of the catalogue; ``unread`` were not read or processed.

    Where these are all, nothing is written. ``unmatched`` are velocities of the user that match no spectrum,
    ``informed`` says whether outside knowledge was used for any.
    """

    rows: int
    bad: int
    unread: int
    first: Table
    unmatched: Sequence[str] = ()
    informed: bool = False


def finish(
    manifest: Manifest,
    folder: Path,
    output: Path,
    run: Run,
    *,
    show: int = 0,
    save_samples: Path | None = None,
) -> Outcome:
    """Number the rows of all shards and make them the catalogue; only one block is held in memory."""
    patience = time.monotonic() + _PATIENCE
    while lost := missing(manifest, folder):
        if time.monotonic() > patience:
            raise OutputError(
                f"{manifest.describe(lost[0])} was computed, but {part_of(folder, lost[0])} is not seen "
                "here: do all machines share that folder? The same command with --resume continues"
            )
        time.sleep(1.0)
    parts = [part_of(folder, shard) for shard in range(len(manifest.counts))]
    layout, bad, n_unread, lost_velocities = _survey(parts, run)
    informed = layout.widths["prior"].characters > 1 if run.prior is not None else False
    outcome = Outcome(layout.n_rows, bad, n_unread, _head(parts, run, show), lost_velocities, informed)
    if n_unread == layout.n_rows:  # an empty catalogue would obstruct the corrected command
        clear(folder)
        return outcome
    with resumable():
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
                notes = {SHARD_ID.decode(): manifest.id_of(shard)}
                with replacing(part) as temporary, ParquetWriter(temporary, schema, notes) as file:
                    for block in _blocks([part], run, first=n):
                        file.append(block)
                        n += len(block)
            for path in folder.iterdir():
                if path.name.startswith(".") or path.suffix == ".h5":
                    path.unlink()
            manifest.save(folder, state="finished", rows=n, failures=bad)
            if output.is_dir():
                _remove(output)
            os.replace(folder, output)
    return outcome


def _remove(folder: Path) -> None:
    """Remove a folder from its place at once, and then delete its contents."""
    check_ours(folder)
    aside = folder.with_name(f".{folder.name}.old")
    if aside.is_dir():
        clear(aside)
    os.replace(folder, aside)
    clear(aside)


def _survey(parts: Sequence[Path], run: Run) -> tuple[Layout, int, int, list[str]]:
    """The layout of all rows together, how many are bad, how many were not read, and which velocities of the
    user match none of them."""
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
            for batch in file.iter_batches(ROWS, columns=[*texts, "flags"]):
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

    names = [field.name for field in run.fields]
    row = names.index("row")
    for part in parts:
        with parquet.ParquetFile(part) as file:
            for batch in file.iter_batches(ROWS, columns=names[:row] + names[row + 1 :]):
                table = from_arrow(ArrowTable.from_batches([batch]), run.meta)
                numbers = np.arange(first, first + len(table))
                table.add_column(Column(numbers, **run.fields[row].column), index=row)
                first += len(table)
                yield table
