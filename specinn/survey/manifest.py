"""What a run is to do: its files, in shards, and everything else that its result depends on; the manifest."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from specinn.catalogue.table import MANIFEST
from specinn.errors import ConfigError, OutputError, ReadError
from specinn.files import replacing

if TYPE_CHECKING:
    from specinn.inference.run import Run

FORMAT, VERSION = "specinn run", 1
SMALLEST, LARGEST = 1 << 24, 1 << 28  # bytes of a shard's files: 100 to 1600 spectra of 4MOST HR
USUAL = 200  # shards, where that gives a size between the two


@attrs.frozen
class File:
    """A file as it was when the run was planned; ``size`` is -1 for what was none."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path) -> File:
        try:
            found = os.stat(path)
        except OSError:
            return cls(str(path), -1, 0)
        if not stat.S_ISREG(found.st_mode):
            return cls(str(path), -1, 0)
        return cls(str(path), found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """Raises ``ReadError`` where the file is not what it was."""
        now = File.of(self.path)
        if now != self:
            what = "vanished" if now.size < 0 else "changed"
            raise ReadError(
                f"{self.path} {what} during the run: the same command with --resume goes on with the files "
                "as they are then"
            )


@attrs.frozen(slots=False)
class Plan:
    """What a run is to do: ``files``, in shards of ``counts`` files each, with ``settings`` (JSON values)."""

    settings: Mapping[str, Any]
    files: tuple[File, ...]
    counts: tuple[int, ...]

    @classmethod
    def make(cls, files: Iterable[str | Path], settings: Mapping[str, Any]) -> Plan:
        """Shards of about equal size on disk, by the files alone: the same on every machine."""
        known = tuple(File.of(path) for path in files)
        sizes = [max(0, file.size) for file in known]
        wanted = min(max(sum(sizes) // USUAL, SMALLEST), LARGEST)
        counts: list[int] = []
        filled = 0
        for size in sizes:
            if not counts or filled + size > wanted:
                counts.append(0)
                filled = 0
            counts[-1] += 1
            filled += size
        return cls(json.loads(json.dumps(settings)), known, tuple(counts))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(self.counts)]

    def numbers(self, shard: int) -> range:
        """Places in ``files`` of the files of a shard."""
        return range(self._starts[shard], self._starts[shard + 1])

    def describe(self, shard: int) -> str:
        """The shard in words."""
        numbers = self.numbers(shard)
        first, last = (self.files[i].path for i in (numbers[0], numbers[-1]))
        return f"shard {shard} ({first}{f' to {last}' if first != last else ''})"

    def id_of(self, shard: int) -> str:
        """What the rows of a shard depend on, as a hash."""
        numbers = self.numbers(shard)
        files = [attrs.astuple(self.files[i]) for i in numbers]
        return _hash([VERSION, self.settings, numbers.start, files])

    def save(self, folder: Path, **state: Any) -> None:
        """Write the manifest, whole or not at all."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            **state,
            "settings": self.settings,
            "files": [attrs.astuple(file) for file in self.files],
            "shards": self.counts,
        }
        content["hash"] = _hash(content)
        with replacing(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Raises ``OutputError`` for a manifest that is damaged or of another version."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            if content["version"] != VERSION:
                raise OutputError(
                    f"{folder} was begun by another specinn (its manifest has version {content['version']}, "
                    f"expected {VERSION}): go on with that one, or start anew with --overwrite"
                )
            if content.pop("hash") != _hash(content):
                raise ValueError("it was edited or cut")
            files = tuple(File(*entry) for entry in content["files"])
            return cls(content["settings"], files, tuple(content["shards"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{path} is damaged ({error}): start anew with --overwrite") from None

    def difference(self, other: Plan) -> tuple[str, Any, Any] | None:
        """The first setting in which another plan differs, in words, with the two values."""
        mine, its = dict(_flat(self.settings)), dict(_flat(json.loads(json.dumps(other.settings))))
        for key in {**mine, **its}:
            if mine.get(key) != its.get(key):
                return _SETTINGS.get(key, key.rpartition("/")[2]), mine.get(key), its.get(key)
        return None

    def check_same(self, new: Plan, folder: Path) -> None:
        """Raises ``ConfigError`` that names the first difference to a plan of now."""
        anew = "give what was given then, or start anew with --overwrite"
        different = self.difference(new)
        if different:
            what, then, now = different
            raise ConfigError(f"{folder} is a run with another {what}: {then} then, {now} now; {anew}")
        for file, given in itertools.zip_longest(self.files, new.files):
            if file is None or given is None or file.path != given.path:
                names = [repr(f.path) if f else "no more" for f in (file, given)]
                raise ConfigError(
                    f"{folder} is a run over other files: {names[0]} then, {names[1]} now; {anew}"
                )


_SETTINGS = {
    "catalogue/sha256": "model (SHA-256)",
    "folder": "working folder",
    "keep": "number of samples to keep",
}


def settings_of(
    run: Run, options: Mapping[str, Any], *, format: str = "auto", keep: int = 0
) -> dict[str, Any]:
    """What a run depends on but its files: the options of ``specinn.inference.run.prepare`` as plain values,
    and what they stood for."""
    inputs = {}
    for given in map(str, [options.get("rv"), *(options.get("corrections") or ())]):
        for path in Path(given), Path(given.partition(":")[2]):  # a correction may be KIND:FILE
            if path.is_file():
                inputs[given] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "options": dict(options),
        "catalogue": dict(run.meta),
        "inputs": inputs,
        "format": format,
        "keep": keep,
        "folder": str(Path.cwd()),
    }


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
