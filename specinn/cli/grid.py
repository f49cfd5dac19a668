"""``specinn grid``: make or import grids of synthetic spectra, and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._console import echo, print_json
from specinn.cli._framework import Group, add
from specinn.cli._options import AsJson, Cluster, Overwrite, Quiet, Scheduler, Workers, offered

if TYPE_CHECKING:
    from specinn.grids import Grid

app = typer.Typer(
    cls=Group, rich_markup_mode=None, help="Make or import grids of synthetic spectra, and look at them."
)

_MODELS_LISTED = 20  # of those left out, on the terminal; the file lists all


def import_(
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE", help="Files or folders; several make one grid.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="GRID.h5", help="The grid to write.")],
    loader: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Layout of the source.  [default: recognised]",
            autocompletion=offered("grid loader"),
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave defective spectra out, and list them.")
    ] = False,
    resolving_power: Annotated[
        float | None, typer.Option(metavar="R", help="Degrade to this R = lambda / FWHM.")
    ] = None,
    step: Annotated[
        float | None, typer.Option(metavar="ANGSTROM", help="Pixel width of the output.  [default: FWHM / 4]")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="LO-HI", help="Keep this range in Angstrom; repeatable."),
    ] = None,
    note: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Provenance that files do not state; repeatable."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read synthetic spectra of any known layout.

    Writes them as one grid in HDF5. A defective spectrum (not finite, negative, above 1.2, truncated, in
    contradiction to the table of labels) stops the import and is named, unless --skip-bad.
    """
    import attrs
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from specinn.files import check_output
    from specinn.grids import Grid, load
    from specinn.grids.degrade import degrade

    check_output(output, (".h5", ".hdf5"), overwrite=overwrite)  # before hours of work
    parts = [load([path], loader) for path in source]
    if (
        resolving_power is not None or step is not None or range_
    ):  # before joining: it makes wavelengths agree
        ranges = _ranges(range_ or [])
        parts = [degrade(part, resolving_power=resolving_power, step=step, ranges=ranges) for part in parts]
    grid = Grid.concatenate(parts, [str(path) for path in source]) if len(parts) > 1 else parts[0]
    notes = _notes(note or [], grid.provenance)
    grid = attrs.evolve(grid, provenance={**grid.provenance, **notes})
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("importing", total=len(grid))
        left_out = grid.save(
            output,
            overwrite=overwrite,
            block=32,
            skip_bad=skip_bad,
            progress=lambda done: bar.update(task, completed=done),
        )
    n_models = len(set(grid.ids.tolist()) - set(left_out))
    echo(f"{output}: {n_models} models, {len(grid.labels)} labels, {grid.wavelength.size} pixels", error=True)
    missing = grid.provenance.get("missing", [])
    if missing:
        echo(f"{len(missing)} spectra of an interrupted run do not exist: {_some(missing, ', ')}", error=True)
    if left_out:
        reasons = _some(list(left_out.values()), "\n  ")
        echo(f"{len(left_out)} spectra were left out:\n  {reasons}", error=True)


