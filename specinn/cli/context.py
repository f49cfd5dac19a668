"""What the commands share: the plugins of the process, a progress bar, rows and JSON on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from specinn.plugins import Plugins


def plugins_of(ctx: typer.Context, *, report: bool = True) -> Plugins:
    """The plugins given to :func:`specinn.cli.main`, else those installed; broken ones are reported once."""
    from specinn.plugins import Plugins

    plugins: Plugins = ctx.obj if ctx.obj is not None else Plugins()
    if report:
        plugins.report_failures()
    return plugins


@contextmanager
def bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def print_rows(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Rows of text in columns, the last one wrapped to the terminal."""
    import shutil
    import textwrap

    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        head = indent + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        room = max(30, shutil.get_terminal_size((100, 24)).columns - len(head))
        lines = textwrap.wrap(row[-1], room) or [""]
        print((head + lines[0]).rstrip())
        for line in lines[1:]:
            print(" " * len(head) + line)
