"""The layout of the package: no circle of imports, few modules at the top, all of them on the map."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("specinn", "specinn_cinn", "specinn_emulator", "specinn_instruments", "specinn_preprocessing",
            "specinn_teff_bias", "specinn_turbospectrum")  # fmt: skip


def circles(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach one another (strongly connected components of more than one)."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            new = imports.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    reach = {module: reached(module) for module in imports}
    return {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in imports
        if module in reach[module]
    }


def test_circles_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset({"b", "c"})}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_imports(package: str) -> None:
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert circles(imports) == set()


def test_few_modules_at_the_top_and_all_of_them_on_the_map() -> None:
    top = {path.stem for path in (ROOT / "specinn").glob("*.py")} - {"__init__", "__main__"}
    packages = {path.parent.name for path in (ROOT / "specinn").glob("*/__init__.py")}
    assert len(top) + 2 <= 22
    text = (ROOT / "specinn" / "README.md").read_text(encoding="utf-8")
    mapped = set(re.findall(r"`([\w./]+)`", text))
    assert top <= {name.removesuffix(".py") for name in mapped}
    assert packages <= {name.split("/")[0] for name in mapped}
    paths = {name for name in mapped if "/" in name or name.endswith((".py", ".toml"))}
    rooted = {name: ROOT / (name[1:] if name[0] == "/" else f"specinn/{name}") for name in sorted(paths)}
    assert [name for name, path in rooted.items() if not path.exists()] == []
