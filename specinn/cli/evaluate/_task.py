"""What the commands below ``specinn evaluate`` share: options, and where a result goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from specinn.cli._console import echo, plugins_of, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import Estimator

_WIDTH = 100

GridFiles = Annotated[
    list[Path],
    typer.Argument(metavar="GRID.h5", help="Synthetic spectra; those of --split are new to the model."),
]
AsObserved = Annotated[bool, typer.Option("--as-observed", help="Allow for errors of the physics.")]
StarsFile = Annotated[
    Path, typer.Argument(metavar="STARS.csv", help="Table of benchmark stars and their spectra.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE.ecsv|DIR", help="A table, or a folder that also has figures."
    ),
]


@attrs.frozen
class Task:
    """What all evaluations share: the model, entries for the ``meta`` of the result, and where it is written.

    ``path`` is a file, or, where ``folder`` is true, a folder; None where nothing is written.
    """

    estimator: Estimator
    meta: dict[str, Any]
    plugins: Plugins
    path: Path | None
    folder: bool
    overwrite: bool
    as_json: bool

    @classmethod
    def begin(
        cls,
        ctx: typer.Context,
        model: str,
        output: str | None,
        *,
        device: str,
        samples: int,
        seed: int,
        overwrite: bool,
        as_json: bool,
        folders: bool = True,
    ) -> Task:
        """Load the model, after a check that ``output`` can be written; a folder only with ``folders``.

        Raises ``OutputError`` and ``ModelError``.
        """
        import specinn
        from specinn import models
        from specinn.evaluation import tables
        from specinn.report.evaluation import folder as report

        path = Path(output) if output is not None else None
        folder = path is not None and folders and (str(output).endswith("/") or not path.suffix)
        if path is not None:
            (report if folder else tables).check(path, overwrite=overwrite)
        plugins = plugins_of(ctx)
        chosen = models.find(plugins, model)
        meta: dict[str, Any] = {
            "specinn": specinn.__version__, "model": chosen.name, "sha256": chosen.sha256(),
            "samples": samples, "seed": seed,
        }  # fmt: skip
        return cls(models.load(plugins, chosen, device), meta, plugins, path, folder, overwrite, as_json)

    def write(self, table: Any) -> None:
        """The table as a file, if one was asked for."""
        from specinn.evaluation.tables import write

        if self.path is not None:
            write(table, self.path, overwrite=self.overwrite)

    def show(self, result: dict[str, Any], display: Callable[[], None], page: str = "") -> None:
        """``result`` as JSON, or what ``display`` prints and where the result was written."""
        if self.as_json:
            print_json({"meta": self.meta, **result})
            return
        display()
        if self.path is not None:
            echo(self.path / page)


def wide_console() -> Console:
    """Wide enough for every table: a terminal that is narrower breaks lines, but figures stay whole."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, _WIDTH)
    return console
