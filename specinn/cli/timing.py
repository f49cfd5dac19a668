"""``specinn timing``: how fast this machine is, against the network of the paper as FrEIA runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._options import AsJson, Model, Samples, devices

if TYPE_CHECKING:
    from specinn.plugins import Plugins
    from specinn.timing import Release, Row, Whole

_TITLES = {
    "sampling": "sampling, {samples} samples",
    "training": "training step",
    "stages": "stages of a run, in turn",
    "run": "whole run, files to catalogue",
}
_NOTES = (
    "ms: of one spectrum by the clock, the best of all rounds; CPU ms: processor time of all threads",
    "x paper: times faster than the network of the paper in FrEIA, counting only sampling (training);",
    "the smaller of the ratios of clock and of processor time",
    "stages: one after the other; summaries: the time of inference beyond features and samples",
)
_CHANGED = 1.2  # what busy machines make of equal code stays below this factor, most of the time
_BUSY = 1.3  # clock over processor time of a run, above which the machine had other work


EXAMPLES = (
    "specinn timing",
    "specinn timing --spectra 1024 --threads 4 --device cpu --json > speed.json",
)


def timing(
    ctx: typer.Context,
    model: Model = None,
    spectra: Annotated[int, typer.Option(metavar="N", help="Simulated spectra of the runs.", min=4)] = 256,
    samples: Samples = 4096,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="cpu, cuda, or cuda:N.  [default: CPU and GPU]", autocompletion=devices
        ),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", help="Processor cores to use.", min=1)] = 1,
    repeats: Annotated[int, typer.Option(metavar="N", help="Rounds; the best counts.", min=1)] = 3,
    paper: Annotated[
        bool, typer.Option(help="Measure the network of the paper, to which ratios refer.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine is.

    Sampling, training, the stages of a run and the whole run are timed in turn on simulated spectra, and the
    best of each counts. Nothing is left on the disk.
    """
    import sys
    import tempfile

    from specinn import models, timing
    from specinn.cli._console import plugins_of, print_json

    with timing.on_cores(threads):  # before numpy and torch are there
        on = timing.devices(device)
        plugins = plugins_of(ctx)
        chosen = models.find(plugins, model)
        machine = timing.machine(threads, on)
        with tempfile.TemporaryDirectory(prefix="specinn-") as folder:
            rows = timing.measure(
                plugins,
                Path(folder),
                _whole(ctx.find_root().command, plugins, model, samples),
                model=model,
                spectra=spectra,
                samples=samples,
                on=on,
                repeats=repeats,
                paper=paper,
                progress=lambda message: print(f"specinn: {message}", file=sys.stderr),
            )
    name = f"{chosen.name} {chosen.sha256()[:12]}"
    settings = {"model": name, "spectra": spectra, "samples": samples, "repeats": repeats}
    release = timing.Release.read()
    alike = threads == 1 and (chosen.name, samples) == (release.model, release.samples)
    gains = release.gains(rows) if alike else {}
    if as_json:
        figures = [{**row.to_dict(), "release_gain": _gain(row, gains)} for row in rows]
        print_json({"machine": machine, "settings": settings, "release": release.release, "rows": figures})
    else:
        _show(rows, machine, samples)
        _show_gains(gains, release)


def _whole(specinn: Any, plugins: Plugins, model: str | None, samples: int) -> Whole:
    """``specinn run`` as on the command line, but in this process, by the command ``specinn`` itself: what is
    measured is the run and not the import of torch."""

    def whole(files: Sequence[Path], out: Path, device: str) -> None:
        from specinn.errors import SpecinnError

        arguments = ["run", *map(str, files), "-o", str(out), "--samples", str(samples), "--device", device]
        arguments += ["--model", model] if model is not None else []
        try:
            specinn(args=[*arguments, "--quiet"], prog_name="specinn", obj=plugins)
        except SystemExit as end:
            if end.code:
                raise SpecinnError(f"specinn run ended with status {end.code}: see above") from None

    return whole


def _show(rows: Sequence[Row], machine: dict[str, Any], samples: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    threads, gpu = machine["threads"], f"; {machine['gpu']}" if "gpu" in machine else ""
    plural = "s" if threads > 1 else ""
    console.print(
        f"{machine['cpu']}, {threads} thread{plural} of {machine['cores']}, load {machine['load']}{gpu}"
    )
    names = [k for k in machine if k not in ("cpu", "gpu", "cores", "threads", "load")]
    console.print(", ".join(f"{name} {machine[name]}" for name in names))
    for device in dict.fromkeys(row.device for row in rows):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(device, no_wrap=True)
        for title in ("ms", "CPU ms", "spectra/s", "x paper", "hours for 4e6"):
            table.add_column(title, justify="right")
        for part, title in _TITLES.items():
            shown = [row for row in rows if row.device == device and row.part == part]
            if shown:
                table.add_row()
                table.add_row(title.format(samples=samples))
            for row in shown:
                table.add_row(f"  {row.name}", *_cells(row))
        console.print()
        console.print(table)
    console.print()
    for line in _NOTES:
        console.print(line)
    for row in rows:
        if threads == 1 and row.device == "cpu" and row.name == "all stages":
            excess = row.cost.wall / max(row.cost.cpu, 1e-9)
            if excess > _BUSY:
                console.print(f"the machine was busy: a run took {excess:.1f} times its processor time")


def _gain(row: Row, gains: Mapping[tuple[str, str], float]) -> float | None:
    return gains.get((row.part, row.name)) if row.device == "cpu" else None


def _show_gains(gains: Mapping[tuple[str, str], float], release: Release) -> None:
    """Which rows won or lost against the last release."""
    for word, chosen in (
        ("faster", {name: gain for name, gain in gains.items() if gain > _CHANGED}),
        ("slower", {name: gain for name, gain in gains.items() if gain < 1.0 / _CHANGED}),
    ):
        if chosen:
            items = ", ".join(f"{name} x {gain:.2f}" for (_, name), gain in chosen.items())
            print(f"{word} than {release.release}, relative to the paper's network: {items}")
    if gains and all(1.0 / _CHANGED <= gain <= _CHANGED for gain in gains.values()):
        print(f"nothing differs from {release.release} by more than a factor of {_CHANGED}")


def _cells(row: Row) -> list[str]:
    figures = row.to_dict()
    rate, ratio = figures["spectra_per_second"], row.ratio
    return [
        _figure(figures["ms"]), _figure(figures["cpu_ms"]), "-" if rate is None else _figure(rate),
        "" if ratio is None else _figure(ratio), _figure(figures["hours_for_4_million"]),
    ]  # fmt: skip


def _figure(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 if value < 1 else 3}g}" if value >= 0.01 or value == 0 else f"{value:.3f}"
