"""How good a model is on held-out grid spectra, whose labels are known (for stars: :mod:`.stars`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.errors import ConfigError, GridError
from specinn.evaluation import coverage
from specinn.evaluation.ksoll2026 import PUBLISHED_SNR
from specinn.evaluation.metrics import metrics_of
from specinn.evaluation.simulation import Simulation
from specinn.labels import LabelSet, derived, with_derived_labels
from specinn.plugins import Plugins
from specinn.posterior import Posterior, Summary

if TYPE_CHECKING:
    from specinn.grids import Grid
    from specinn.plugins.interfaces import Estimator

__all__ = ["METAL_RICH", "Comparison", "compare", "grid_metrics"]

METAL_RICH = -1.5  # [Fe/H] above which stars are also counted separately


@attrs.frozen(eq=False)
class Comparison:
    """What a model infers from held-out grid spectra, with the truth.

    ``labels`` are the model's and the derived ones after them; ``rows (n_stars,)`` are those of the
    simulation's grid; ``snr`` are S/N per Angstrom; ``truth (n_stars, n_labels)``; ``summaries`` has one of
    all stars for each S/N. If coverage was requested, ``ranks (n_snr, n_stars, n_labels)`` are the ranks of
    the truth among the samples and ``tarp (n_snr, n_stars)`` those of its distance from a random point
    (:mod:`specinn.evaluation.coverage`); NaN for stars all of whose samples were rejected.
    """

    simulation: Simulation
    labels: LabelSet
    rows: np.ndarray
    snr: tuple[float, ...]
    truth: np.ndarray
    summaries: tuple[Summary, ...]
    ranks: np.ndarray | None = None
    tarp: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def vbroad(self) -> np.ndarray:
        """``(n_stars,)`` rotation in km/s; 0 where neither the model nor the grid has any."""
        if "vbroad" in self.labels:
            values: np.ndarray = self.truth[:, self.labels.index("vbroad")]
            return values
        return self.simulation.vbroad[self.rows]

    @property
    def scopes(self) -> dict[str, np.ndarray]:
        """Masks ``(n_stars,)`` of stars considered together, by name: all, and metal-rich ones if there are
        any."""
        scopes = {"all": np.ones(len(self), bool)}
        if "fe_h" in self.labels:
            rich = self.truth[:, self.labels.index("fe_h")] > METAL_RICH
            if rich.any():
                scopes[f"[Fe/H] > {METAL_RICH}"] = rich
        return scopes

    def metrics(self) -> list[dict[str, Any]]:
        """A row of :data:`METRICS` for each S/N, scope and label."""
        outside = ~self.labels.inside(self.truth)
        rows = []
        for value, summary in zip(self.snr, self.summaries, strict=True):
            for scope, chosen in self.scopes.items():
                head = {"snr": value, "scope": scope, "outside": int(outside[chosen].sum())}
                rows += [
                    head | metrics_of(label, k, summary, self.truth, chosen, value)
                    for k, label in enumerate(self.labels)
                ]
        return rows


def compare(
    estimator: Estimator,
    grid: Grid,
    *,
    snr: Sequence[float] = (PUBLISHED_SNR,),
    split: str = "test",
    n_samples: int = 4096,
    seed: int = 0,
    plugins: Plugins | None = None,
    with_ranks: bool = False,
    as_observed: bool = False,
    disturbed: bool = False,
    arms: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Infer the spectra of one split of a grid, each at every S/N.

    ``snr`` are values per Angstrom, the same in all arms. ``as_observed``, ``disturbed`` and ``arms`` are
    those of the :class:`Simulation`.
    ``progress`` is called with the number of spectra done and to do. Memory stays bounded: samples are
    reduced to what a :class:`Comparison` holds.

    Raises ``GridError`` where the grid does not suit the model, and ``ConfigError`` for wrong options.
    """
    plugins = Plugins() if plugins is None else plugins
    snr = [float(value) for value in snr]
    if not snr or not all(0 < value < math.inf for value in snr) or len(set(snr)) < len(snr):
        raise ConfigError(f"snr {snr}: expected distinct positive numbers, S/N per Angstrom")
    if n_samples < 2 or seed < 0:
        raise ConfigError(
            f"samples {n_samples}, seed {seed}: expected at least 2 samples and a seed of at least 0"
        )
    rows = grid.split(split)
    if not rows.size:
        raise GridError(f"none of the {len(grid)} models of the grid is in the split {split!r}")
    simulation = Simulation(
        estimator, grid, plugins, seed, as_observed=as_observed, disturbed=disturbed, arms=arms
    )
    labels = with_derived_labels(estimator.labels)
    truth = simulation.truth(rows, labels)
    summaries = tuple(Summary.empty(estimator.labels, len(rows)) for _ in snr)
    ranks = np.full((len(snr), *truth.shape), np.nan) if with_ranks else None
    tarp = np.full((len(snr), len(rows)), np.nan) if with_ranks else None
    done = 0
    for part, i, batch in simulation.batches(rows, snr):
        at = np.searchsorted(rows, part)
        if ranks is None or tarp is None:
            summaries[i].put(at, estimator.summarise(batch, n_samples, seed))
        else:
            posterior = estimator.sample(batch, n_samples, seed)
            summaries[i].put(at, posterior.summary())
            ranks[i, at], tarp[i, at] = _places(posterior, truth[at], part, seed)
        done += len(part)
        progress(done, len(rows) * len(snr))
    return Comparison(simulation, labels, rows, tuple(snr), truth, summaries, ranks, tarp)


def _places(
    posterior: Posterior, truth: np.ndarray, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks ``(n_stars, n_labels)`` of the truth, derived labels included, and TARP's ``(n_stars,)``.

    The reference point of a star is uniform within 3 standard deviations of its posterior mean, and distances
    are in these standard deviations, in the variables of the network: every label weighs alike, and the balls
    are small enough to be sensitive to the posterior's width. (References all over the training range test
    little but the labels that spectra do not constrain.)
    """
    label_set, n_own = posterior.labels, len(posterior.labels)
    draws = np.stack(
        [np.random.default_rng([seed, int(row)]).random(truth.shape[1] + n_own + 1) for row in rows]
    )
    jitter, point, last = np.split(draws, [truth.shape[1], truth.shape[1] + n_own], axis=1)
    inside, samples = posterior.inside, posterior.samples
    more = derived(label_set, lambda name: posterior.samples[..., label_set.index(name)])
    samples = np.concatenate([samples, *(one[..., None] for one in more)], axis=2)
    ranks = coverage.ranks(samples, truth, jitter, inside)
    y = Posterior(label_set, label_set.to_network(samples[..., :n_own]), posterior.log_prob, inside)
    scale = np.where(y.std > 0, y.std, 1.0)
    scaled = (y.samples - y.mean[:, None]) / scale[:, None]
    position = (label_set.to_network(truth[:, :n_own]) - y.mean) / scale
    return ranks, coverage.tarp_ranks(scaled, position, 6.0 * point - 3.0, last[:, 0], inside)


def grid_metrics(estimator: Estimator, grid: Grid, **options: Any) -> list[dict[str, Any]]:
    """Metrics of a model on one split of a grid, a row (of JSON values) for each S/N, scope and label.

    The scopes are ``all`` and, where there are such stars, those with [Fe/H] above -1.5. Keys are those of
    :data:`METRICS`; a figure that does not exist is None. Options and errors are those of :func:`compare`.
    """
    return compare(estimator, grid, **options).metrics()
