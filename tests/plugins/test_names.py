"""``specinn.plugins`` is all that an author imports: every name is there, and what ships needs no other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from specinn import plugins
from specinn.plugins import hookspecs, interfaces
from specinn.plugins.scaffold import KINDS, write

ROOT = Path(__file__).resolve().parents[2]
GIRAFFE = ROOT / "tests" / "plugins" / "third_party"
PLACES = {"specinn", "specinn.plugins", "specinn.testing"}  # of specinn: its version, all, the rules


def imported(source: Path) -> set[str]:
    """The modules that a file imports, and for ``from specinn import testing`` the module that it is."""
    result = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"specinn.{alias.name}" for alias in node.names} if node.module == "specinn" else set()
            result |= names or {str(node.module)}
    return result


@pytest.mark.parametrize("name", plugins.__all__)
def test_every_name_is_there(name: str) -> None:
    result = getattr(plugins, name)
    if name != "hookimpl":  # a marker, without a name
        assert result.__name__ == plugins._CALLED.get(name, name)
    assert name in dir(plugins)


def test_the_three_lists_of_names_are_one() -> None:
    """What is imported for types, what is imported when it is used, and ``__all__``."""
    tree = ast.parse(Path(plugins.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == plugins._LAZY
    at_once = {name for name in plugins.__all__ if name in vars(plugins)}
    assert set(plugins.__all__) == set(plugins._LAZY) | at_once
    assert sorted(plugins.__all__) == sorted(set(plugins.__all__))


def test_no_interface_or_record_is_missing() -> None:
    public = {name for module in (hookspecs, interfaces) for name, result in vars(module).items()
              if isinstance(result, type) and result.__module__ == module.__name__}  # fmt: skip
    assert public <= set(plugins.__all__)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match=r"'specinn\.plugins' has no attribute 'Flow'"):
        plugins.Flow  # noqa: B018


def test_a_module_with_hooks_stays_light() -> None:
    heavy = "numpy", "torch", "astropy", "scipy", "h5py"
    code = "import sys; from specinn.plugins import EstimatorRecord, Plugins, hookimpl\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_new_plugin_imports_from_nowhere_else(tmp_path: Path) -> None:
    files = [path for path in write("lone-plugin", list(KINDS), tmp_path) if path.suffix == ".py"]
    assert len(files) > 2 * len(KINDS)
    for path in files:
        assert {name for name in imported(path) if name.startswith("specinn")} <= PLACES, path


@pytest.mark.parametrize("path", sorted(GIRAFFE.rglob("*.py")), ids=lambda path: path.name)
def test_nor_does_that_of_a_third_party(path: Path) -> None:
    inside = {name for name in imported(path) if name.partition(".")[0] == "specinn"}
    assert inside <= PLACES
