"""A run in shards: consecutive files whose rows are written together, whole or not at all.

The folder of a run holds a manifest, which says what is to be done, and a Parquet file for every shard that
is done. Shards are independent of one another, so they can be computed anywhere and in any order;
:mod:`.merge` joins them in the end.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn import catalogue
from specinn.catalogue import samples
from specinn.catalogue.files import MANIFEST
from specinn.catalogue.formats import ParquetWriter, arrow_schema
from specinn.errors import OutputError, SpecinnError
from specinn.files import replacing
from specinn.inference.batching import AHEAD
from specinn.inference.options import RunOptions
from specinn.inference.run import Run, prepare
from specinn.parallel.progress import Progress, Remark, Report, remarks
from specinn.parallel.threads import ahead, behind
from specinn.parallel.workdir import folder_of, time_of
from specinn.survey.manifest import Manifest, settings_of

if TYPE_CHECKING:
    from specinn.plugins import Plugins

__all__ = [
    "ROWS",
    "SHARD_ID",
    "abandon",
    "begin",
    "check_ours",
    "clear",
    "compute",
    "compute_elsewhere",
    "is_done",
    "missing",
    "part_of",
    "resumable",
]

SHARD_ID = b"specinn_shard"  # in the metadata of its file: what it was computed from
ROWS = 1 << 12  # held in memory while files are read and written
_OURS = (MANIFEST, "part-*.parquet", "part-*.h5", ".part-*.partial*", f".{Path(MANIFEST).stem}.*.partial*")


def begin(
    output: Path, manifest: Manifest, *, resume: bool, overwrite: bool, say: Callable[[str], None]
) -> tuple[Manifest, Path]:
    """Begin in the folder of a run, which is :func:`held`, or resume what an interrupted one left there.

    What is done is then what the manifest there says. ``say`` is called with what is kept and what is
    repeated. Raises ``OutputError`` or ``ConfigError``.
    """
    folder = folder_of(output)
    if output.is_dir():  # to be replaced, in the end
        check_ours(output)
    if resume and (folder / MANIFEST).is_file():
        old = Manifest.load(folder)
        old.check_same(manifest, folder)
        pairs = zip(old.files, manifest.files, strict=True)
        changed = list(dict.fromkeys(now.path for then, now in pairs if then != now))
        manifest = attrs.evolve(old, files=manifest.files)
        if changed:
            say(
                f"{len(changed)} of the files changed since the run began, the first is {changed[0]}: "
                "their shards are done again"
            )
    else:
        if any(folder.glob("part-*")) and not overwrite:
            raise OutputError(
                f"{folder} holds an unfinished run: the same command with --resume continues it, "
                "with --overwrite it starts anew"
            )
        _empty(folder)
    try:
        manifest.save(folder, state="running")
    except OutputError:
        abandon(folder)
        raise
    return manifest, folder


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
        raise OutputError(f"{folder} holds {foreign[0]}, which specinn did not write: move it elsewhere")


def clear(folder: Path) -> None:
    """Remove the folder of a run, and nothing else; raises ``OutputError``."""
    _empty(folder)
    folder.rmdir()


def _empty(folder: Path) -> None:
    check_ours(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
        path.unlink()


def part_of(folder: Path, shard: int, suffix: str = ".parquet") -> Path:
    return folder / f"part-{shard:05d}{suffix}"


def is_done(manifest: Manifest, folder: Path, shard: int) -> bool:
    """Whether the files of a shard are there, whole, and of this manifest."""
    part = part_of(folder, shard)
    if not part.is_file() or (manifest.settings["keep"] and not part_of(folder, shard, ".h5").is_file()):
        return False
    from pyarrow import ArrowException, parquet

    try:
        metadata = parquet.read_schema(part).metadata
    except (OSError, ArrowException):
        return False
    return (metadata or {}).get(SHARD_ID) == manifest.id_of(shard).encode()


def missing(manifest: Manifest, folder: Path) -> list[int]:
    """The shards that are to be done."""
    return [shard for shard in range(len(manifest.counts)) if not is_done(manifest, folder, shard)]


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Adds to an error of writing that nothing is lost."""
    try:
        yield
    except OutputError as error:
        raise OutputError(
            f"{error}; what is done is kept, and the same command with --resume continues"
        ) from error


# Computing --------------------------------------------------------------------------------------------------


