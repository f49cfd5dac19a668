"""Search files: which keys of a training recipe vary, in which ranges, and how long a training may last.

The folder of a search holds it as ``search.toml``, which is complete.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from specinn.config import read_toml, structure
from specinn.errors import ConfigError
from specinn.files import replacing, write_error
from specinn.training import recipe as recipes

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["SEARCH", "Budget", "Range", "Search", "begin"]

SEARCH = "search.toml"

_Whole = tuple[int, int]
_Real = tuple[float, float]


@attrs.frozen
class Range:
    """What one key of a recipe may be: one of ``int`` and ``float`` (both ends are included; ``log``: drawn
    uniformly in the logarithm), or a ``choice`` of any values."""

    int: _Whole | None = None
    float: _Real | None = None
    choice: list[Any] | None = None
    log: bool = False

    def check(self, where: str) -> None:
        """Raises ``ConfigError`` for an empty range."""
        specified = [name for name in ("int", "float", "choice") if getattr(self, name) is not None]
        if len(specified) != 1:
            raise ConfigError(
                f"{where}: expected one of int = [low, high], float = [low, high] and choice = [values], "
                f"found {' and '.join(specified) or 'none of them'}"
            )
        if self.choice is not None:
            try:
                words = [json.dumps(value) for value in self.choice]
            except TypeError as error:
                raise ConfigError(f"{where}.choice: this value cannot be used ({error})") from None
            if len(words) < 2 or len(set(words)) < len(words) or self.log:
                raise ConfigError(f"{where}: a choice needs at least two different values, and has no log")
            return
        low, high = self.int or self.float or (0, 0)
        if not low < high or (self.log and not low > 0):
            ends = "two ends, 0 < low < high" if self.log else "two ends, low < high"
            raise ConfigError(f"{where}.{specified[0]}: expected {ends}, found {low} and {high}")

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value for the trial, always the same for that trial."""
        if self.int is not None:
            return trial.suggest_int(name, *self.int, log=self.log)
        if self.float is not None:
            return trial.suggest_float(name, *self.float, log=self.log)
        assert self.choice is not None
        return self.value(trial.suggest_categorical(name, [json.dumps(value) for value in self.choice]))

    def value(self, kept: Any) -> Any:
        """The plain value that stands for one in Optuna, which does not store lists."""
        return kept if self.choice is None or kept is None else json.loads(kept)


@attrs.frozen
class Budget:
    """``steps`` of a training that is never stopped; the first decision falls at ``first``, the others at
    ``reduction`` times as many steps each, and one trial in ``reduction`` passes."""

    steps: int = 0
    first: int = 0
    reduction: int = 3

    @property
    def brackets(self) -> list[int]:
        """How many trials one round of Hyperband puts into each bracket, the most hurried first."""
        most = 0
        while self.first * self.reduction ** (most + 1) <= self.steps:
            most += 1
        return [math.ceil((most + 1) * self.reduction**s / (s + 1)) for s in range(most, -1, -1)]