def make(
    ctx: typer.Context,
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="Tables [grid], [[prior]] and [synthesizer].")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="GRID.h5", help="The grid to write.  [default: RECIPE.h5]"),
    ] = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    retry: Annotated[bool, typer.Option("--retry", help="On resuming, retry what failed before.")] = False,
    give_up: Annotated[int, typer.Option(metavar="N", help="Stop after N failures in a row.", min=1)] = 20,
    show: Annotated[bool, typer.Option("--show", help="Only show what would be made.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw labels from a prior and compute their spectra.

    Writes one grid in HDF5. Interrupt it at will: the same command resumes it. A spectrum that fails is left
    out and listed in RECIPE.failures.csv, with its labels and the reason.
    """
    import attrs

    from specinn.cli._console import plugins_of
    from specinn.cli._progress import Watch
    from specinn.grids import make as gridmake
    from specinn.grids.recipe import Recipe
    from specinn.parallel.cluster import check as check_cluster

    plugins = plugins_of(ctx)
    wanted = Recipe.read(recipe)
    if show:
        _tell(recipe, describe(wanted.lazy(plugins)), as_json)
        return
    output = output or recipe.with_suffix(".h5")
    check_cluster(scheduler, cluster)
    with Watch(quiet, "spectra") as watch:
        made = gridmake.make(
            wanted, output, plugins, watch, workers=workers, scheduler=scheduler, cluster=cluster,
            overwrite=overwrite, retry=retry, give_up=give_up,
        )  # fmt: skip
    if as_json:
        print_json({"grid": output, **attrs.asdict(made)})
        return
    a_minute = 60 * made.computed / made.seconds if made.computed else 0.0
    rate = f", {a_minute:.{0 if a_minute >= 10 else 2}f} spectra a minute" if made.computed else ""
    failed = f", {made.failed} more failed and are listed in {made.table}" if made.failed else ""
    echo(f"{output}: {made.models} models{failed}{rate}")


def info(
    grid: Annotated[Path, typer.Argument(help="A grid, or any layout that can be imported.")],
    as_json: AsJson = False,
) -> None:
    """Show what a grid holds.

    Models, labels, wavelengths, resolving power, provenance.
    """
    from specinn.grids import load

    _tell(grid, describe(load([grid])), as_json)


def _tell(path: Path, about: dict[str, Any], as_json: bool) -> None:
    """What :func:`describe` gives, on standard output."""
    if as_json:
        print_json(about)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    splits = ", ".join(f"{name} {count}" for name, count in about["splits"].items())
    echo(f"{path}: {about['n_models']} models ({splits}), hash {about['hash']}")
    echo(f"R = {about['resolving_power']}, {about['medium']} wavelengths")
    arms = Table("arm", "from A", "to A", "step A", "pixels", box=None)
    for name, arm in about["arms"].items():
        arms.add_row(
            name, f"{arm['low']:.2f}", f"{arm['high']:.2f}", f"{arm['step']:.4g}", str(arm["pixels"])
        )
    console.print(arms)
    labels = Table("label", "unit", "min", "median", "max", box=None)
    for name, row in about["labels"].items():
        labels.add_row(name, row["unit"], *(f"{row[key]:.6g}" for key in ("min", "median", "max")))
    console.print(labels)
    for key, value in about["provenance"].items():
        shown = f"{len(value)}: {_some(value, ', ')}" if isinstance(value, list) and value else _plain(value)
        echo(f"{key}: {shown}")
    for reason in about["defects"]:
        echo(f"defect: {reason}")


def describe(grid: Grid) -> dict[str, Any]:
    """What ``specinn grid info --json`` prints; an infinite resolving power is the string ``inf``."""
    import numpy as np

    from specinn.grids.grid import SPLITS
    from specinn.labels import make_label

    labels = {}
    for name, column in zip(grid.labels, grid.values.T, strict=True):
        unit = make_label(name, (0.1, 1.0)).unit
        stats = {"min": column.min(), "median": np.median(column), "max": column.max()}
        labels[name] = {"unit": unit, **{key: float(value) for key, value in stats.items()}}
    arms = {}
    for name, arm in grid.arms.items():
        wave = grid.wavelength[arm]
        arms[name] = {
            "low": float(wave[0]),
            "high": float(wave[-1]),
            "step": float(np.median(np.diff(wave))),
            "pixels": int(wave.size),
        }
    return {
        "n_models": len(grid),
        "splits": {name: len(grid.split(name)) for name in SPLITS},
        "hash": grid.hash,
        "resolving_power": float(grid.resolving_power) if np.isfinite(grid.resolving_power) else "inf",
        "medium": grid.medium,
        "arms": arms,
        "labels": labels,
        "provenance": dict(grid.provenance),
        "defects": list(grid.defects.values()),
    }


def _ranges(texts: list[str]) -> list[tuple[float, float]]:
    """``LO-HI``, ``LO,HI`` or ``"LO HI"`` of each option."""
    from specinn.errors import GridError

    out = []
    for text in texts:
        fields = text.replace("-", " ").replace(",", " ").split()
        try:
            low, high = (float(field) for field in fields)
        except ValueError:
            raise GridError(
                f"--range {text!r}: expected two wavelengths in Angstrom, such as 5148-5740"
            ) from None
        out.append((low, high))
    return out


def _notes(texts: list[str], stated: Any) -> dict[str, str]:
    from specinn.errors import GridError

    out = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise GridError(f"--note {text!r}: expected KEY=VALUE, such as atmospheres=MARCS")
        if key.strip() in stated:
            raise GridError(f"--note {key.strip()}: the files state it already, as {stated[key.strip()]!r}")
        out[key.strip()] = value.strip()
    return out


def _some(items: list[Any], separator: str) -> str:
    rest = len(items) - _MODELS_LISTED
    return separator.join(map(str, items[:_MODELS_LISTED])) + (
        f"{separator}and {rest} more" if rest > 0 else ""
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return str(value)


add(
    app,
    "import",
    import_,
    [
        "specinn grid import my_tsfitpy_folder -o grid.h5",
        "specinn grid import spectra/ --resolving-power 60000 --range 5148-5740 -o grid.h5",
    ],
)
add(
    app,
    "make",
    make,
    ["specinn grid make recipe.toml --show", "specinn grid make recipe.toml -o grid.h5 --workers 8"],
)
add(app, "info", info, ["specinn grid info grid.h5", "specinn grid info my_tsfitpy_folder --json"])
