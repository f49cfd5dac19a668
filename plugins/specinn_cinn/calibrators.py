"""Errors of the physics, measured: synthetic minus observed spectra of stars whose parameters are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from specinn.continuum import ContinuumFit, ContinuumOptions
from specinn.errors import ConfigError, ReadError
from specinn.instruments import Instrument
from specinn.interfaces import Templates
from specinn.observe import STEP_KMS, ModelGrid, rotation_transfer
from specinn.plugins import Plugins
from specinn.readers import read
from specinn.resample import apply_resampling
from specinn.spectra import SpectrumBatch


@attrs.frozen
class Calibrator:
    """A star with known parameters. ``labels`` gives the emulator's labels; abundances that it leaves out are solar
    ([X/Fe] = 0, A(Li) = 1.05 + [Fe/H] for stars that have not destroyed it). vbroad is fitted."""

    name: str
    path: str
    resolving_power: float
    labels: dict[str, float]


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
    star: Calibrator,
    emulate: Any,
    grid_names: tuple[str, ...],
    model_grid: ModelGrid,
    instrument: Instrument,
    templates: Templates,
    continuum: ContinuumOptions,
    plugins: Plugins,
) -> Residual:
    """The residual of one calibrator; the observed spectrum passes the pipeline's own steps up to the model grid."""
    if not Path(star.path).is_file():
        raise ConfigError(f"calibrator {star.name}: {star.path} is no file")
    unknown = set(star.labels) - set(grid_names)
    if unknown:
        raise ConfigError(f"calibrator {star.name}: the grid has no label {', '.join(sorted(unknown))}")
    batches = list(read(Path(star.path), plugins))
    if len(batches) != 1 or len(batches[0]) != 1:
        raise ReadError(f"calibrator {star.name}: {star.path} holds more than one spectrum")
    batch = attrs.evolve(batches[0], resolving_power=star.resolving_power)
    for name, options in (("mask", {}), ("rest-frame", {"velocity": "auto"})):
        batch = plugins.load("preprocessor", name)(instrument=instrument, templates=templates, **options)(
            batch
        )
    observed, sigma, mask = to_model_grid(batch, model_grid)
    fit = ContinuumFit(model_grid.wavelength, model_grid.arms, continuum)

    values = np.array([[star.labels.get(n, 0.0) for n in grid_names]])
    if "a_li" in grid_names and "a_li" not in star.labels:
        values[0, grid_names.index("a_li")] = 1.05 + star.labels["fe_h"]
    flux = emulate(torch.as_tensor(values, dtype=torch.float32))
    normal = observed / fit(observed, sigma, mask)[0]
    trials = torch.tensor(np.geomspace(0.5, 30.0, 60), dtype=torch.float32)
    synthetic = broaden(flux.expand(len(trials), -1), trials, model_grid)
    synthetic = synthetic / fit(synthetic, sigma.expand_as(synthetic), mask.expand_as(synthetic))[0]
    cost = (
        torch.where(mask, torch.zeros_like(synthetic), (synthetic - normal).clamp(-0.1, 0.1)).square().mean(1)
    )
    best = int(cost.argmin())
    residual = torch.where(mask, torch.nan, synthetic[best : best + 1] - normal)[0]
    return Residual(star.name, residual.double().numpy(), synthetic[best].double().numpy(), float(trials[best]),
                    float(batch.meta["rv"][0]))  # fmt: skip


def to_model_grid(batch: SpectrumBatch, grid: ModelGrid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flux, sigma and mask ``(n_spec, n_model)`` of a batch at rest on the model grid."""
    matrix = grid.operator(batch.wavelength, batch.arms, batch.resolving_power)
    flux, sigma, mask = apply_resampling(matrix, batch.flux, batch.sigma, batch.mask)
    level = np.abs(flux).max(axis=1, keepdims=True)
    sigma = np.where(mask, 0.0, sigma)
    return (torch.as_tensor(flux / level, dtype=torch.float32), torch.as_tensor(sigma / level, dtype=torch.float32),
            torch.as_tensor(mask.copy()))  # fmt: skip


def broaden(flux: torch.Tensor, vbroad: torch.Tensor, grid: ModelGrid) -> torch.Tensor:
    """Rotation of spectra on the model grid ``(n, n_model)``."""
    out = torch.empty_like(flux)
    for arm in grid.arms.values():
        n = flux[:, arm].shape[1]
        transfer = rotation_transfer(torch.fft.rfftfreq(n, STEP_KMS), vbroad)
        out[:, arm] = torch.fft.irfft(torch.fft.rfft(flux[:, arm]) * transfer, n=n)
    return out
