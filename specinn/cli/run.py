"""``specinn run``: stellar parameters of spectra in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from specinn.cli.watch import Watch

DEFAULT_OUTPUT = Path("specinn.ecsv")
_SHOWN = 10  # spectra on the terminal


def run(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Spectra; without any, the examples that ship with specinn.")
    ] = None,
    instrument: Annotated[
        str, typer.Option("--instrument", "-i", help="Where the spectra come from; see specinn instruments.")
    ] = "4most-hr",
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The catalogue: .fits, .ecsv, .parquet or .h5; without suffix a folder of Parquet files.",
        ),
    ] = DEFAULT_OUTPUT,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Name or file of a model (default: the one for the instrument)."),
    ] = None,
    format: Annotated[str, typer.Option(help="File format (default: recognised from the content).")] = "auto",
    samples: Annotated[int, typer.Option(help="Posterior samples a spectrum.", min=2)] = 4096,
    seed: Annotated[int, typer.Option(help="The same seed gives the same catalogue.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or cuda:N.")] = "cpu",
    resolving_power: Annotated[
        float | None,
        typer.Option(metavar="R", help="Of the spectra, where it is not what file and instrument say."),
    ] = None,
    rv: Annotated[
        str | None,
        typer.Option(
            metavar="KM/S|auto|FILE",
            help="Radial velocity of all stars; auto measures it always; a CSV or ECSV table gives it by id "
            "or path in the column rv. Default: what the files state, else measured.",
        ),
    ] = None,
    degrade_snr: Annotated[
        float | None, typer.Option(metavar="SNR", help="Add noise down to this S/N per Angstrom.")
    ] = None,
    synthetic: Annotated[
        bool,
        typer.Option(
            "--synthetic",
            help="The spectra were computed with the physics of the model's grid: allow for no errors of it.",
        ),
    ] = False,
    correction: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Apply a correction to the samples; may be given again."),
    ] = None,
    save_samples: Annotated[
        Path | None, typer.Option(metavar="FILE.h5", help="Write the posterior samples, too.")
    ] = None,
    keep_samples: Annotated[
        int | None,
        typer.Option(metavar="K", help="Write only the first K samples of each spectrum.", min=1),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes on this machine.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster with this scheduler.")
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Run in jobs of a batch system; see the guide.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress.")] = False,
) -> None:
    """Infer stellar parameters and abundances, and write a catalogue of one row a spectrum.

    A file that cannot be read costs its own row, which says why, and the others go on. The exit status is 1
    if nothing at all could be read. A run that was interrupted goes on with --resume.
    """
    from specinn import samples as samples_file
    from specinn import survey
    from specinn.cli.context import plugins_of
    from specinn.cli.table import show
    from specinn.errors import ConfigError
    from specinn.run import example_files, file_sources, prepare

    if not survey.check(output, save_samples, resume=resume, overwrite=overwrite):
        print(f"specinn: {output} is there and no run for it was interrupted: nothing to do", file=sys.stderr)
        return
    if keep_samples is not None and save_samples is None:
        raise ConfigError("--keep-samples thins what --save-samples FILE.h5 writes: give that, too")
    if scheduler is not None or cluster is not None:
        from specinn.cluster import check as check_cluster

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
    if not quiet:
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
