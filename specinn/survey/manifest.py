"""What a run is to do: its files, in shards, and everything else that its result depends on; the manifest."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from specinn.catalogue.files import MANIFEST
from specinn.errors import ConfigError, OutputError, ReadError
from specinn.files import replacing
from specinn.inference.sources import Item, Source, item_sources

if TYPE_CHECKING:
    from specinn.inference.options import RunOptions
    from specinn.inference.run import Run
    from specinn.plugins import Plugins

__all__ = ["BLOCK", "FORMAT", "LARGEST", "SMALLEST", "USUAL", "VERSION", "File", "Manifest", "settings_of"]

FORMAT, VERSION = "specinn run", 2
SMALLEST, LARGEST = 1 << 24, 1 << 28  # bytes of a shard's files: 100 to 1600 spectra of 4MOST HR
BLOCK = 32  # spectra in the units in which files are divided: those inferred together
USUAL = 200  # shards, where that gives a size between the two


def _rows(pair: Any) -> tuple[int, int] | None:
    return None if pair is None else (int(pair[0]), int(pair[1]))


@attrs.frozen
class File:
    """A file as it was when the run was planned; ``size`` is -1 if there was none.

    ``stated`` and ``group`` are those of its :class:`~specinn.inference.sources.Item`; of a file of many
    spectra only those from ``rows[0]`` to before ``rows[1]`` are included.
    """

    path: str
    size: int
    mtime_ns: int
    stated: Mapping[str, Any] = attrs.field(factory=dict)
    group: str = ""
    rows: tuple[int, int] | None = attrs.field(default=None, converter=_rows)

    @property
    def state(self) -> tuple[str, int, int]:
        """The properties that show whether a file has changed."""
        return self.path, self.size, self.mtime_ns

    @classmethod
    def of(cls, path: str | Path) -> File:
        try:
            status = os.stat(path)
        except OSError:
            return cls(str(path), -1, 0)
        if not stat.S_ISREG(status.st_mode):
            return cls(str(path), -1, 0)
        return cls(str(path), status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Raises ``ReadError`` if the file has changed."""
        now = File.of(self.path)
        if now.state != self.state:
            what = "vanished" if now.size < 0 else "changed"
            raise ReadError(
                f"{self.path} {what} during the run: the same command with --resume continues with the files "
                "as they are then"
            )


