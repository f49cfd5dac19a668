"""What the commands share: the plugins of the process, a progress bar, rows and JSON on the terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from specinn.plugins import Plugins


def plugins_of(ctx: typer.Context, *, report: bool = True) -> Plugins:
    """The plugins passed to :func:`specinn.cli.main`, else those installed; broken ones are reported once."""
    from specinn.plugins import Plugins

    plugins: Plugins = ctx.obj if ctx.obj is not None else Plugins()
    if report:
        plugins.report_failures()
    return plugins


def echo(text: Any, *, error: bool = False) -> None:
    """Print a line with text that others may have written, such as file names, ids and messages: control
    characters are shown, not obeyed."""
    from specinn.texts import shown

    print(shown(str(text)), file=sys.stderr if error else sys.stdout)


def note(text: Any) -> None:
    """A sentence on standard error."""
    echo(f"specinn: {text}", error=True)


def stderr_console() -> Console:
    """Standard error, for progress: a terminal only where it is one. Jupyter says FORCE_COLOR, after which
    rich would animate bars into a file."""
    from rich.console import Console

    return Console(stderr=True, force_terminal=sys.stderr.isatty())


@contextmanager
def bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr_console()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def print_json(data: Any) -> None:
    """JSON as every reader takes it: what is not a finite number is null."""
    from specinn.texts import in_json

    print(in_json(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False, default=str)))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_rows(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Rows of text in columns, the last one wrapped to the terminal."""
    import shutil
    import textwrap

    from specinn.texts import shown

    if not rows:
        return
    rows = [tuple(map(shown, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        head = indent + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        room = max(30, shutil.get_terminal_size((100, 24)).columns - len(head))
        lines = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        print((head + lines[0]).rstrip())
        for line in lines[1:]:
            print(" " * len(head) + line)
