"""``specinn run``: stellar parameters of spectra in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specinn.cli._console import echo, note, plugins_of, print_json
from specinn.cli._options import (
    AsJson,
    Cluster,
    Corrections,
    DegradeSNR,
    Device,
    Format,
    Instrument,
    MediumOption,
    Model,
    Overwrite,
    Prior,
    PriorRadius,
    Quiet,
    ResolvingPower,
    Samples,
    Scheduler,
    Seed,
    Workers,
)
from specinn.cli._progress import Watch

if TYPE_CHECKING:
    from specinn.inference.sources import Item
    from specinn.labels import LabelSet
    from specinn.plugins import Plugins
    from specinn.survey.merge import Outcome

DEFAULT_OUTPUT = Path("specinn.ecsv")
_SHOWN = 10  # spectra on the terminal
_COUNTS = ("spectra", "without_values", "not_read")


EXAMPLES = (
    "specinn run --instrument uves spectra/*.fits -o stars.fits",
    "specinn run @night.csv -o night --workers 8 --save-samples night.h5",
)


def run(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SPECTRA",
            help="Files, @LIST, @TABLE; none: the examples.",
        ),
    ] = None,
    instrument: Instrument = "4most-hr",
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="By suffix; none: folder.",
        ),
    ] = DEFAULT_OUTPUT,
    model: Model = None,
    format: Format = "auto",
    rv: Annotated[
        str | None,
        typer.Option(
            metavar="KM/S|auto|FILE",
            help="Of all, or table by id or path; auto: measure.",
        ),
    ] = None,
    medium: MediumOption = None,
    frame: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Likewise: barycentric, topocentric or rest.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include spectra in subfolders.")
    ] = False,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="object|COLUMN",
            help="Files that share it form one spectrum.",
        ),
    ] = None,
    resolving_power: ResolvingPower = None,
    degrade_snr: DegradeSNR = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Allow for no errors of the physics.")
    ] = False,
    check: Annotated[
        list[str] | None,
        typer.Option(metavar="arms|model", help="Compare arms, or the model spectrum; repeatable."),
    ] = None,
    correction: Corrections = None,
    prior: Prior = None,
    prior_radius: PriorRadius = 1.0,
    samples: Samples = 4096,
    save_samples: Annotated[
        Path | None, typer.Option(metavar="FILE.h5", help="Also write the posterior samples.")
    ] = None,
    keep_samples: Annotated[
        int | None, typer.Option(metavar="K", help="Write only K samples per spectrum.", min=1)
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a run that was interrupted.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Infer stellar parameters and abundances from spectra.

    The catalogue has one row per spectrum; that of a file that cannot be read says
    why. If none can be read, there is no catalogue and the status is 1.
    """
    from specinn.errors import ConfigError
    from specinn.inference.options import RunOptions
    from specinn.inference.run import prepare
    from specinn.parallel.cluster import check as check_cluster
    from specinn.survey import survey

    options = RunOptions(
        instrument=instrument, model=model, device=device, samples=samples, seed=seed, rv=rv,
        resolving_power=resolving_power, degrade_snr=degrade_snr, synthetic=synthetic,
        corrections=correction or (), format=format, medium=medium, frame=frame,
        check=check or (), prior=prior, prior_radius=prior_radius,
    )  # fmt: skip
    if not survey.check(output, save_samples, resume=resume, overwrite=overwrite):
        return _say_that_all_is_done(output, save_samples, as_json)
    if keep_samples is not None and save_samples is None:
        raise ConfigError("--keep-samples thins what --save-samples FILE.h5 writes: give both")
    check_cluster(scheduler, cluster)
    plugins = plugins_of(ctx)
    items = _items(files, plugins, format, recursive, group_by)
    job = prepare(plugins, options, keep_samples=save_samples is not None)
    keep = min(keep_samples or samples, samples) if save_samples is not None else 0
    if keep and not quiet:
        note(_size_of_samples(keep, samples, len(job.pipeline.estimator.labels), len(items)))
    with Watch(quiet, resume="the same command with --resume continues") as watch:
        outcome = survey.survey(
            job, items, output, options, plugins, watch, save_samples=save_samples, keep=keep, resume=resume,
            overwrite=overwrite, workers=workers, scheduler=scheduler, cluster=cluster, show=_SHOWN,
        )  # fmt: skip
    _tell(outcome, job.pipeline.estimator.labels, output, save_samples, as_json, quiet)


def _items(
    files: Sequence[Path] | None, plugins: Plugins, format: str, recursive: bool, group_by: str | None
) -> list[Item]:
    """What the words of the command line mean, in groups where asked for; the examples for no words. Raises
    ``ConfigError`` for what is wrong with all of them."""
    from specinn.inference import sources
    from specinn.inference.run import example_files

    if not files:
        files = example_files()
        note("no files were given: running on the example spectra that ship with specinn")
    items = sources.expand(files, recursive=recursive, say=note)
    if group_by is not None:
        items = sources.group(items, group_by)
    if unused := sources.unused_columns(items, group_by):
        note(unused)
    sources.check_items(items, plugins, format)
    return items


def _size_of_samples(keep: int, samples: int, n_labels: int, n_files: int) -> str:
    """How much room the samples take: of these files, if each holds one spectrum, and of a survey."""
    from specinn.catalogue.samples import size_of
    from specinn.texts import plural

    survey = size_of(1_000_000, keep, n_labels) / 1e9
    least = size_of(n_files, keep, n_labels) / 1e6
    return (
        f"{keep} of {samples} samples of {n_labels} labels take {survey:.3g} GB per million spectra, "
        f"at least {least:.3g} MB for {plural(n_files, 'file')}, and twice that while they are joined"
    )


def _say_that_all_is_done(output: Path, save_samples: Path | None, as_json: bool) -> None:
    note(f"{output} exists and no run for it was interrupted: nothing to do")
    if as_json:
        print_json({"catalogue": output, "samples": save_samples, **dict.fromkeys(_COUNTS)})


def _tell(
    outcome: Outcome, labels: LabelSet, output: Path, save_samples: Path | None, as_json: bool, quiet: bool
) -> None:
    """What a run gave, for people or programs; status 1 where nothing could be read."""
    nothing = outcome.unread == outcome.rows
    if as_json:
        counts = zip(_COUNTS, (outcome.rows, outcome.bad, outcome.unread), strict=True)
        written = (None, None) if nothing else (output, save_samples)
        print_json({**dict(zip(("catalogue", "samples"), written, strict=True)), **dict(counts)})
    elif not quiet and not nothing:
        _show(outcome, labels, output, save_samples)
    if nothing:
        note("nothing could be read")
        raise typer.Exit(1)


def _show(outcome: Outcome, labels: LabelSet, output: Path, save_samples: Path | None) -> None:
    from specinn.cli._result_table import show
    from specinn.texts import plural

    show(outcome.first, labels, limit=_SHOWN)
    if outcome.rows > _SHOWN:
        echo(f"and {outcome.rows - _SHOWN} more in the catalogue")
    without = f", {outcome.bad} without values (flag_bad)" if outcome.bad else ""
    echo(f"{plural(outcome.rows, 'spectrum', 'spectra')}{without}: {output}")
    if save_samples is not None:
        echo(f"samples: {save_samples}")
