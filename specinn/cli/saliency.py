"""``specinn saliency``: which pixels a model looks at for each label, and the lines found there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._options import AsJson, Device, Grids, ModelName, Overwrite, Seed, Split

if TYPE_CHECKING:
    from collections.abc import Sequence


EXAMPLES = (
    "specinn saliency 4most-hr --grid grid.h5 -o saliency",
    "specinn saliency 4most-hr --grid grid.h5 --snr 50 --features 3 -o faint --json",
)


def saliency(
    ctx: typer.Context,
    model: ModelName,
    grid: Grids,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for tables and figure.")
    ],
    snr: Annotated[float, typer.Option(metavar="SNR", help="S/N per Angstrom.")] = 250.0,
    split: Split = "test",
    spectra: Annotated[int, typer.Option(metavar="N", help="Spectra at most.", min=1)] = 500,
    samples: Annotated[int, typer.Option(metavar="N", help="Samples in the mean.", min=1)] = 64,
    features: Annotated[int, typer.Option(metavar="N", help="Features named per label.", min=1)] = 10,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Show which pixels a model uses for each label.

    DIR gets the gradient of each label with respect to the flux, as the median over simulated spectra of grid
    models: saliency.ecsv (all pixels), features.ecsv (the strongest, with the spectral lines they belong to),
    and the figure as saliency.pdf and saliency.png.
    """
    import specinn
    from specinn import models
    from specinn.cli._console import bar, echo, plugins_of, print_json
    from specinn.errors import OutputError
    from specinn.evaluation import saliency as work
    from specinn.evaluation.tables import write
    from specinn.files import check_folder, check_new, replacing
    from specinn.grids import load
    from specinn.plotting import arrange

    names = ("saliency.ecsv", "features.ecsv", "saliency.pdf", "saliency.png")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file: give the name of a folder")
    check_folder(output if output.is_dir() else output.resolve().parent, output)
    tables, figures = (
        [check_new(output / name, overwrite=overwrite) for name in part] for part in (names[:2], names[2:])
    )
    plugins = plugins_of(ctx)
    chosen = models.find(plugins, model)
    estimator = models.load(plugins, chosen, device)
    synthetic = load(grid, plugins=plugins)
    with bar("spectra") as progress:
        result = work.saliency(
            estimator, synthetic, snr=snr, split=split, n_spectra=spectra, n_samples=samples, seed=seed,
            plugins=plugins, progress=progress,
        )  # fmt: skip
    rows = result.features(features)
    meta = {
        "specinn": specinn.__version__, "model": chosen.name, "sha256": chosen.sha256(),
        "grid": synthetic.hash, "split": split, "spectra": result.n_spectra, "snr": snr, "samples": samples,
        "seed": seed,
    }  # fmt: skip
    output.mkdir(exist_ok=True)
    for path, table in zip(
        tables, (work.pixel_table(result, meta), work.feature_table(rows, meta)), strict=True
    ):
        write(table, path, overwrite=overwrite)
    figure = work.draw(result, rows)
    arrange(figure)
    for path in figures:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=200)
    if as_json:
        print_json({"meta": meta, "features": rows})
        return
    _show(rows, [label.name for label in result.labels], result.n_spectra, snr)
    for path in (*tables, *figures):
        echo(path)


def _show(rows: Sequence[dict[str, Any]], labels: Sequence[str], n: int, snr: float) -> None:
    """A line for each label: its features, strongest first."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"strongest features of {n} spectra at S/N {snr:g} per Angstrom, and their strength")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for name in labels:
        of_label = [row for row in rows if row["label"] == name]
        words = []
        for row in of_label:
            where = f"{row['species']} {row['line']:.2f}" if row["species"] else f"? {row['wavelength']:.2f}"
            words.append(f"{where} ({row['strength']:.3f})")
        table.add_row(name, ", ".join(words) or "no pixel stands out")
    console.print(table)
