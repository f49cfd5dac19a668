"""``specinn tune``: search for the best configuration of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._options import AsJson

if TYPE_CHECKING:
    from specinn.training.search import Search

_SHOWN = 10


EXAMPLES = (
    "specinn tune search.toml --processes 2",
    "specinn tune search-trials --show --json",
)


def tune(
    ctx: typer.Context,
    search: Annotated[
        Path,
        typer.Argument(metavar="SEARCH", help="A search file (TOML), or the folder of a search to resume."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the search.  [default: SEARCH-trials]"),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(metavar="N", help="Configurations.  [default: as in the search file]", min=1),
    ] = None,
    processes: Annotated[int, typer.Option(metavar="N", help="Processes on this machine.", min=1)] = 1,
    show: Annotated[bool, typer.Option("--show", help="Only show the results so far.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No lines about the trials.")] = False,
) -> None:
    """Find the best configuration of a training.

    Hyperband: many trials begin, and the worse ones are stopped early. Interrupt it at will: the same command
    resumes it. More processes, also on other machines that share the folder, join with the same command.
    """
    import sys

    import attrs

    from specinn.cli._console import plugins_of
    from specinn.errors import ConfigError
    from specinn.parallel.locks import Claims
    from specinn.training import trials as results
    from specinn.training import tuning as work
    from specinn.training.processes import work_in_processes
    from specinn.training.search import SEARCH, Search, begin

    if search.is_dir():
        if output is not None:
            raise ConfigError(f"{search} is the folder of a search, which resumes there: remove --output")
        folder, search = search, search / SEARCH
        if not search.is_file():
            raise ConfigError(f"{folder} holds no search: it has no {SEARCH}")
    else:
        folder = output or search.with_name(f"{search.stem}-trials")
    settings = Search.load(search)
    if show and not (folder / SEARCH).is_file():
        raise ConfigError(f"{folder} holds no search yet")
    plugins = plugins_of(ctx)
    plugins.record(settings.what, settings.kind)
    work.check_optuna()
    begin(settings, folder)
    if trials is not None:
        settings = attrs.evolve(settings, trials=trials)

    def report(number: int, text: str) -> None:
        if not quiet:
            print(f"trial {number}: {text}", file=sys.stderr, flush=True)

    stopped = False
    try:
        if not show and processes == 1:
            work.work(settings, folder, plugins, report)
        elif not show:
            work_in_processes(settings, folder, processes, report)
    except KeyboardInterrupt:
        stopped = True
    finally:
        with Claims(folder / "claims").turn:  # who writes last has seen the most
            rows = results.found(settings, folder)
            results.write(settings, folder, rows)
    if as_json:
        from specinn.cli._console import print_json

        print_json(rows)
    else:
        _show(settings, folder, rows)
    if stopped:
        print("stopped; the same command resumes", file=sys.stderr)
        raise typer.Exit(130)


def _show(search: Search, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The best trials, why others failed, and what to do with the best."""
    from specinn.cli._console import print_rows
    from specinn.training import trials as results

    lines: list[tuple[str, ...]] = [("trial", "state", "validation", "step", "configuration")]
    for row in rows[:_SHOWN]:
        cells = (_cell(row[name]) for name in ("trial", "state", "validation", "step"))
        values = ", ".join(f"{name} {_cell(value)}" for name, value in row["values"].items())
        lines.append((*cells, values))
    if rows:
        print_rows(lines)
    for message in list(dict.fromkeys(row["message"] for row in rows if row["message"]))[:_SHOWN]:
        print(f"failed: {message}")
    print(f"{results.counts(rows)}; all of them are in {folder / results.TABLE}")
    if (best := results.best(rows)) is not None:
        kept = results.checkpoints(folder, best)
        print(f"best recipe: {folder / results.BEST}; its model: {kept / 'model.safetensors'}")
    else:
        print("no trial is complete yet, so there is no best recipe")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