@attrs.frozen
class _File:
    """The keys of a search file; see docs/tuning.md."""

    vary: dict[str, Range]
    recipe: str = ""
    trials: int = 0
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 0
    budget: Budget = attrs.field(factory=Budget)
    estimator: dict[str, Any] = attrs.field(factory=dict)
    synthesizer: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Search:
    """``table`` is that of ``kind`` of ``what`` in a training recipe, of which the keys in ``vary`` vary."""

    what: str
    kind: str
    table: dict[str, Any]
    vary: dict[str, Range]
    budget: Budget
    trials: int
    sampler: str
    seed: int

    @classmethod
    def load(cls, path: Path) -> Search:
        """Read a search file, and the recipe that it names. Raises ``ConfigError``."""
        data = read_toml(path)
        if isinstance(data.get("vary"), Mapping):
            data["vary"] = dict(_by_dotted_name(data["vary"]))
        file = structure(data, _File, str(path))
        base = read_toml(path.parent / file.recipe) if file.recipe else {}
        tables = {name: getattr(file, name) for name in recipes.TRAINED if name in data}
        what, kind, table = recipes.parts(recipes.merged(base, tables), path)
        budget = _budget(file.budget, table, path)
        search = cls(what, kind, table, file.vary, budget, file.trials, file.sampler, file.seed)
        search._check(path)
        return search if search.trials else attrs.evolve(search, trials=sum(search.budget.brackets))

    def _check(self, path: Path) -> None:
        budget = self.budget
        if not (1 <= budget.first <= budget.steps and budget.reduction >= 2 and self.trials >= 0):
            raise ConfigError(
                f"{path}: expected 1 <= $.budget.first <= $.budget.steps, $.budget.reduction >= 2 and "
                f"$.trials >= 0, found {budget.first}, {budget.steps}, {budget.reduction} and {self.trials}"
            )
        if not self.vary:
            raise ConfigError(f"{path}: $.vary is empty: name the keys that vary, and their ranges")
        for name, values in self.vary.items():
            values.check(f"{path}: $.vary.{name}")
            inside = next((other for other in self.vary if other.startswith(f"{name}.")), None)
            if inside or name == "kind":
                beside = f" beside {inside}, which is in it" if inside else ": a search is of one kind"
                raise ConfigError(f"{path}: $.vary.{name} cannot vary{beside}")
        try:
            recipes.with_values(self.table, dict.fromkeys(self.vary, 0))
        except ConfigError as error:
            raise ConfigError(f"{path}: a key in $.vary is not in the recipe: {error}") from None

    def recipe(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The training recipe with these values of the keys that vary."""
        return {self.what: {"kind": self.kind, **recipes.with_values(self.table, values)}}

    def to_toml(self) -> str:
        """A complete search file."""
        ranges = {
            name: attrs.asdict(values, filter=lambda _, value: value not in (None, False))
            for name, values in self.vary.items()
        }
        plain = {"trials": self.trials, "sampler": self.sampler, "seed": self.seed}
        table = {"kind": self.kind, **self.table}
        return recipes.to_toml(
            {**plain, "budget": attrs.asdict(self.budget), self.what: table, "vary": ranges}
        )


def _by_dotted_name(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Ranges by dotted name, which TOML may quote or nest: a table of tables is not a range."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values()):
            yield from _by_dotted_name(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _budget(budget: Budget, table: Mapping[str, Any], path: Path) -> Budget:
    """Missing values are taken from the recipe: a decision needs a validation."""
    for name, key in (("steps", "schedule.steps"), ("first", "schedule.validate_every")):
        if not getattr(budget, name):
            value = recipes.value_at(table, key)
            if not isinstance(value, int):
                raise ConfigError(
                    f"{path}: $.budget.{name} is missing, and the recipe has no {key} to take it from"
                )
            budget = attrs.evolve(budget, **{name: value})
    return budget


def begin(search: Search, folder: Path) -> None:
    """Begin a search in a folder, or join it there. Raises ``ConfigError`` if the folder holds another
    one."""
    path = folder / SEARCH
    if not path.is_file():
        occupied = folder.is_dir() and any(not inside.name.startswith(".") for inside in folder.iterdir())
        if occupied and not path.is_file():  # another command may have begun it just now
            raise ConfigError(f"{folder} is not empty and holds no search: give another folder with --output")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        with replacing(path) as temporary:
            temporary.write_text(search.to_toml(), encoding="utf-8")
    then = Search.load(path)
    differ = [
        field.name
        for field in attrs.fields(Search)
        if field.name != "trials" and getattr(then, field.name) != getattr(search, field.name)
    ]
    if differ:
        names = ", ".join({"what": "recipe", "kind": "recipe", "table": "recipe"}.get(n, n) for n in differ)
        raise ConfigError(
            f"{folder} holds another search ({names} differ): give another folder with --output, or resume "
            f"that one with specinn tune {folder}"
        )
