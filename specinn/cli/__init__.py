"""The command ``specinn``. Its modules import at the top what the options need; the work imports the rest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn import __version__
from specinn.cli import (
    combine,
    doctor,
    evaluate,
    fit_correction,
    flags,
    grid,
    instruments,
    models,
    new_plugin,
    plot,
    plugins,
    report,
    resimulate,
    run,
    saliency,
    synthesis,
    timing,
    train,
    tune,
)
from specinn.cli._framework import Commands, add

if TYPE_CHECKING:
    from specinn.plugins import Plugins


app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="specinn run       # stellar parameters of the example spectra\n"
    "specinn run -h    # every command has examples at the end of its help",
)


def _version(value: bool) -> None:
    if value:
        print(f"specinn {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from, for any command.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Posteriors of stellar parameters and abundances from high-resolution spectra."""
    package = logging.getLogger("specinn")
    package.handlers = [logging.StreamHandler() if debug else logging.NullHandler()]


_PANELS: dict[str, dict[str, Any]] = {
    "From spectra to results": {
        "run": run, "plot": plot, "combine": combine, "report": report, "resimulate": resimulate,
    },
    "What there is": {
        "instruments": instruments, "models": models, "flags": flags, "plugins": plugins, "doctor": doctor,
    },
    "How good it is": {
        "evaluate": evaluate, "fit-correction": fit_correction, "saliency": saliency, "timing": timing,
    },
    "Models and plugins of your own": {
        "grid": grid, "synthesis": synthesis, "train": train, "tune": tune, "new-plugin": new_plugin,
    },
}  # fmt: skip

for _panel, _modules in _PANELS.items():
    for _name, _module in _modules.items():
        if hasattr(_module, "app"):
            app.add_typer(_module.app, name=_name, rich_help_panel=_panel)
        else:
            _command = getattr(_module, _name.replace("-", "_"))
            add(app, _name, _command, _module.EXAMPLES, _panel)


def main(argv: list[str] | None = None, plugins: Plugins | None = None) -> None:
    """Run the command line; ``plugins`` are those that are installed, unless given."""
    app(args=argv, prog_name="specinn", obj=plugins)