def compute(
    manifest: Manifest,
    folder: Path,
    shards: Iterable[int],
    run: Run,
    plugins: Plugins,
    report: Report,
    progress: Progress,
) -> None:
    """Do shards: a thread reads files ahead, this one infers, a third one writes."""
    if manifest.settings["options"]["device"] == "cpu":
        import torch

        torch.set_num_threads(1)  # the matrices are small: a second thread costs more than it saves

    def read() -> Iterator[tuple[int, Any]]:
        for shard in shards:
            numbers = manifest.numbers(shard)
            for i in numbers:
                manifest.files[i].check()
            for piece in run.pieces(manifest.sources(shard, plugins, manifest.settings["options"]["format"])):
                yield shard, piece
            for i in numbers:
                manifest.files[i].check()

    def write_all(rows: Iterator[tuple[int, Any, Any]]) -> None:
        _write(manifest, folder, run, rows)

    keep = manifest.settings["keep"]
    with (
        resumable(),
        behind(write_all, AHEAD) as write,
        contextlib.closing(ahead(read(), AHEAD)) as pieces,
    ):
        for shard, piece in pieces:
            result = run.infer(piece, report, progress)
            write((shard, run.rows(result), result.posterior if keep else None))


def _write(manifest: Manifest, folder: Path, run: Run, rows: Iterator[tuple[int, Any, Any]]) -> None:
    """The file of each shard, and that of its samples, when its last rows have come. Rows have no number yet:
    they are numbered when shards are merged."""
    fields = tuple(field for field in run.fields if field.name != "row")
    schema = _schema(fields)
    keep = manifest.settings["keep"]
    pipeline = run.pipeline
    attributes = samples.attributes_of(pipeline.estimator.labels, model=run.model, seed=pipeline.seed)
    if pipeline.hidden:
        attributes["masked"] = list(pipeline.hidden)
    for shard, group in itertools.groupby(rows, key=lambda entry: entry[0]):
        notes = {SHARD_ID.decode(): manifest.id_of(shard)}
        with contextlib.ExitStack() as stack:  # the file of the rows is closed last
            temporary = stack.enter_context(replacing(part_of(folder, shard)))
            file = stack.enter_context(ParquetWriter(temporary, schema, notes))
            if keep:
                append = stack.enter_context(
                    samples.samples_file(part_of(folder, shard, ".h5"), keep, attributes)
                )
            waiting: list[Mapping[str, np.ndarray]] = []
            n = 0
            for _, columns, posterior in group:
                waiting.append(columns)
                n += len(columns["flags"])
                if keep:
                    append(samples.rows_of(columns["id"], columns["flags"], posterior, keep))
                if n >= ROWS:
                    file.append(catalogue.build(waiting, fields, run.meta))
                    waiting, n = [], 0
            if waiting:
                file.append(catalogue.build(waiting, fields, run.meta))


@lru_cache(maxsize=1)
def _schema(fields: tuple[catalogue.Field, ...]) -> Any:
    """Of the files of shards, without the header, which depends on all rows."""
    return arrow_schema(catalogue.build([], fields, {}))


_ONE_AT_A_TIME = threading.Lock()


def compute_elsewhere(folder: str, shard: int, report: Report, progress: Progress, remark: Remark) -> None:
    """Do a shard in a process that knows nothing but where the manifest is. The model stays loaded."""
    with _ONE_AT_A_TIME:
        manifest, plugins, run = _opened(folder, time_of(Path(folder) / MANIFEST))
        with contextlib.chdir(manifest.settings["folder"]), remarks(remark):
            compute(manifest, Path(folder), [shard], run, plugins, report, progress)


@lru_cache(maxsize=1)
def _opened(folder: str, _mtime: int) -> tuple[Manifest, Plugins, Run]:
    from specinn.plugins import Plugins

    manifest, plugins = Manifest.load(Path(folder)), Plugins()
    settings = manifest.settings
    with contextlib.chdir(settings["folder"]):
        options = RunOptions(**settings["options"])
        run = prepare(plugins, options, keep_samples=bool(settings["keep"]))
        present = settings_of(run, options, keep=settings["keep"])
    different = manifest.difference(attrs.evolve(manifest, settings=present))
    if different:
        raise SpecinnError(
            "the worker on {} has another {}: {} here, {} there".format(socket.gethostname(), *different)
        )
    return manifest, plugins, run
