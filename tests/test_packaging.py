"""From sdist to wheel to an installed specinn: what is in the files, their sizes, and that it works."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
LIMIT = 100  # MB, what PyPI takes of a file; CONTRIBUTING.md states the size

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("pip") is None,
        reason="the packages hatchling and pip are needed to build and install a wheel",
    ),
]

INSTALLED = """
import sys
from pathlib import Path
from specinn.cli import main

code = 0
try:
    main(sys.argv[2:])
except SystemExit as end:
    code = end.code or 0
ours = {name: m for name, m in list(sys.modules.items()) if name.startswith("specinn")}
elsewhere = [name for name, m in ours.items() if not Path(m.__file__).is_relative_to(sys.argv[1])]
sys.exit(f"not of the wheel: {elsewhere}" if elsewhere else code)
"""


def build(kind: str, source: Path, folder: Path) -> Path:
    """What the build backend makes of the folder ``source``, without network."""
    command = f"import sys; from hatchling.build import build_{kind} as b; print(b(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", command, folder], cwd=source, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python 3.11.2 has not yet
        archive.extractall(folder)
    (top,) = folder.iterdir()
    return top


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone."""
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    options = ["-q", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def files(folder: Path) -> set[str]:
    """Paths below a folder, without what the interpreter leaves there."""
    result = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix() for p in result}


def test_the_wheel_has_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.split("dist-info/")[1] for name in archive.namelist() if name not in inside}
    tree = {f"{Path(package).name}/{name}" for package in PACKAGES for name in files(ROOT / package)}
    assert inside == tree
    assert metadata == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert {f"{Path(package).name}/py.typed" for package in PACKAGES} <= inside
    for name in (
        "specinn/examples/dwarf-g.fits",
        "specinn/lines.toml",
        "specinn/report/catalogue/page.html",
        "specinn/plugins/template/test_plugin.py",
        "specinn_instruments/spectrographs/4most-hr.toml",
        "specinn_cinn/weights/4most-hr.safetensors",
        "specinn_emulator/weights/4most-hr.safetensors",
    ):
        assert name in inside


def test_every_package_of_the_tree_is_shipped() -> None:
    result = {p.parent.relative_to(ROOT).as_posix() for p in ROOT.glob("plugins/*/__init__.py")}
    result |= {p.parent.relative_to(ROOT).as_posix() for p in ROOT.glob("instruments/*/__init__.py")}
    assert {"specinn", *result} == set(PACKAGES)


def test_the_sdist_has_what_builds_and_tests_it(unpacked: Path) -> None:
    inside = files(unpacked)
    top = {name.split("/")[0] for name in inside}
    folders = {"benchmarks", "docs", "instruments", "plugins", "specinn", "tests", "tools"}
    prose = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md"}
    assert top == folders | prose | {"pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {
        "tests/conftest.py",
        "tests/test_packaging.py",
        "tests/plugins/third_party/pyproject.toml",
    } <= inside
    for package in PACKAGES:
        assert files(ROOT / package) == files(unpacked / package)
    weights = {name for name in inside if (unpacked / name).stat().st_size > 1_000_000}
    weights -= {
        f"tests/data/4most-hr-{name}.h5" for name in ("held-out", "unseen")
    }  # spectra for tests of these
    assert all("/weights/" in name for name in weights), weights


def test_sizes(sdist: Path, wheel: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    stated_sizes = map(int, re.findall(r"(\d+) MB", text))
    for path, stated in zip((wheel, sdist), stated_sizes, strict=True):
        size = path.stat().st_size / 1e6
        assert size < LIMIT and abs(size - stated) < 1, f"{path.name} has {size:.1f} MB"


def test_what_the_wheel_says_of_itself(metadata: Message) -> None:
    from specinn import __version__

    assert metadata["Name"] == "specinn" and metadata["Version"] == __version__
    assert metadata["License-Expression"] == "BSD-3-Clause" and metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation and "\nlicense: BSD-3-Clause\n" in citation


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """A command of the installed wheel, in a process and a folder of its own."""
    variables = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(installed), *arguments],
        cwd=folder, env=variables, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_wheel_answers(installed: Path, tmp_path: Path) -> None:
    from specinn import __version__

    assert run(installed, tmp_path, "--version") == f"specinn {__version__}\n"
    assert re.search("^4most-hr +cinn", run(installed, tmp_path, "models"), re.MULTILINE)
    assert (installed / "bin" / "specinn").is_file()
