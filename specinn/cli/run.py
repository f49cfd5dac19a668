"""``specinn run``: stellar parameters of spectra in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

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
        Path, typer.Option("--output", "-o", help="The catalogue: .fits, .ecsv, .parquet or .h5.")
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
    correction: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Apply a correction to the samples; may be given again."),
    ] = None,
    save_samples: Annotated[
        Path | None, typer.Option(metavar="FILE.h5", help="Write all samples, too.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress.")] = False,
) -> None:
    """Infer stellar parameters and abundances, and write a catalogue of one row a spectrum.

    A file that cannot be read costs its own row, which says why, and the others go on. The exit status is 1
    if nothing at all could be read.
    """
    from specinn import catalogue
    from specinn import samples as samples_file
    from specinn.cli.context import plugins_of
    from specinn.cli.table import show
    from specinn.errors import OutputError
    from specinn.run import example_files, file_sources, prepare, unread

    catalogue.check(output, overwrite=overwrite)
    if (
        save_samples is not None
        and samples_file.check(save_samples, overwrite=overwrite).resolve() == output.resolve()
    ):
        raise OutputError(f"{output} cannot hold both the catalogue and the samples: give two names")
    plugins = plugins_of(ctx)
    if not files:
        files = example_files()
        print(
            "specinn: no files were given: running on the example spectra that ship with specinn",
            file=sys.stderr,
        )
    sources = file_sources(files, plugins, format)
    job = prepare(
        plugins,
        instrument=instrument,
        model=model,
        device=device,
        samples=samples,
        seed=seed,
        rv=rv,
        resolving_power=resolving_power,
        degrade_snr=degrade_snr,
        corrections=correction or (),
    )
    with _Progress(len(sources), quiet) as watch:
        table = job.catalogue(
            sources,
            save_samples=save_samples,
            overwrite=overwrite,
            report=watch.report,
            progress=watch.progress,
        )
    catalogue.write(table, output, overwrite=overwrite)
    if not quiet:
        show(table, job.pipeline.estimator.labels, limit=_SHOWN)
        bad = int(table["flag_bad"].sum())
        without = f", {bad} without values (flag_bad)" if bad else ""
        print(f"{len(table)} spectra{without}: {output}")
        if save_samples is not None:
            print(f"samples: {save_samples}")
    if unread(table).all():
        print("specinn: nothing could be read", file=sys.stderr)
        raise typer.Exit(1)


class _Progress:
    """A bar over the files on standard error, and the sentences of what fails, as they come."""

    def __init__(self, total: int, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("files"))
        show = not quiet and self._console.is_terminal
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=self._console, transient=True, disable=not show
        )
        self._task = self._bar.add_task("reading", total=total)
        self._done: dict[int, int] = {}
        self._said: str | None = None

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def report(self, name: str, message: str) -> None:
        if message == self._said:  # once for the spectra of one file
            return
        self._said = message
        text = message if name in message else f"{name}: {message}"
        self._console.print(f"specinn: {text}", markup=False, highlight=False, soft_wrap=True)

    def progress(self, source: object, done: int) -> None:
        self._done[id(source)] = done
        n = sum(self._done.values())
        self._bar.update(self._task, completed=len(self._done), description=f"{n} spectra")
