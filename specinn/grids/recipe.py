"""``GRID.toml``: how many models, from which prior, by which synthesizer; and the grid that this describes,
not yet computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

import specinn
from specinn.config import read_toml, structure
from specinn.errors import ConfigError
from specinn.grids import Grid, priors
from specinn.grids.degrade import degrade
from specinn.grids.priors import Draw
from specinn.training.recipe import to_toml

if TYPE_CHECKING:
    from specinn.plugins import Plugins

__all__ = ["Recipe", "Stored"]


@attrs.frozen
class Stored:
    """The table ``[grid]``: models ``first`` to ``first + n - 1`` of the sequence of ``seed``; resolving
    power, step and ranges (Angstrom) in which spectra are kept, by default those of the synthesizer."""

    n: int
    seed: int = 0
    first: int = 0
    resolving_power: float | None = None
    step: float | None = None
    ranges: list[tuple[float, float]] = attrs.field(factory=list)


@attrs.frozen(slots=False)
class Recipe:
    """What a file ``GRID.toml`` says: how many models, of which prior, and the table of the synthesizer."""

    grid: Stored
    prior: list[Draw]
    synthesizer: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Raises ``ConfigError`` that names the file and the path to what is wrong."""
        return cls.of(read_toml(path), str(path))

    @classmethod
    def of(cls, tables: Mapping[str, Any], source: str) -> Recipe:
        recipe = structure(tables, cls, source)
        if not (recipe.grid.n >= 1 and recipe.grid.seed >= 0 and recipe.grid.first >= 0):
            raise ConfigError(f"{source}: $.grid: expected n >= 1, seed >= 0 and first >= 0")
        if not isinstance(recipe.synthesizer.get("kind"), str):
            raise ConfigError(f'{source}: $.synthesizer.kind: expected a name, such as kind = "emulator"')
        priors.check(recipe.prior, source)
        return recipe

    @cached_property
    def tables(self) -> dict[str, Any]:
        """As JSON values, without unset ones."""
        tables = attrs.asdict(self, filter=lambda _, value: value not in (None, []))
        plain: dict[str, Any] = json.loads(json.dumps(tables, default=str))
        return plain

    @property
    def text(self) -> str:
        """For the provenance of the grid, where it is in a list: parts of other recipes may be added.

        Absolute paths are cut to file names, since the grid is passed on to others and the folders are not.
        """
        return to_toml(_without_folders(self.tables), f"specinn {specinn.__version__}: specinn grid make")

    def ids(self) -> np.ndarray:
        """``(n,)`` names of models: they change with prior, seed and synthesizer, but not with ``n``."""
        same = {**self.tables, "grid": {**self.tables["grid"], "n": 0, "first": 0}}
        mark = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]
        first = self.grid.first
        return np.array([f"{mark}-{i:06d}" for i in range(first, first + self.grid.n)])

    def lazy(self, plugins: Plugins) -> Grid:
        """The grid, whose spectra are computed on request.

        Raises ``ConfigError`` where prior and synthesizer do not match.
        """
        kind = self.synthesizer["kind"]
        table = {key: value for key, value in self.synthesizer.items() if key != "kind"}
        names = [name for part in self.prior for name in part.labels]
        synthesizer = plugins.load("synthesizer", kind).from_config(table, names)
        columns = priors.draw(self.prior, self.grid.n, seed=self.grid.seed, first=self.grid.first)
        missing = [name for name in synthesizer.labels if name not in columns]
        foreign = [name for name in columns if name not in synthesizer.labels]
        if missing or foreign:
            what = f"no table [[prior]] draws {missing[0]}" if missing else f"[[prior]] draws {foreign[0]}"
            raise ConfigError(f"{what}: the synthesizer {kind!r} takes {', '.join(synthesizer.labels)}")
        values = np.column_stack([columns[name] for name in synthesizer.labels])
        self._check_bounds(values, synthesizer)
        grid = Grid(
            tuple(synthesizer.labels),
            values,
            self.ids(),
            np.asarray(synthesizer.wavelength, float),
            dict(synthesizer.arms),
            lambda rows: np.asarray(synthesizer(values[rows]), np.float32),
            float(synthesizer.resolving_power),
            synthesizer.medium,
            {"code": kind, **json.loads(json.dumps(dict(synthesizer.provenance))), "recipe": [self.text]},
        )
        kept = self.grid
        if kept.resolving_power is None and kept.step is None and not kept.ranges:
            return grid
        return degrade(grid, resolving_power=kept.resolving_power, step=kept.step, ranges=kept.ranges)

    def _check_bounds(self, values: np.ndarray, synthesizer: Any) -> None:
        low, high = np.asarray(synthesizer.bounds, float).T
        beyond = (values < low) | (values > high)
        if beyond.any():
            i = int(beyond.sum(axis=0).argmax())
            raise ConfigError(
                f"the prior draws {synthesizer.labels[i]} from {values[:, i].min():.5g} to "
                f"{values[:, i].max():.5g}, but the synthesizer {self.synthesizer['kind']!r} takes "
                f"{low[i]:.5g} to {high[i]:.5g}: {int(beyond.any(axis=1).sum())} of {len(values)} models "
                "are outside; narrow [[prior]]"
            )


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value
