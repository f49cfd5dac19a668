"""How good a model is on held-out grid spectra, whose labels are known (for stars: :mod:`.stars`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Column, MaskedColumn, Table

from specinn.config import structure
from specinn.errors import ConfigError, GridError, ReadError
from specinn.evaluation import coverage
from specinn.evaluation.ksoll2026 import PUBLISHED_SNR, PUBLISHED_STD, published_nrmse
from specinn.files import check_output, replacing
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.labels import SOLAR_LOG_EPS, Label, LabelSet, li_fe, with_derived_labels
from specinn.plugins import Plugins
from specinn.plugins.interfaces import first_of
from specinn.posterior import Posterior, Summary
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import to_medium

if TYPE_CHECKING:
    from specinn.grids import Grid
    from specinn.plugins.interfaces import Estimator, Preprocessor
    from specinn.simulation.observer import Disturbances

METAL_RICH = -1.5  # [Fe/H] above which stars are counted once more, by themselves
BLOCK = 32  # stars at once: 4096 samples of 14 labels are 7 MB then
GAUSSIAN_MAD = 1.4826  # standard deviation of a Gaussian over its median absolute deviation


class Simulation:
    """Grid spectra as the model's instrument observes them: rotation, line-spread function, pixels and noise.

    Nothing else happens to them (no gaps, no slope, no error of velocity or resolving power), so what
    is measured is the model, and not the disturbances of its training; or, if ``disturbed``, all that the
    training drew: only then can posteriors, which allow for it, be found to be neither too wide nor too
    narrow. ``vbroad (n_models,)`` in km/s is
    log-uniform between the bounds of the model; it is 0 for models without that label, and for grids that
    have it: their spectra are taken to be broadened already. ``masked (n_pix,)`` are pixels that the model
    is never given, since they lie outside the arms, in a telluric band or at a line of the night sky.
    The estimator is told that the spectra are synthetic, unless ``as_observed``.
    """

    def __init__(
        self,
        estimator: Estimator,
        grid: Grid,
        plugins: Plugins,
        seed: int = 0,
        *,
        as_observed: bool = False,
        disturbed: bool = False,
    ) -> None:
        from specinn.simulation.observer import ModelGrid, Noise, Observer

        self.estimator, self.grid, self.seed, self.as_observed = estimator, grid, seed, as_observed
        instrument = estimator.instrument
        wavelength = to_medium(grid.wavelength, grid.medium, instrument.medium)
        model_grid = ModelGrid.of(instrument, wavelength, grid.arms)
        try:
            self.operator = model_grid.operator(wavelength, grid.arms, grid.resolving_power)
        except ReadError:
            raise GridError(
                f"the grid has resolving power {grid.resolving_power:.0f}, spectra of {instrument.name} are "
                f"simulated from {model_grid.resolving_power.max():.0f} or more: use a grid that has it"
            ) from None
        self.observer = Observer(instrument, model_grid)
        self.plan = _disturbances(estimator, disturbed)
        self.noise = Noise(instrument, self.plan)
        pipeline = Pipeline(estimator, plugins, RunOptions(seed=seed))
        self.steps = _steps_on_pixels([step for _, step in pipeline.steps])
        self.vbroad = self._draw_vbroad()
        flat = np.ones((1, self.observer.wavelength.size))
        self.masked = self._preprocess(np.zeros(1, int), flat, 1e-3 * flat, flat < 0).mask[0]

    def _draw_vbroad(self) -> np.ndarray:
        """``(n_models,)`` km/s, the same for a model at every S/N and in every split."""
        labels = self.estimator.labels
        if "vbroad" in self.grid.labels or "vbroad" not in labels:
            return np.zeros(len(self.grid))
        low, high = labels["vbroad"].bounds
        uniform = np.random.default_rng(self.seed).random(len(self.grid))
        return low * (high / low) ** uniform if low > 0 else low + (high - low) * uniform

    def truth(self, rows: np.ndarray, labels: LabelSet) -> np.ndarray:
        """``(n_rows, n_labels)`` true values. Raises ``GridError`` for a label not in the grid."""
        known = {name: self.grid.column(name)[rows] for name in self.grid.labels}
        known.setdefault("vbroad", self.vbroad[rows])
        if {"a_li", "fe_h"} <= set(known):
            known.setdefault("li_fe", li_fe(known["a_li"], known["fe_h"]))
        elif {"li_fe", "fe_h"} <= set(known):
            known["a_li"] = known["li_fe"] + SOLAR_LOG_EPS["Li"] + known["fe_h"]
        missing = [name for name in self.estimator.labels.names if name not in known]
        if missing:
            raise GridError(
                f"the model infers {', '.join(missing)}, which the grid does not have; it has "
                f"{', '.join(self.grid.labels)}: evaluate on the grid that the model was trained on"
            )
        return np.stack([known[name] for name in labels.names], axis=1)

    def batches(
        self, rows: np.ndarray, snr: Sequence[float]
    ) -> Iterator[tuple[np.ndarray, int, SpectrumBatch]]:
        """(rows, index in ``snr``, preprocessed batch), a few stars at a time.

        A star has the same noise at every S/N, scaled: what changes between them is the S/N alone.
        """
        import torch

        errors = torch.Generator().manual_seed(self.seed)
        generators = [torch.Generator().manual_seed(self.seed) for _ in snr]
        for part, flux in self.grid.blocks(rows, BLOCK):
            model = torch.as_tensor(np.ascontiguousarray((self.operator @ flux.T).T), dtype=torch.float32)
            vbroad = torch.as_tensor(self.vbroad[part], dtype=torch.float32)
            velocity, resolution = torch.randn(2, len(part), generator=errors)
            clean = self.observer(
                model, vbroad, self.plan.velocity * velocity, 1.0 + self.plan.resolution * resolution
            )
            for i, (value, generator) in enumerate(zip(snr, generators, strict=True)):
                level = torch.full((len(part), len(self.estimator.instrument.arms)), float(value))
                noisy, sigma, lost, _ = self.noise(clean, generator, level)
                batch = self._preprocess(part, noisy.double().numpy(), sigma.double().numpy(), lost.numpy())
                yield part, i, batch

    def _preprocess(
        self, rows: np.ndarray, flux: np.ndarray, sigma: np.ndarray, lost: np.ndarray
    ) -> SpectrumBatch:
        """The batch as the step to the model's pixels would leave it, through the steps that follow."""
        n, instrument = len(rows), self.estimator.instrument
        mask = lost | ~self.observer.inside
        meta = Table({
            "id": [str(name) for name in self.grid.ids[rows]], "path": [""] * n, "key": rows,
            "rv": np.zeros(n), "flags": np.zeros(n, np.uint32), "message": [""] * n,
            "synthetic": np.full(n, not self.as_observed),
        })  # fmt: skip
        power = instrument.resolving_power_at(instrument.wavelength)
        batch = SpectrumBatch(
            instrument.wavelength, np.where(mask, 0.0, flux), sigma, mask, power, instrument.medium, meta,
            instrument.slices,
        )  # fmt: skip
        for step in self.steps:
            batch = step(batch)
        return batch


