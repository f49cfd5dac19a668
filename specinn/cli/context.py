"""What the commands share: the plugins of the process."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
