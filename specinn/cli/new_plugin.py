"""``specinn new-plugin``: the skeleton of a package that extends specinn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specinn.plugins.scaffold import KINDS, write

EXAMPLES = (
    "specinn new-plugin specinn-giraffe --kind instrument --kind reader",
    "specinn new-plugin my-flow --kind estimator --folder ~/plugins",
)


def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the package, such as specinn-giraffe.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help=f"{', '.join(KINDS)}; repeatable.  [default: preprocessor]",
            autocompletion=lambda: list(KINDS),
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where to create the folder NAME.")] = Path("."),
) -> None:
    """Write a package to start a plugin from.

    It works and passes its own tests as it is.
    """
    for path in write(name, kind or ["preprocessor"], folder):
        print(path)
    print(f"next: cd {folder / name}, run pytest, then pip install -e . and specinn plugins")
