"""Where Turbospectrum and its data are: what ``specinn synthesis setup`` installed, or the user's own."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from specinn.errors import SynthesisError
from specinn.plugins import Component

MANIFEST = "manifest.json"
FORMAT = "specinn synthesis"
EXECUTABLES = ("babsma_lu", "bsyn_lu")
HYDROGEN = "Hlinedata"
SETUP = "specinn synthesis setup"
_VARIABLE = "SPECINN_TURBOSPECTRUM"
CONVERSIONS = {
    "code": "2",
    "line lists": "2",
}  # to be raised when set-up makes something else of the same packages
GAIA_ESO, BLUE = "gaia-eso-nlte", "atoms-below-4200"  # names of line lists


def default_prefix() -> Path:
    """SPECINN_TURBOSPECTRUM, or the folder for such data of the user's system."""
    if prefix := os.environ.get(_VARIABLE):
        return Path(prefix).expanduser()
    if platform.system() == "Darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "specinn" / "turbospectrum"


def sha256(path: Path) -> str:
    """Of a file; of a folder that of the names and contents of all its files."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_manifest(prefix: Path) -> dict[str, Any]:
    """What is installed under ``prefix``, by component; empty where nothing is.

    Raises ``SynthesisError`` for a file that is not such a manifest.
    """
    path = prefix / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SynthesisError(f"{path} cannot be read ({error}): remove it and run {SETUP} again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SynthesisError(f"{path} is not a manifest of {SETUP}: choose another folder with --prefix")
    return dict(manifest["components"])


def write_manifest(prefix: Path, components: Mapping[str, Any]) -> None:
    path, part = prefix / MANIFEST, prefix / f".{MANIFEST}.{os.getpid()}"
    content = {"format": FORMAT, "version": 1, "components": dict(components)}
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


@attrs.frozen
class Installation:
    """The parts of a working Turbospectrum: folders, and line lists by name."""

    executables: Path
    data: Path
    atmospheres: Path
    line_lists: Mapping[str, Path]
    recorded: Mapping[str, Any] = attrs.field(factory=dict, repr=False)  # the manifest, if there is one

    @classmethod
    def under(cls, prefix: Path | None = None) -> Installation:
        """What ``specinn synthesis setup`` wrote under ``prefix`` (default: :func:`default_prefix`)."""
        prefix = default_prefix() if prefix is None else prefix
        lists = {file.stem: file for file in sorted((prefix / "linelists").glob("*.list"))}
        return cls(prefix / "exec", prefix / "DATA", prefix / "marcs", lists, read_manifest(prefix))

    def check(self, line_lists: Iterable[str]) -> None:
        """Raises ``SynthesisError`` that names the first thing that is missing, and how to get it."""
        how = f"run {SETUP}, or point to your own in the [synthesizer] table"
        for name in EXECUTABLES:
            program = self.executables / name
            if not program.is_file():
                raise SynthesisError(f"{program} is missing: {how}")
            if not os.access(program, os.X_OK):
                raise SynthesisError(f"{program} is not executable: run chmod +x on it")
        if not (self.data / "atomicweights.dat").is_file():
            raise SynthesisError(f"{self.data} is not Turbospectrum's folder DATA: {how}")
        if not self.atmospheres.is_dir():
            raise SynthesisError(f"{self.atmospheres}, the folder of model atmospheres, is missing: {how}")
        for name in line_lists:
            if name not in self.line_lists:
                there = ", ".join(self.line_lists) or "none"
                raise SynthesisError(f"there is no line list {name} (there are: {there}): {how}")
            if not self.line_lists[name].is_file():
                raise SynthesisError(f"{self.line_lists[name]}, a line list, is missing: {how}")

    def checksums(self, line_lists: Iterable[str]) -> dict[str, str]:
        """SHA-256 by name of the line list: as recorded at set-up, else computed now."""
        recorded = {key: value for entry in self.recorded.values() for key, value in entry["files"].items()}
        return {
            name: recorded.get(f"linelists/{self.line_lists[name].name}") or sha256(self.line_lists[name])
            for name in line_lists
        }


def components(prefix: Path | None = None) -> list[Component]:
    """What ``specinn doctor`` shows: each part that set-up installs, and what is wrong with it."""
    prefix = default_prefix() if prefix is None else prefix
    try:
        recorded = read_manifest(prefix)
    except SynthesisError as error:
        return [Component("turbospectrum", False, str(error), SETUP)]
    out = []
    for name in ("code", "atmospheres", "line lists"):
        entry = recorded.get(name, {})
        fault = f"not installed under {prefix}"
        if entry:
            fault = outdated(name, entry) or damage(prefix, entry, quick=True)
        detail = fault or f"{entry['summary']} in {prefix}"
        out.append(Component(f"turbospectrum {name}", not fault, detail, SETUP if fault else ""))
    return out


def outdated(name: str, entry: Mapping[str, Any]) -> str:
    """Whether an earlier version of specinn made a component differently; "" if not."""
    same = entry.get("conversion", "") == CONVERSIONS.get(name, "")
    return "" if same else f"{name} were made differently by an earlier version of specinn"


def damage(prefix: Path, entry: Mapping[str, Any], quick: bool = False) -> str:
    """What is wrong with the files of a component, by their checksums (``quick``: whether they are there); ""
    for nothing."""
    for name, expected in entry["files"].items():
        path = prefix / name
        if not path.exists():
            return f"{path} is missing"
        if not quick and (actual := sha256(path)) != expected:
            return f"{path} has SHA-256 {actual[:12]}, at set-up it had {expected[:12]}"
    return ""
