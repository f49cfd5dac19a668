"""A run from the command line: many files in, a catalogue out, in shards that survive whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from specinn import catalogue
from specinn.catalogue import samples
from specinn.errors import OutputError
from specinn.files import check_not_input
from specinn.inference.run import unmatched_message, unused_message
from specinn.parallel.workdir import folder_of, held
from specinn.spectra.readers import count
from specinn.survey import merge, shards
from specinn.survey.manifest import Manifest, settings_of
from specinn.survey.merge import Outcome

if TYPE_CHECKING:
    from specinn.inference.options import RunOptions
    from specinn.inference.run import Run
    from specinn.inference.sources import Item
    from specinn.parallel.progress import Watch
    from specinn.plugins import Plugins

__all__ = ["check", "survey"]


def check(output: Path, save_samples: Path | None, *, resume: bool, overwrite: bool) -> bool:
    """Whether there is anything to do: a run to be resumed may have ended already.

    Raises ``OutputError`` where something cannot be written, before the work starts.
    """
    if not output.name:
        raise OutputError(f"{str(output)!r} cannot be the name of a catalogue: give another")
    begun = (folder_of(output) / catalogue.MANIFEST).is_file()
    if resume and not overwrite and not begun and output.exists():
        return False
    overwrite = overwrite or (resume and begun)  # the run was told what it may replace when it began
    catalogue.check(output, overwrite=overwrite)
    if save_samples is not None:
        samples.check(save_samples, overwrite=overwrite)
        if save_samples.resolve() == output.resolve():
            raise OutputError(f"{output} cannot hold both the catalogue and the samples: give two names")
    return True


def survey(
    run: Run,
    items: Sequence[Item],
    output: Path,
    options: RunOptions,
    plugins: Plugins,
    watch: Watch,
    *,
    save_samples: Path | None = None,
    keep: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    cluster: Path | None = None,
    show: int = 0,
) -> Outcome:
    """Infer the spectra of all files, or resume doing so, and write the catalogue.

    ``options`` are those that made ``run``: other processes use them to make theirs. If nothing could be
    read, no catalogue is written. Raises a ``SpecinnError`` if the run cannot continue; it may be resumed.
    """
    settings = settings_of(run, options, keep=keep)
    for path in (output, save_samples):
        if path is not None:
            check_not_input(path, (item.path for item in items))
    with held(folder_of(output)):
        manifest, folder = shards.begin(
            output,
            Manifest.make(items, settings, partial(count, plugins=plugins, format=options.format)),
            resume=resume,
            overwrite=overwrite,
            say=watch.say,
        )
        to_do = shards.missing(manifest, folder)
        watch.start(len(manifest.files), len(manifest.files) - sum(manifest.counts[shard] for shard in to_do))
        try:
            if scheduler is not None or cluster is not None:
                from specinn.survey.cluster import compute_there

                compute_there(manifest, folder, to_do, watch, scheduler=scheduler, cluster=cluster)
            elif workers > 1 and len(to_do) > 1:
                from specinn.survey.workers import compute_here

                compute_here(manifest, folder, to_do, workers, watch)
            else:
                shards.compute(manifest, folder, to_do, run, plugins, watch.report, watch.progress)
            outcome = merge.finish(manifest, folder, output, run, show=show, save_samples=save_samples)
        except BaseException:
            shards.abandon(folder)
            raise
    if outcome.unmatched:
        watch.say(unmatched_message(outcome.unmatched, len(run.velocities)))
    if run.prior is not None and not outcome.informed:
        watch.say(unused_message(run.prior))
    return outcome
