"""The skeleton of a plugin: a package that passes its own tests, for its author to fill in.

The folder ``template`` holds a small working part of each kind, with its test, in which ``plugin_name`` and
``plugin-name`` stand for the names of the module and of the package.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from specinn.errors import ConfigError, near
from specinn.files import check_folder, replacing_folder

# kind: its hook, its record, and what that names
KINDS: dict[str, tuple[str, ...]] = {
    "instrument": ("specinn_instruments", "InstrumentRecord", 'toml=HERE / "instrument.toml"'),
    "reader": ("specinn_instruments", "ReaderRecord", 'factory="plugin_name.reader:Columns"'),
    "preprocessor": ("specinn_preprocessors", "Record", 'factory="plugin_name.preprocessor:Step"'),
    "grid-loader": ("specinn_grid_loaders", "Record", 'factory="plugin_name.grid_loader:Npz"'),
    "synthesizer": ("specinn_synthesizers", "Record", 'factory="plugin_name.synthesizer:Synthesis"'),
    "estimator": (
        "specinn_estimators",
        "EstimatorRecord",
        'factory="plugin_name.estimator:Ridge"',
        'trainer="plugin_name.estimator:train"',
    ),
    "correction": ("specinn_corrections", "Record", 'factory="plugin_name.correction:Offset"'),
}

_PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "plugin-name"
version = "0.1"
description = "A plugin of specinn"
requires-python = ">=3.11"
dependencies = ["specinn"]

[project.entry-points.specinn]
plugin-name = "plugin_name"

[tool.setuptools.package-data]
plugin_name = ["*.toml"]

[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
"""

_README = """# plugin-name

A plugin of specinn. Its rules are in docs/plugins.md of specinn; `specinn.testing` checks them.

    pytest            # the rules
    pip install -e .  # then specinn plugins lists it
"""


def write(name: str, kinds: Sequence[str], folder: Path) -> list[Path]:
    """A package called ``name`` in ``folder / name``, with a part of each of ``kinds``; returns its files.

    It appears whole or not at all. Raises ``ConfigError`` for an unknown kind, for a name that is taken or
    that no package can have, and ``OutputError`` where nothing can be written.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no kind of plugin is called {kind!r}; {near(kind, KINDS)}")
    module, target = name.replace("-", "_"), folder / name
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(f"{name!r} is not a name for a plugin: use small letters, digits and hyphens")
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(f"a package {module} is installed: choose another name than {name!r}")
    if target.exists():
        raise ConfigError(f"{target} exists: choose another name, or move it away")
    check_folder(folder, target)
    with replacing_folder(target) as temporary:
        for path, text in _files(list(dict.fromkeys(kinds))).items():
            file = temporary / path.replace("plugin_name", module)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                text.replace("plugin_name", module).replace("plugin-name", name), encoding="utf-8"
            )
    return sorted(path for path in target.rglob("*") if path.is_file())


def _files(kinds: Sequence[str]) -> dict[str, str]:
    """Text by path; names are still to be inserted."""
    template = resources.files("specinn.plugins") / "template"
    files = {"pyproject.toml": _PROJECT, "README.md": _README, "src/plugin_name/__init__.py": _hooks(kinds)}
    chosen = {"tests/test_plugin.py": "test_plugin.py"}
    for kind in kinds:
        stem = kind.replace("-", "_")
        source = f"{stem}.toml" if kind == "instrument" else f"{stem}.py"
        chosen |= {f"src/plugin_name/{source}": source, f"tests/test_{stem}.py": f"test_{stem}.py"}
    return files | {path: (template / file).read_text(encoding="utf-8") for path, file in chosen.items()}


def _hooks(kinds: Sequence[str]) -> str:
    """The module with the hooks."""
    hooks: dict[str, str] = {}
    for kind in kinds:
        hook, record, *what = KINDS[kind]
        fields = ('name="plugin-name"', 'summary="what it does, in one line"', *what)
        lines = "".join(f"            {field},\n" for field in fields)
        hooks[hook] = hooks.get(hook, "") + f"        {record}(\n{lines}        ),\n"
    records = ", ".join(sorted({KINDS[kind][1] for kind in kinds}))
    with_file = "instrument" in kinds
    head = '"""A plugin of specinn."""\n\n' + ("from pathlib import Path\n\n" if with_file else "")
    head += f"from specinn.plugins import {records}, hookimpl\n"
    head += "\nHERE = Path(__file__).parent\n" if with_file else ""
    bodies = (f"\n\n@hookimpl\ndef {hook}():\n    return [\n{each}    ]\n" for hook, each in hooks.items())
    return head + "".join(bodies)