@attrs.frozen(slots=False)
class Manifest:
    """What a run is to do: ``files``, in shards of ``counts`` files each, with ``settings`` (JSON values)."""

    settings: Mapping[str, Any]
    files: tuple[File, ...]
    counts: tuple[int, ...]

    @classmethod
    def make(
        cls,
        files: Iterable[str | Path | Item],
        settings: Mapping[str, Any],
        count: Callable[[str], int | None] = lambda path: None,
    ) -> Manifest:
        """Shards of about equal size on disk, by the files alone: the same on every machine.

        ``count`` gives the number of spectra of a file, if known: one that is larger than a shard is then
        divided. Files of one group stay together.
        """
        items = [file if isinstance(file, Item) else Item(str(file)) for file in files]
        sizes = [
            attrs.evolve(File.of(item.path), stated=dict(item.stated), group=item.group) for item in items
        ]
        wanted = min(max(sum(max(0, file.size) for file in sizes) // USUAL, SMALLEST), LARGEST)
        parts: list[File] = []
        counts: list[int] = []
        filled = 0
        for _, members in itertools.groupby(enumerate(sizes), key=lambda pair: pair[1].group or pair[0]):
            together = [file for _, file in members]
            size = sum(max(0, file.size) for file in together)
            pieces = [together]
            if len(together) == 1 and size > wanted and (n := count(together[0].path)):
                pieces = [[part] for part in _divided(together[0], n, wanted)]
            for piece in pieces:
                each = size // len(pieces)
                if not counts or filled + each > wanted:
                    counts.append(0)
                    filled = 0
                counts[-1] += len(piece)
                filled += each
                parts += piece
        return cls(json.loads(json.dumps(settings)), tuple(parts), tuple(counts))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(self.counts)]

    @cached_property
    def _numbers(self) -> list[int]:
        """For each entry in ``files`` the number of its file, on which the random draws depend."""
        begins = [file.rows is None or file.rows[0] == 0 for file in self.files]
        return [number - 1 for number in itertools.accumulate(map(int, begins))]

    def sources(self, shard: int, plugins: Plugins, format: str = "auto") -> list[Source]:
        """Where the spectra of a shard come from."""
        out: list[Source] = []
        for _, members in itertools.groupby(self.numbers(shard), key=lambda i: self.files[i].group or i):
            places = list(members)
            files = [self.files[i] for i in places]
            items = [Item(file.path, file.stated, group=file.group) for file in files]
            first = self._numbers[places[0]]
            out += item_sources(items, plugins, format, first, rows=files[0].rows)
        return out

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
    def load(cls, folder: Path) -> Manifest:
        """Raises ``OutputError`` for a manifest that is damaged or of another version."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            if content["version"] != VERSION:
                raise OutputError(
                    f"{folder} was begun by another specinn (its manifest has version {content['version']}, "
                    f"expected {VERSION}): continue with that version, or start anew with --overwrite"
                )
            if content.pop("hash") != _hash(content):
                raise ValueError("it was edited or cut")
            files = tuple(File(*entry) for entry in content["files"])
            return cls(content["settings"], files, tuple(content["shards"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{path} is damaged ({error}): start anew with --overwrite") from None

    def difference(self, other: Manifest) -> tuple[str, Any, Any] | None:
        """The first setting in which another plan differs, in words, with the two values."""
        settings, its = dict(_flat(self.settings)), dict(_flat(json.loads(json.dumps(other.settings))))
        for key in {**settings, **its}:
            if settings.get(key) != its.get(key):
                return _SETTINGS.get(key, key.rpartition("/")[2]), settings.get(key), its.get(key)
        return None

    def check_same(self, new: Manifest, folder: Path) -> None:
        """Raises ``ConfigError`` that names the first difference from the present plan."""
        anew = "give what was given then, or start anew with --overwrite"
        different = self.difference(new)
        if different:
            what, then, now = different
            raise ConfigError(f"{folder} is a run with another {what}: {then} then, {now} now; {anew}")
        for file, present in itertools.zip_longest(self.files, new.files):
            if file is None or present is None or file.path != present.path:
                names = [repr(f.path) if f else "no more" for f in (file, present)]
                raise ConfigError(
                    f"{folder} is a run over other files: {names[0]} then, {names[1]} now; {anew}"
                )
            if (file.stated, file.group) != (present.stated, present.group):
                raise ConfigError(
                    f"{folder} is a run in which other things were stated of {file.path}: "
                    f"{_said(file)} then, {_said(present)} now; {anew}"
                )


def _divided(file: File, n: int, size: int) -> list[File]:
    """A file of ``n`` spectra in parts of about that size, each of whole blocks of spectra."""
    wanted = max(1, -(-file.size // size))
    block = max(BLOCK, -(-n // wanted // BLOCK) * BLOCK)
    return [attrs.evolve(file, rows=(start, min(start + block, n))) for start in range(0, n, block)]


def _said(file: File) -> str:
    stated = [f"{key} {value}" for key, value in file.stated.items()]
    return ", ".join(stated + ([f"group {file.group.partition(':')[2]}"] if file.group else [])) or "nothing"


_SETTINGS = {
    "catalogue/sha256": "model (SHA-256)",
    "folder": "working folder",
    "keep": "number of samples to keep",
}


def settings_of(run: Run, options: RunOptions, *, keep: int = 0) -> dict[str, Any]:
    """What a run depends on besides its files: its options, and the files that they name."""
    inputs = {}
    for text in map(str, [options.rv, options.instrument, options.prior, *options.corrections]):
        for path in Path(text), Path(text.partition(":")[2]):  # a correction may be KIND:FILE
            if path.is_file():
                inputs[text] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "options": options.plain(),
        "catalogue": dict(run.meta),
        "inputs": inputs,
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
