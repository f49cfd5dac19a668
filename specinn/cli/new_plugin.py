"""``specinn new-plugin``: the skeleton of a package that extends specinn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specinn.newplugin import KINDS, write


def new_plugin(
    name: Annotated[str, typer.Argument(help="Of the package, such as specinn-giraffe.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What it offers, of {', '.join(KINDS)}; may be given again. Default: preprocessor."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the folder NAME is made.")] = Path("."),
) -> None:
    """Write a package that passes its own tests, to start a plugin from."""
    for path in write(name, kind or ["preprocessor"], folder):
        print(path)
    print(f"next: cd {folder / name}, run pytest, then pip install -e . and specinn plugins")
