"""Errors of the physics, measured: synthetic minus observed spectra of stars whose parameters are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from specinn.errors import ConfigError, ReadError
from specinn.instruments import Instrument
from specinn.labels import SOLAR_LOG_EPS
from specinn.plugins import Plugins, Templates
from specinn.simulation.observer import STEP_KMS, ModelGrid, rotation_transfer
from specinn.spectra import SpectrumBatch
from specinn.spectra.continuum import ContinuumFit, ContinuumOptions
from specinn.spectra.readers import read
from specinn.spectra.resample import Resampler

from .recipe import ReferenceStar


@attrs.frozen(eq=False)
class Residual:
    """``residual`` (synthetic minus observed) and ``flux`` (synthetic) on the model grid ``(n_model,)``, both
    normalised by the pipeline's continuum; NaN where the star has no data. ``vbroad`` km/s as fitted."""

    name: str
    residual: np.ndarray
    flux: np.ndarray
    vbroad: float
    velocity: float


def measure(
    star: ReferenceStar,
    emulate: Any,
    grid_names: tuple[str, ...],
    model_grid: ModelGrid,
    instrument: Instrument,
    templates: Templates,
    continuum: ContinuumOptions,
    plugins: Plugins,
) -> Residual:
    """The residual of one reference star, whose spectrum passes through the pipeline's own steps up to the
    model grid."""
    if not Path(star.path).is_file():
        raise ConfigError(f"reference star {star.name}: {star.path} is not a file")
    unknown = (set(star.labels) | set(star.fit)) - set(grid_names)
    if unknown:
        raise ConfigError(f"reference star {star.name}: the grid has no label {', '.join(sorted(unknown))}")
    needed = {name for name in grid_names if not name.endswith("_fe") and name != "a_li"}
    if missing := sorted(needed - set(star.labels)):
        raise ConfigError(f"reference star {star.name}: $.labels lacks {', '.join(missing)}")
    batches = list(read(Path(star.path), plugins))
    if len(batches) != 1 or len(batches[0]) != 1:
        raise ReadError(f"reference star {star.name}: {star.path} holds more than one spectrum")
    batch = attrs.evolve(batches[0].in_medium(instrument.medium), resolving_power=star.resolving_power)
    for name, options in (("mask", {}), ("rest-frame", {"velocity": "auto"})):
        batch = plugins.load("preprocessor", name)(instrument=instrument, templates=templates, **options)(
            batch
        )
    observed, sigma, mask = to_model_grid(batch, model_grid)
    fit = ContinuumFit(model_grid.wavelength, model_grid.arms, continuum)

    solar = {"a_li": SOLAR_LOG_EPS["Li"] + star.labels["fe_h"]}
    values = torch.tensor([[star.labels.get(n, solar.get(n, 0.0)) for n in grid_names]])
    normal = observed / fit(observed, sigma, mask)[0]

    def compare(labels: torch.Tensor, vbroad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        synthetic = broaden(emulate(labels).expand(len(vbroad), -1), vbroad, model_grid)
        synthetic = synthetic / fit(synthetic, sigma.expand_as(synthetic), mask.expand_as(synthetic))[0]
        # a limit on what one pixel can say: the worst lines must not decide
        difference = torch.where(mask, torch.zeros_like(synthetic), synthetic - normal).clamp(-0.1, 0.1)
        return synthetic, difference.square().mean(1)

    trials = torch.tensor(np.geomspace(0.5, 30.0, 60), dtype=torch.float32)
    for _ in range(3 if star.fit else 1):
        vbroad = trials[compare(values, trials)[1].argmin()]
        for name in star.fit:
            steps = values.repeat(41, 1)
            steps[:, grid_names.index(name)] = torch.linspace(*_limits(name), 41)
            values = steps[compare(steps, vbroad.expand(41))[1].argmin()][None]
    synthetic = compare(values, vbroad[None])[0]
    residual = torch.where(mask, torch.nan, synthetic - normal)[0]
    return Residual(
        star.name,
        residual.double().numpy(),
        synthetic[0].double().numpy(),
        vbroad=float(vbroad),
        velocity=float(batch.meta["rv"][0]),
    )


def to_model_grid(batch: SpectrumBatch, grid: ModelGrid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flux, sigma and mask ``(n_spec, n_model)`` of a batch at rest on the model grid."""
    flux, sigma, mask = Resampler(grid.wavelength, grid.arms, grid.resolving_power)(batch)
    level = np.abs(flux).max(axis=1, keepdims=True)
    sigma = np.where(mask, 0.0, sigma)
    flux, sigma = flux / level, sigma / level
    return (
        torch.as_tensor(flux, dtype=torch.float32),
        torch.as_tensor(sigma, dtype=torch.float32),
        torch.as_tensor(mask),
    )


def broaden(flux: torch.Tensor, vbroad: torch.Tensor, grid: ModelGrid) -> torch.Tensor:
    """Rotation of spectra on the model grid ``(n, n_model)``."""
    out = torch.empty_like(flux)
    for arm in grid.arms.values():
        n = flux[:, arm].shape[1]
        transfer = rotation_transfer(torch.fft.rfftfreq(n, STEP_KMS), vbroad)
        out[:, arm] = torch.fft.irfft(torch.fft.rfft(flux[:, arm]) * transfer, n=n)
    return out


def _limits(name: str) -> tuple[float, float]:
    """The range in which the abundance of a reference star is fitted."""
    return (-0.5, 3.6) if name == "a_li" else (-0.5, 0.6)
