"""The tutorials: cells of Python are Python, and every command of specinn in the others is one that exists.

They are run when the documentation is built, which takes minutes; here they are only read.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
NAMES = ("survey", "posterior", "corrections", "train", "instrument", "flow")
PAGES = {name: FOLDER / f"{name}.md" for name in NAMES}
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def cells(name: str) -> list[str]:
    """The sources of the code cells of a page, without their options."""
    result = CELL.findall(PAGES[name].read_text(encoding="utf-8"))
    return [re.sub(r"\A(:[\w-]+:[^\n]*\n)+\n?", "", cell) for cell in result]


def commands(name: str) -> list[str]:
    """The calls of specinn in the shell cells of a page."""
    shell = "\n".join(cell for cell in cells(name) if cell.startswith("%%bash"))
    lines = re.sub(r"\\\n\s*", " ", shell).splitlines()
    return [line.removeprefix("! ") for line in lines if re.match(r"(! )?specinn ", line)]


def parsed(line: str) -> str:
    """Parses a call, without running it; the name of its command."""
    from specinn.cli import app

    words = shlex.split(re.split(r"\s(?:&|>|2>)", line)[0])
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name = words.pop(0) + f" {words[0]}"
        assert words[0] in command.commands, f"there is no command {name!r}: {line}"
        command = command.commands[words[0]]
    command.make_context(words[0], words[1:])
    return words[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_a_notebook_with_cells(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    assert text.startswith("---\njupytext:") and "format_name: myst" in text and "kernelspec:" in text
    assert len(cells(name)) >= 5
    assert text.count("```{code-cell}") == len(cells(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_command_parses(name: str) -> None:
    calls = commands(name)
    assert calls
    for line in calls:
        parsed(line)


@pytest.mark.parametrize("name", NAMES)
def test_cells_fail_where_a_command_does(name: str) -> None:
    shell = [cell for cell in cells(name) if cell.startswith("%%bash")]
    assert shell
    for cell in shell:
        assert cell.startswith("%%bash -e\n"), cell
        assert " | " not in cell, f"the status of the first command is lost in a pipe: {cell}"


@pytest.mark.parametrize("name", NAMES)
def test_cells_of_python_are_python(name: str) -> None:
    for cell in cells(name):
        magic, _, rest = cell.partition("\n")
        if magic.startswith("%%writefile") and magic.endswith(".py"):
            compile(rest, magic, "exec", ast.PyCF_ONLY_AST)
        elif magic.startswith("%%writefile") and magic.endswith(".toml"):
            pass  # one of them is wrong on purpose; specinn reads them when the page is built
        elif not magic.startswith("%"):
            compile(cell, name, "exec", ast.PyCF_ONLY_AST)


def test_the_index_has_them_all() -> None:
    text = (FOLDER / "index.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"```\{toctree\}(.*?)```", text, flags=re.DOTALL)
    pages = {page.stem for page in FOLDER.glob("*.md")} - {"index"}
    assert pages == set(NAMES) == {line for line in tree.split() if not line.startswith(":")}
    assert all(f"]({name}.md)" in text for name in NAMES)


@pytest.mark.parametrize("name", [*NAMES, "index"])
def test_links_lead_somewhere(name: str) -> None:
    page = FOLDER / f"{name}.md"
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if "://" not in target:
            assert (page.parent / (target.partition("#")[0] or page.name)).is_file(), target


@pytest.mark.slow
def test_a_wrong_command_is_found() -> None:
    """This test can fail."""
    assert parsed("specinn grid make a.toml -o a.h5 > table.txt") == "make"
    for line, why in (
        ("specinn run --instrumnt uves a.fits", "No such option"),
        ("specinn run --samples many", "valid integer"),
        ("specinn flags 1 2", "unexpected extra argument"),
    ):
        with pytest.raises(Exception, match=why):
            parsed(line)
    with pytest.raises(AssertionError, match="no command 'specinn rum'"):
        parsed("specinn rum a.fits")
