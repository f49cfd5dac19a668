"""``specinn evaluate emulator``: how far an emulator's spectra are from those of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._console import bar, echo, plugins_of, print_json
from specinn.cli._options import AsJson, Overwrite, Seed, Split, Synthesizer
from specinn.cli._tables import columns, decimals, figure
from specinn.cli.evaluate._task import GridFiles

if TYPE_CHECKING:
    from specinn.evaluation.emulation import Emulation

EXAMPLES = (
    "specinn evaluate emulator 4most-hr grid.h5",
    "specinn evaluate emulator my-emulator.safetensors grid.h5 --fits 50 -o emulator",
)


def emulator(
    ctx: typer.Context,
    weights: Annotated[
        str, typer.Argument(metavar="EMULATOR", help="File of weights, or the name of bundled ones.")
    ],
    grid: GridFiles,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for tables and figures.")
    ] = None,
    split: Split = "test",
    n_fits: Annotated[
        int, typer.Option("--fits", metavar="N", help="Spectra to fit with the emulator.", min=0)
    ] = 0,
    snr: Annotated[float, typer.Option(metavar="SNR", help="S/N per Angstrom of these.")] = 250.0,
    synthesizer: Synthesizer = "emulator",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare emulated spectra with those of a grid at R = 20 000.

    With --fits, all labels of noisy grid spectra are fitted with the emulator, and the errors compared with
    the information limit: no network that learns from the emulator can do better.
    """
    import specinn
    from specinn.evaluation import emulation, tables
    from specinn.grids import load
    from specinn.report.benchmark_stars import write
    from specinn.report.evaluation import folder

    if output is not None:
        folder.check(output, overwrite=overwrite)
    plugins = plugins_of(ctx)
    loaded = plugins.load("synthesizer", synthesizer).load(Path(weights))
    spectra = load(grid, plugins=plugins)
    with bar("spectra") as progress:
        result = emulation.compare(loaded, spectra, split=split, progress=progress)
    rows = {"arms": emulation.arm_rows(result)}
    if n_fits:
        with bar("fits") as progress:
            rows["fits"] = emulation.fits(result, snr=snr, n_stars=n_fits, seed=seed, progress=progress)
    meta = {
        "specinn": specinn.__version__, "emulator": weights, "grid": spectra.hash, "split": split,
        "resolving_power": result.resolving_power, "seed": seed,
    }  # fmt: skip
    if output is not None:
        write(
            output,
            {name: tables.tabulate(of, emulation.COLUMNS[name], meta) for name, of in rows.items()},
            {"errors": lambda: emulation.draw(result)},
            overwrite=overwrite,
        )
    if as_json:
        print_json({"meta": meta, **rows, "metrics": emulation.metrics(result)})
        return
    _show(rows, result)
    if output is not None:
        echo(output)


def _show(rows: Mapping[str, Sequence[Mapping[str, Any]]], result: Emulation) -> None:
    """A line for each arm, and one for each label that was fitted."""
    from rich.console import Console

    from specinn.posterior.display import with_unit

    console = Console(highlight=False, markup=False, soft_wrap=True)
    echo(f"rms of emulated minus true flux at R = {result.resolving_power:g}, of {len(result.flux)} stars")
    table = columns(["arm"], ["5 %", "median", "95 %", "largest"])
    for row in rows["arms"]:
        table.add_row(row["arm"], *(figure(row[key], ".5f") for key in ("p5", "median", "p95", "largest")))
    console.print(table)
    if "fits" not in rows:
        return
    first = rows["fits"][0]
    echo(f"\n{first['stars']} fits at S/N {first['snr']:g} per Angstrom, and the information limit")
    table = columns([""], ["error", "bound", "ratio"])
    for row in rows["fits"]:
        style = decimals(row["unit"], more=1)
        cells = [figure(row[key], style) for key in ("error", "bound")]
        table.add_row(with_unit(row["label"], row["unit"]), *cells, figure(row["ratio"], ".2f"))
    console.print(table)