def _disturbances(estimator: Estimator, disturbed: bool) -> Disturbances:
    """Those of the estimator's training, or none. Raises ``ConfigError`` where its header has none."""
    from specinn.simulation.observer import Disturbances

    if not disturbed:
        return Disturbances(
            snr_arm_scatter=0.0, noise_power=0.0, velocity=0.0, resolution=0.0, tilt=0.0, wave=0.0, gaps=0,
            arm_loss=0.0,
        )  # fmt: skip
    given = estimator.header.get("training", {}).get("disturbances")
    if given is None:
        raise ConfigError(
            "the model does not say by what its training spectra were disturbed: leave --disturbed out"
        )
    return structure(given, Disturbances, "the model's training.disturbances")


def _steps_on_pixels(steps: Sequence[Preprocessor]) -> list[Preprocessor]:
    """Masking, which models rely on, and what follows the step to the pixels of the model; without such a
    step, masking and the continuum."""
    pixels = first_of("pixels", steps)
    if pixels is None:
        return [step for step in steps if step.stage in ("mask", "continuum")]
    return [step for i, step in enumerate(steps) if i > pixels or step.stage == "mask"]


@attrs.frozen(eq=False)
class Comparison:
    """What a model infers of held-out grid spectra, beside the truth.

    ``labels`` are the model's and the derived ones after them; ``rows (n_stars,)`` are those of the
    simulation's grid; ``snr`` are S/N per Angstrom; ``truth (n_stars, n_labels)``; ``found`` has a summary of
    all stars for each S/N. Where calibration was asked for, ``ranks (n_snr, n_stars, n_labels)`` are the
    places of the truth among the samples and ``tarp (n_snr, n_stars)`` those of its distance from a random
    point (:mod:`specinn.evaluation.coverage`); NaN for stars all of whose samples were rejected.
    """

    simulation: Simulation
    labels: LabelSet
    rows: np.ndarray
    snr: tuple[float, ...]
    truth: np.ndarray
    found: tuple[Summary, ...]
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
        """Stars looked at together, ``(n_stars,)`` by name: all, and, where there are, metal-rich ones."""
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
        for value, found in zip(self.snr, self.found, strict=True):
            for scope, chosen in self.scopes.items():
                head = {"snr": value, "scope": scope, "outside": int(outside[chosen].sum())}
                rows += [
                    head | metrics_of(label, k, found, self.truth, chosen, value)
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Infer the spectra of one split of a grid, each at every S/N.

    ``snr`` are values per Angstrom, the same in all arms. ``as_observed`` and ``disturbed`` are those of the
    :class:`Simulation`.
    ``progress`` is called with the number of spectra done and to do. Memory stays bounded: samples are
    reduced to what a :class:`Comparison` holds.

    Raises ``GridError`` where the grid does not suit the model, and ``ConfigError`` for wrong options.
    """
    plugins = Plugins() if plugins is None else plugins
    snr = [float(value) for value in snr]
    if not snr or not all(0 < value < math.inf for value in snr) or len(set(snr)) < len(snr):
        raise ConfigError(f"snr {snr}: expected different positive numbers, S/N per Angstrom")
    if n_samples < 2 or seed < 0:
        raise ConfigError(
            f"samples {n_samples}, seed {seed}: at least 2 samples and a seed from 0 on are needed"
        )
    rows = grid.split(split)
    if not rows.size:
        raise GridError(f"none of the {len(grid)} models of the grid is in the split {split!r}")
    simulation = Simulation(estimator, grid, plugins, seed, as_observed=as_observed, disturbed=disturbed)
    labels = with_derived_labels(estimator.labels)
    truth = simulation.truth(rows, labels)
    found = tuple(Summary.empty(estimator.labels, len(rows)) for _ in snr)
    ranks = np.full((len(snr), *truth.shape), np.nan) if with_ranks else None
    tarp = np.full((len(snr), len(rows)), np.nan) if with_ranks else None
    done = 0
    for part, i, batch in simulation.batches(rows, snr):
        at = np.searchsorted(rows, part)
        if ranks is None or tarp is None:
            found[i].put(at, estimator.summarise(batch, n_samples, seed))
        else:
            posterior = estimator.sample(batch, n_samples, seed)
            found[i].put(at, posterior.summary())
            ranks[i, at], tarp[i, at] = _places(posterior, truth[at], part, seed)
        done += len(part)
        progress(done, len(rows) * len(snr))
    return Comparison(simulation, labels, rows, tuple(snr), truth, found, ranks, tarp)


def _places(
    posterior: Posterior, truth: np.ndarray, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks ``(n_stars, n_labels)`` of the truth, derived labels included, and TARP's ``(n_stars,)``.

    The reference point of a star is uniform within 3 standard deviations of its posterior mean, and
    distances are in these standard deviations, in the variables of the network: every label weighs alike,
    and the balls are small enough to feel the posterior's width. (References all over the training range see
    little but the labels that spectra do not constrain.)
    """
    own, n_own = posterior.labels, len(posterior.labels)
    draws = np.stack(
        [np.random.default_rng([seed, int(row)]).random(truth.shape[1] + n_own + 1) for row in rows]
    )
    jitter, point, last = np.split(draws, [truth.shape[1], truth.shape[1] + n_own], axis=1)
    inside, samples = posterior.inside, posterior.samples
    if truth.shape[1] > n_own:
        derived = li_fe(samples[..., own.index("a_li")], samples[..., own.index("fe_h")])
        samples = np.concatenate([samples, derived[..., None]], axis=2)
    ranks = coverage.ranks(samples, truth, jitter, inside)
    y = Posterior(own, own.to_network(samples[..., :n_own]), posterior.log_prob, inside)
    scale = np.where(y.std > 0, y.std, 1.0)
    scaled = (y.samples - y.mean[:, None]) / scale[:, None]
    place = (own.to_network(truth[:, :n_own]) - y.mean) / scale
    return ranks, coverage.tarp_ranks(scaled, place, 6.0 * point - 3.0, last[:, 0], inside)


def grid_metrics(estimator: Estimator, grid: Grid, **options: Any) -> list[dict[str, Any]]:
    """Metrics of a model on one split of a grid, a row (of JSON values) for each S/N, scope and label.

    The scopes are ``all`` and, where there are such stars, those with [Fe/H] above -1.5. Keys are those of
    :data:`METRICS`; a figure that does not exist is None. Options and errors are those of :func:`compare`.
    """
    return compare(estimator, grid, **options).metrics()


def metrics_of(
    label: Label, k: int, found: Summary, truth: np.ndarray, chosen: np.ndarray, snr: float
) -> dict[str, Any]:
    """What a row of :data:`METRICS` says of label ``k`` of the ``chosen (n_stars,)`` stars."""
    has = chosen & np.isfinite(found.map[:, k])
    residual = found.map[has, k] - truth[has, k]
    _, low95, low68, high68, high95, _ = found.quantiles[:, has, k]

    def inside(low: np.ndarray, high: np.ndarray) -> float | None:
        return _number(np.mean((truth[has, k] >= low) & (truth[has, k] <= high))) if has.any() else None

    row: dict[str, Any] = {
        "label": label.name,
        "unit": label.unit,
        "n": int(has.sum()),
        "failed": int(chosen.sum() - has.sum()),
        "rejected_fraction": _number(found.rejected_fraction[chosen].mean()),
        **dict.fromkeys(("mean_residual", "std", "robust_std", "nrmse", "posterior_std")),
        "inside_68": inside(low68, high68),
        "inside_95": inside(low95, high95),
        "published_std": PUBLISHED_STD.get(label.name) if snr == PUBLISHED_SNR else None,
        "published_nrmse": published_nrmse(label.name, snr),
    }
    if has.any():
        row |= {
            "mean_residual": _number(residual.mean()),
            "std": _number(residual.std()),
            "robust_std": _number(GAUSSIAN_MAD * np.median(np.abs(residual - np.median(residual)))),
            "nrmse": _number(np.sqrt(np.mean(residual**2)) / (label.bounds[1] - label.bounds[0])),
            "posterior_std": _number(np.median(found.std[has, k])),
        }
    return row


def _number(value: Any) -> float | None:
    """A float for JSON, None where it is not finite."""
    return float(value) if np.isfinite(value) else None


METRICS = {
    "snr": "S/N per Angstrom of the simulated spectra",
    "scope": "Which stars",
    "outside": "Stars of the scope whose true labels are not all within the bounds of the training set",
    "label": "Label",
    "unit": "Unit of the label, and of the columns about residuals and widths",
    "n": "Stars with a posterior; the figures are theirs",
    "failed": "Stars all of whose samples were rejected",
    "rejected_fraction": "Mean fraction of samples outside the bounds of the training set",
    "mean_residual": "Mean of MAP minus truth",
    "std": "Standard deviation of MAP minus truth",
    "robust_std": "1.4826 times the median absolute deviation of MAP minus truth",
    "nrmse": "Root mean square of MAP minus truth over the label's range",
    "posterior_std": "Median standard deviation of the posteriors",
    "inside_68": "Fraction of truths between the 16 and 84 percentiles",
    "inside_95": "Fraction of truths between the 2.5 and 97.5 percentiles",
    "published_std": "Standard deviation at S/N 250 of Ksoll et al. 2026 (A&A 708, A118) on their test set",
    "published_nrmse": "NRMSE of Ksoll et al. 2026 on their test set, over the ranges of their grid",
}


def metrics_for_header(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of :func:`grid_metrics` for ``header["metrics"]`` of a model: by S/N and scope, then by label."""
    left_out = ("snr", "scope", "label", "published_std", "published_nrmse")
    header: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        figures = {key: value for key, value in row.items() if key not in left_out}
        header.setdefault(f"S/N {row['snr']:g}, {row['scope']}", {})[row["label"]] = figures
    return header


def grid_table(rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Table:
    """Rows of :func:`grid_metrics` as a table with descriptions; the unit of a row is in its column."""
    return tabulate(rows, {key: ("", text) for key, text in METRICS.items()}, meta)


def tabulate(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]], meta: Mapping[str, Any]
) -> Table:
    """Columns by name with (unit, description); None and absent values are masked."""
    table = Table(meta=dict(meta))
    for name, (unit, description) in columns.items():
        values = [row.get(name) for row in rows]
        missing = np.array([value is None for value in values])
        info = {"name": name, "unit": unit or None, "description": description}
        if missing.any():
            filled = np.array([np.nan if value is None else value for value in values], dtype=float)
            table[name] = MaskedColumn(filled, mask=missing, **info)
        else:
            table[name] = Column(np.array(values), **info)
    return table


def check(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path, if a table can be written there; raises ``OutputError`` where it cannot."""
    return check_output(path, (".ecsv",), overwrite=overwrite)


def write(table: Table, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a table of metrics as ECSV, whole or not at all. Raises ``OutputError``."""
    path = check(path, overwrite=overwrite)
    with replacing(path) as temporary:
        table.write(temporary, format="ascii.ecsv")
