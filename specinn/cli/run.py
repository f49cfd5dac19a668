"""``specinn run``: stellar parameters of spectra in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from specinn.cli._options import (
    AsJson,
    Cluster,
    Corrections,
    DegradeSNR,
    Device,
    Format,
    Model,
    Overwrite,
    Quiet,
    ResolvingPower,
    Samples,
    Scheduler,
    Seed,
    Workers,
    offered,
)
from specinn.cli._progress import Watch

DEFAULT_OUTPUT = Path("specinn.ecsv")
_SHOWN = 10  # spectra on the terminal
_COUNTS = ("spectra", "without_values", "not_read")


EXAMPLES = (
    "specinn run                    # the example spectra that ship with specinn",
    "specinn run --instrument uves spectra/*.fits -o stars.fits",
    "specinn run night/*.fits -o night --workers 8 --save-samples night.h5",
)


def run(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="SPECTRA", help="Files; without any, the examples.")
    ] = None,
    instrument: Annotated[
        str,
        typer.Option(
            "--instrument",
            "-i",
            metavar="NAME",
            help="Where the spectra come from.",
            autocompletion=offered("instrument"),
        ),
    ] = "4most-hr",
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Catalogue: .fits, .ecsv, .parquet, .h5; without suffix a folder of Parquet files.",
        ),
    ] = DEFAULT_OUTPUT,
    model: Model = None,
    format: Format = "auto",
    rv: Annotated[
        str | None,
        typer.Option(
            metavar="KM/S|auto|FILE",
            help="Radial velocity of all stars; auto measures it; a table (CSV, ECSV) has it by id or path "
            "in the column rv. Else what files state, or measured.",
        ),
    ] = None,
    resolving_power: ResolvingPower = None,
    degrade_snr: DegradeSNR = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Model spectra: allow for no errors of physics.")
    ] = False,
    correction: Corrections = None,
    samples: Samples = 4096,
    save_samples: Annotated[
        Path | None, typer.Option(metavar="FILE.h5", help="Write the posterior samples, too.")
    ] = None,
    keep_samples: Annotated[
        int | None, typer.Option(metavar="K", help="Write but K samples a spectrum.", min=1)
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Infer stellar parameters and abundances of spectra.

    The catalogue has one row a spectrum. A file that cannot be read costs its own row, which says why. The
    status is 1 if nothing could be read.
    """
    from specinn.catalogue import samples as samples_file
    from specinn.cli._console import plugins_of, print_json
    from specinn.cli._result_table import show
    from specinn.errors import ConfigError
    from specinn.inference.run import example_files, file_sources, prepare
    from specinn.survey import survey

    if not survey.check(output, save_samples, resume=resume, overwrite=overwrite):
        print(f"specinn: {output} is there and no run for it was interrupted: nothing to do", file=sys.stderr)
        if as_json:
            print_json({"catalogue": output, "samples": save_samples, **dict.fromkeys(_COUNTS)})
        return
    if keep_samples is not None and save_samples is None:
        raise ConfigError("--keep-samples thins what --save-samples FILE.h5 writes: give that, too")
    if scheduler is not None or cluster is not None:
        from specinn.parallel.cluster import check as check_cluster

        check_cluster(scheduler, cluster)
    plugins = plugins_of(ctx)
    if not files:
        files = example_files()
        print(
            "specinn: no files were given: running on the example spectra that ship with specinn",
            file=sys.stderr,
        )
    file_sources(files, plugins, format)  # says what is wrong with all of them
    options: dict[str, Any] = {
        "instrument": instrument,
        "model": model,
        "device": device,
        "samples": samples,
        "seed": seed,
        "rv": rv,
        "resolving_power": resolving_power,
        "degrade_snr": degrade_snr,
        "synthetic": synthetic,
        "corrections": correction or [],
    }
    job = prepare(plugins, **options, keep_samples=save_samples is not None)
    labels = job.pipeline.estimator.labels
    keep = min(keep_samples or samples, samples) if save_samples is not None else 0
    if keep and not quiet:
        size = samples_file.size_of(1_000_000, keep, len(labels)) / 1e9
        print(
            f"specinn: {keep} of {samples} samples of {len(labels)} labels take {size:.3g} GB per million "
            "spectra, and twice that while they are joined",
            file=sys.stderr,
        )
    with Watch(quiet) as watch:
        try:
            outcome = survey.survey(
                job,
                files,
                output,
                options,
                plugins,
                watch,
                format=format,
                save_samples=save_samples,
                keep=keep,
                resume=resume,
                overwrite=overwrite,
                workers=workers,
                scheduler=scheduler,
                cluster=cluster,
                show=_SHOWN,
            )
        except KeyboardInterrupt:
            watch.say("stopped; the same command with --resume goes on")
            raise typer.Exit(130) from None
    if as_json:
        counts = (outcome.rows, outcome.bad, outcome.unread)
        print_json({"catalogue": output, "samples": save_samples, **dict(zip(_COUNTS, counts, strict=True))})
    elif not quiet:
        show(outcome.first, labels, limit=_SHOWN)
        if outcome.rows > _SHOWN:
            print(f"and {outcome.rows - _SHOWN} more in the catalogue")
        without = f", {outcome.bad} without values (flag_bad)" if outcome.bad else ""
        print(f"{outcome.rows} spectra{without}: {output}")
        if save_samples is not None:
            print(f"samples: {save_samples}")
    if outcome.unread == outcome.rows:
        print("specinn: nothing could be read", file=sys.stderr)
        raise typer.Exit(1)
