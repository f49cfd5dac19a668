"""The command ``specinn``. Its modules import at the top what the options need; the work imports the rest."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from specinn import __version__
from specinn.cli import (
    benchmark,
    calibrate,
    combine,
    doctor,
    evaluate,
    flags,
    grid,
    instruments,
    models,
    new_plugin,
    plugins,
    report,
    resimulate,
    run,
    saliency,
    synthesis,
    train,
    tune,
)
from specinn.errors import SpecinnError

if TYPE_CHECKING:
    from specinn.plugins import Plugins


class _Commands(TyperGroup):
    """Turns the errors of all commands into one sentence on standard error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpecinnError as error:
            if ctx.params.get("debug"):
                raise
            print(f"specinn: {error}", file=sys.stderr)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params.get("debug") or type(error).__module__.startswith(("typer", "click")):
                raise
            print(
                f"specinn: unexpected {type(error).__name__}: {error} "
                "(specinn --debug COMMAND ... shows where; please report it)",
                file=sys.stderr,
            )
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"specinn {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Posterior distributions of stellar parameters and abundances from high-resolution spectra."""
    package = logging.getLogger("specinn")
    package.handlers = [logging.StreamHandler() if debug else logging.NullHandler()]


app.command("run")(run.run)
app.command("plugins")(plugins.plugins)
app.command("new-plugin")(new_plugin.new_plugin)
app.command("instruments")(instruments.instruments)
app.command("models")(models.models)
app.command("flags")(flags.flags)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("report")(report.report)
app.command("resimulate")(resimulate.resimulate)
app.command("saliency")(saliency.saliency)
app.command("benchmark")(benchmark.benchmark)
app.command("combine")(combine.combine)
app.command("doctor")(doctor.doctor)
app.add_typer(grid.app, name="grid")
app.add_typer(synthesis.app, name="synthesis")


def main(argv: list[str] | None = None, plugins: Plugins | None = None) -> None:
    """Run the command line; ``plugins`` are those that are installed, unless given."""
    app(args=argv, prog_name="specinn", obj=plugins)
