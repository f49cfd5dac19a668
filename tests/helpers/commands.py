"""What tests of commands share."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import Result

Command = Callable[..., Result]


def sentence(result: Result, *words: str, status: int = 1) -> None:
    """The command failed with one sentence on standard error that has these words, and no traceback."""
    assert result.exit_code == status, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("specinn: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]
    assert "Traceback" not in result.output
