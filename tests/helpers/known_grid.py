"""A grid of the toy model's spectra, and estimators whose posteriors are known."""

from __future__ import annotations

from typing import Any

import attrs
import fake_plugin
import numpy as np

from specinn.grids import Grid
from specinn.labels import LabelSet, make_label
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch

WAVELENGTH = fake_plugin.WAVELENGTH


ARMS = {"green": slice(0, 1000), "red": slice(1000, 2000)}


def make_grid(n: int = 300, **changes: Any) -> Grid:
    """Labels fill the bounds of the toy model; one label more than the model infers."""
    t = np.random.default_rng(3).uniform(-0.5, 0.5, (n, 4))
    values = np.column_stack([fake_plugin.from_unit(t), np.zeros(n)])

    def flux_of(rows: np.ndarray) -> np.ndarray:
        return fake_plugin.noiseless(values[rows, :4]).astype(np.float32)

    grid = Grid((*fake_plugin.LABELS.names, "o_fe"), values, np.arange(n).astype(str), WAVELENGTH, ARMS,
                flux_of, np.inf)  # fmt: skip
    return attrs.evolve(grid, **changes)


def with_steps(toy: fake_plugin.Toy, *steps: tuple[str, dict[str, Any]]) -> fake_plugin.Toy:
    changed = fake_plugin.Toy({"mean": toy.mean, "response": toy.response}, toy.header)
    changed.preprocessing = steps
    return changed


def broadened(toy: fake_plugin.Toy) -> fake_plugin.Toy:
    labels = LabelSet((*fake_plugin.LABELS, make_label("vbroad", (1.0, 100.0))))
    changed = with_steps(toy, *toy.preprocessing)
    changed.labels = labels
    return changed


class Known(fake_plugin.Toy):
    """Posteriors that are known: Gaussians of ``width`` around truth plus ``offset``, in units of t, with the
    densest sample in the middle. The spectra of the rows ``lost`` have no accepted sample."""

    def __init__(self, toy: fake_plugin.Toy, grid: Grid, offset: float, width: float) -> None:
        super().__init__({"mean": toy.mean, "response": toy.response}, toy.header)
        self.grid, self.offset, self.width = grid, offset, width
        self.lost: set[int] = set()
        self.sizes: list[int] = []

    def sample(self, batch: SpectrumBatch, n_samples: int, seed: int) -> Posterior:
        self.sizes.append(len(batch))
        rows = np.asarray(batch.meta["key"])
        normal = np.random.default_rng(seed).normal(size=(len(batch), n_samples, 4))
        normal[:, 0] = 0.0
        t = fake_plugin.to_unit(self.grid.values[rows, :4])[:, None] + self.offset + self.width * normal
        inside = np.broadcast_to(~np.isin(rows, list(self.lost))[:, None], t.shape[:2]).copy()
        return Posterior(self.labels, fake_plugin.from_unit(t), -(normal**2).sum(axis=2), inside)
