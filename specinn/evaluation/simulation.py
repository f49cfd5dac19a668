"""Held-out grid spectra as the instrument of a model observes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from specinn.config import structure
from specinn.errors import ConfigError, GridError, ReadError
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.labels import ALPHA, SOLAR_LOG_EPS, LabelSet, alpha_m, li_fe
from specinn.plugins import Plugins
from specinn.plugins.interfaces import needed_on_pixels
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import to_medium

if TYPE_CHECKING:
    from specinn.grids import Grid
    from specinn.plugins.interfaces import Estimator, Preprocessor
    from specinn.simulation.disturbances import Disturbances

__all__ = ["BLOCK", "Simulation"]


BLOCK = 32  # stars at a time: 4096 samples of 14 labels are 7 MB then


class Simulation:
    """Grid spectra as the model's instrument observes them: rotation, line-spread function, pixels and noise.

    Nothing else happens to them (no gaps, no slope, no error of velocity or resolving power), so what
    is measured is the model, and not the disturbances of its training; or, if ``disturbed``, everything that
    the training drew: only then can posteriors, which allow for it, turn out neither too wide nor too narrow.
    ``vbroad (n_models,)`` in km/s is log-uniform between the bounds of the model; it is 0 for models without
    that label, and for grids that have it: their spectra are taken to be broadened already. ``masked
    (n_pix,)`` are pixels that the model never receives, since they lie outside the arms, in a telluric band
    or at a line of the night sky, or in other arms than the ``arms`` (all, unless given), which count as
    lost. The spectra are marked as synthetic for the estimator, unless ``as_observed``.
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
        arms: Sequence[str] = (),
    ) -> None:
        from specinn.simulation.disturbances import Noise
        from specinn.simulation.observer import ModelGrid, Observer

        self.estimator, self.grid, self.seed, self.as_observed = estimator, grid, seed, as_observed
        instrument = estimator.instrument
        wavelength = to_medium(grid.wavelength, grid.medium, instrument.medium)
        model_grid = ModelGrid.of(instrument, wavelength, grid.arms)
        try:
            self.operator = model_grid.operator(wavelength, grid.arms, grid.resolving_power)
        except ReadError:
            raise GridError(
                f"the grid has resolving power {grid.resolving_power:.0f}, but spectra of {instrument.name} "
                f"are simulated from {model_grid.resolving_power.max():.0f} or more: use a grid of higher "
                "resolving power"
            ) from None
        self.observer = Observer(instrument, model_grid)
        self.plan = _disturbances(estimator, disturbed)
        self.noise = Noise(instrument, self.plan)
        kept = {instrument.arm(name).name for name in arms} or set(instrument.slices)
        self.unobserved = ~self.observer.inside
        for name, pixels in instrument.slices.items():
            self.unobserved[pixels] |= name not in kept
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
        columns = {name: self.grid.column(name)[rows] for name in self.grid.labels}
        columns.setdefault("vbroad", self.vbroad[rows])
        if {"a_li", "fe_h"} <= set(columns):
            columns.setdefault("li_fe", li_fe(columns["a_li"], columns["fe_h"]))
        elif {"li_fe", "fe_h"} <= set(columns):
            columns["a_li"] = columns["li_fe"] + SOLAR_LOG_EPS["Li"] + columns["fe_h"]
        if set(ALPHA) <= set(columns):
            columns.setdefault("alpha_m", alpha_m(*(columns[name] for name in ALPHA)))
        missing = [name for name in self.estimator.labels.names if name not in columns]
        if missing:
            raise GridError(
                f"the model infers {', '.join(missing)}, which the grid does not have; it has "
                f"{', '.join(self.grid.labels)}: evaluate on the grid that the model was trained on"
            )
        return np.stack([columns[name] for name in labels.names], axis=1)

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
        mask = lost | self.unobserved
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
    from specinn.simulation.disturbances import Disturbances

    if not disturbed:
        return Disturbances(
            snr_arm_scatter=0.0, noise_power=0.0, velocity=0.0, resolution=0.0, tilt=0.0, wave=0.0, gaps=0,
            arm_loss=0.0,
        )  # fmt: skip
    table = estimator.header.get("training", {}).get("disturbances")
    if table is None:
        raise ConfigError(
            "the model does not state how its training spectra were disturbed: remove --disturbed"
        )
    return structure(table, Disturbances, "the model's training.disturbances")


def _steps_on_pixels(steps: Sequence[Preprocessor]) -> list[Preprocessor]:
    """What a spectrum on the pixels of the model still needs, and masking, which models rely on."""
    needed = needed_on_pixels(steps)
    return [step for step, need in zip(steps, needed, strict=True) if need or step.stage == "mask"]
