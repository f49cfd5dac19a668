"""The folder of a grid in the making.

A process that is killed while it writes HDF5 may leave a file that nobody can open, and only one can write to
it at a time. So each spectrum is a small file of its own in the folder ``GRID.h5.run``, which gets its name
when it is whole: the files there are what is done, whichever process was killed, and processes on any machine
need not communicate. A spectrum that failed has a file, too, with the reason. When all are there one process
writes the grid, in the order of the sequence, and the folder goes. Until then a pixel takes four bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.errors import ConfigError, GridError, OutputError
from specinn.files import replacing
from specinn.grids import Grid
from specinn.grids.recipe import Recipe
from specinn.training.recipe import merged

__all__ = ["AGAIN", "FORMAT", "MANIFEST", "VERSION", "Work", "described", "difference"]

FORMAT, VERSION = "specinn grid in the making", 1
MANIFEST = "_manifest.json"
AGAIN = "what is done is kept, and the same command resumes"
_OURS = re.compile(rf"{MANIFEST}|grid\.h5|(flux|failed)-\d+\.(npy|json)|\..+\.(partial|tmp)(\.\w+)?")


@attrs.frozen
class Work:
    """The folder of a grid in the making; models have the number that they have in the sequence."""

    folder: Path

    def flux_file(self, number: int) -> Path:
        return self.folder / f"flux-{number:09d}.npy"

    def failed_file(self, number: int) -> Path:
        return self.folder / f"failed-{number:09d}.json"

    def keep(self, number: int, flux: np.ndarray) -> None:
        with replacing(self.flux_file(number)) as temporary:
            np.save(temporary, flux.astype(np.float32), allow_pickle=False)

    def fail(self, number: int, message: str) -> None:
        with replacing(self.failed_file(number)) as temporary:
            temporary.write_text(json.dumps({"message": message}), encoding="utf-8")

    def flux(self, number: int) -> np.ndarray:
        path = self.flux_file(number)
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise GridError(f"{path} is damaged ({error}): delete it; {AGAIN}") from None

    def done(self) -> set[int]:
        return {int(path.stem[5:]) for path in self.folder.glob("flux-*.npy")}

    def failures(self) -> dict[int, str]:
        """The reasons by number."""
        out = {}
        for path in sorted(self.folder.glob("failed-*.json")):
            try:
                out[int(path.stem[7:])] = str(json.loads(path.read_text(encoding="utf-8"))["message"])
            except (OSError, ValueError, KeyError) as error:
                raise GridError(f"{path} is damaged ({error}): delete it; {AGAIN}") from None
        return out

    def is_over(self, output: Path) -> bool:
        """Whether the grid was written, and this run was killed before the folder was removed."""
        then = self.manifest()
        return then is not None and output.exists() and _mark(output) != then["replaces"]

    def begin(self, recipe: Recipe, grid: Grid, output: Path, *, anew: bool) -> None:
        """Begin, or resume where the recipe is that of the folder; more models may be requested than before.

        Raises ``ConfigError`` that names what differs; with ``anew`` the folder is emptied then.
        """
        then = self.manifest()
        now = described(recipe, grid) | {"replaces": then["replaces"] if then else _mark(output)}
        if then is not None and (different := difference(then, now)):
            if not anew:
                raise ConfigError(
                    f"{self.folder} holds spectra of another recipe: {different}; restore that recipe, "
                    "give another --output, or start anew with --overwrite"
                )
            then = None
        if then is None:
            self.clear(but_folder=True)
        if then != now:
            with replacing(self.folder / MANIFEST) as temporary:
                temporary.write_text(json.dumps(now, indent=1), encoding="utf-8")

    def manifest(self) -> dict[str, Any] | None:
        try:
            content = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            if (content["format"], content["version"]) != (FORMAT, VERSION):
                raise ValueError(f"it has format {content['format']!r}, version {content['version']}")
            return dict(content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.folder / MANIFEST} is damaged ({error}): delete the folder") from None

    def clear(self, *, but_folder: bool = False) -> None:
        """Remove what is in the folder, and it; raises ``OutputError`` where anything else is in it."""
        names = sorted(path.name for path in self.folder.iterdir())
        foreign = [name for name in names if not _OURS.fullmatch(name)]
        if foreign:
            raise OutputError(
                f"{self.folder} holds {foreign[0]}, which specinn did not write: move it elsewhere"
            )
        for name in sorted(names, key=lambda name: name == MANIFEST):  # last: it may be killed meanwhile
            (self.folder / name).unlink(missing_ok=True)
        if not but_folder:
            with contextlib.suppress(
                OSError
            ):  # an orphan of a killed run has ended its last spectrum just now
                self.folder.rmdir()


def described(recipe: Recipe, grid: Grid) -> dict[str, Any]:
    """What spectra depend on, for the manifest; labels are rounded, as machines differ in the last digit."""
    physics = {key: value for key, value in grid.provenance.items() if key != "recipe"}
    first = {name: f"{value:.9g}" for name, value in zip(grid.labels, grid.values[0], strict=True)}
    wavelength = hashlib.sha256(np.round(grid.wavelength, 6).tobytes()).hexdigest()[:16]
    return {
        "format": FORMAT,
        "version": VERSION,
        "folder": str(Path.cwd()),
        "recipe": recipe.tables,
        "provenance": physics,
        "wavelength": wavelength,
        "first model": first,
    }


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first key in which two manifests differ, other than the number of models; "" for none."""
    same = {"recipe": {"grid": {"n": 0}}, "replaces": None}
    a, b = (dict(_flat(merged(manifest, same))) for manifest in (then, now))
    for key in sorted(a.keys() | b.keys(), key=lambda key: (not key.startswith("recipe"), key)):
        if a.get(key) != b.get(key):
            return f"{key.replace('recipe', '$', 1)} was {a.get(key)!r}, is {b.get(key)!r}"
    return ""


def _mark(path: Path) -> list[int] | None:
    """What distinguishes a file from one that replaces it; None for no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_ino, status.st_mtime_ns, status.st_size]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{i}]")
    else:
        yield name, value
