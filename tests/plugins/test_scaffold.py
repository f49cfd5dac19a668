"""``specinn new-plugin`` writes packages that keep the rules as they are, and fills them in part or whole."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import Command, sentence

from specinn.plugins import Plugins
from specinn.plugins.manager import KINDS as RECORDS
from specinn.plugins.scaffold import KINDS, write

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plugins() -> Plugins:
    return Plugins([])


def run_tests(package: Path) -> str:
    """What pytest says of the package's own tests, with warnings as errors."""
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "plugins", "instruments"))
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=package, env=variables, text=True, capture_output=True).stdout


def test_a_package_of_every_kind_passes_its_own_tests(specinn: Command, tmp_path: Path) -> None:
    result = specinn("new-plugin", "my-plugin", *(word for kind in KINDS for word in ("--kind", kind)))
    assert result.exit_code == 0, result.output
    listed = {line for line in result.stdout.splitlines() if line.startswith("my-plugin/")}
    assert listed == {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert f"{len(KINDS) + 1} passed" in run_tests(tmp_path / "my-plugin")
    left = [p for p in tmp_path.rglob("*.*") if p.is_file() and "__pycache__" not in p.parts]
    assert not [p for p in left if "plugin-name" in p.read_text() or "plugin_name" in p.read_text()]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is of that kind, and what the package says is what setuptools and specinn need."""
    name = f"only-{kind}"
    write(name, [kind], tmp_path)
    project = tomllib.loads((tmp_path / name / "pyproject.toml").read_text())["project"]
    module = name.replace("-", "_")
    assert project["name"] == name and project["entry-points"]["specinn"] == {name: module}
    monkeypatch.syspath_prepend(str(tmp_path / name / "src"))
    from specinn.testing import check_plugin

    (offer,) = check_plugin(importlib.import_module(module))
    assert (offer.kind, offer.record.name) == (kind.replace("-", " "), name)


def test_every_kind_of_record_has_a_skeleton() -> None:
    assert {kind.replace("-", " ") for kind in KINDS} == set(RECORDS)


def test_by_default_a_preprocessor(specinn: Command, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert specinn("new-plugin", "mine", "--folder", "there").exit_code == 0
    assert (tmp_path / "there" / "mine" / "src" / "mine" / "preprocessor.py").is_file()


def test_wrong_words(specinn: Command, tmp_path: Path) -> None:
    sentence(specinn("new-plugin", "mine", "--kind", "grid_loader"), "did you mean 'grid-loader'?")
    sentence(specinn("new-plugin", "mine", "--kind", "zzz"), "there are instrument, reader")
    sentence(specinn("new-plugin", "My_Plugin"), "small letters, digits and hyphens")
    sentence(specinn("new-plugin", "numpy"), "a package numpy is installed")
    sentence(specinn("new-plugin", "mine", "--folder", "nowhere"), "there is no folder nowhere")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    sentence(specinn("new-plugin", "mine"), "mine exists")
