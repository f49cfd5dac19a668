"""Spectra of a grid as an estimator will receive them: observed, disturbed, and preprocessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from specinn.errors import ConfigError
from specinn.plugins.interfaces import Templates, needed_on_pixels
from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.observer import ModelGrid, Observer
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import to_medium

if TYPE_CHECKING:
    from specinn.grids import Grid
    from specinn.instruments import Instrument
    from specinn.plugins import Plugins

__all__ = ["TrainingSpectra"]


class TrainingSpectra:
    """Simulates the observation of grid spectra, for the training of an estimator.

    Parameters
    ----------
    grid : Grid
        Of model spectra.
    instrument : Instrument
        With pixels and the arms that the model uses.
    preprocessing : sequence of (str, mapping)
        Names and options of the steps of the model. Those that follow its step of the stage ``pixels`` are
        applied as to observed spectra; a simulated spectrum does not need the others. Without such a step,
        the one of the stage ``continuum`` is applied.
    plugins : Plugins
        Where the steps are looked up.
    disturbances : Disturbances, optional
        What an observation does to a spectrum besides rotation.
    vbroad : (float, float), optional
        Range in km/s of which rotation is drawn, log-uniformly; None: the grid is broadened already.

    Attributes
    ----------
    model_grid : ModelGrid
        The grid in wavelength on which spectra are broadened.

    Raises
    ------
    ModelError
        Where the grid does not cover an arm.
    ConfigError
        For rotation that is not a range of positive numbers.
    """

    def __init__(
        self,
        grid: Grid,
        instrument: Instrument,
        preprocessing: Sequence[tuple[str, Mapping[str, Any]]],
        plugins: Plugins,
        *,
        disturbances: Disturbances | None = None,
        vbroad: tuple[float, float] | None = (1.0, 20.0),
    ) -> None:
        if vbroad is not None and not 0.0 < vbroad[0] <= vbroad[1]:
            raise ConfigError(f"vbroad is {list(vbroad)}: expected a range of positive numbers, in km/s")
        self.grid, self.instrument, self.vbroad = grid, instrument, vbroad
        self.disturbances = Disturbances() if disturbances is None else disturbances
        wavelength = to_medium(grid.wavelength, grid.medium, instrument.medium)
        self.model_grid = ModelGrid.of(instrument, wavelength, grid.arms)
        self._operator = self.model_grid.operator(wavelength, grid.arms, grid.resolving_power)
        self._observer = Observer(instrument, self.model_grid)
        self._noise = Noise(instrument, self.disturbances)
        factories = [plugins.load("preprocessor", name) for name, _ in preprocessing]
        self._steps = [
            factory(instrument=instrument, templates=None, **options)
            for factory, (_, options), needed in zip(
                factories, preprocessing, needed_on_pixels(factories), strict=True
            )
            if needed
        ]

    def model_flux(self, rows: np.ndarray) -> torch.Tensor:
        """Noiseless spectra ``(n_rows, n_model)`` of the models ``rows (n_rows,)`` on the model grid."""
        parts = [(self._operator @ flux.T).T for _, flux in self.grid.blocks(np.asarray(rows), 128)]
        return torch.as_tensor(np.concatenate(parts), dtype=torch.float32)

    def templates(self, rows: np.ndarray) -> Templates:
        """For radial velocities, of the models ``rows (n_rows,)``."""
        power = float(self.model_grid.resolving_power.mean())
        flux = self.model_flux(rows).double().numpy()
        return Templates(self.model_grid.wavelength, flux, dict(self.model_grid.arms), power)

    def __call__(self, flux: torch.Tensor, seed: int, snr: float | None = None) -> SpectrumBatch:
        """Preprocessed observations of ``flux (n_spec, n_model)``, one of each.

        All that is random comes from ``seed``: rotation, the error of the velocity, resolving power, noise,
        continuum and gaps. ``snr`` is per Angstrom; None: as ``disturbances`` say.
        """
        n, plan = len(flux), self.disturbances
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.zeros(n)
        if self.vbroad is not None:
            low, high = np.log(self.vbroad)
            rotation = (low + (high - low) * torch.rand(n, generator=generator)).exp().float()
        velocity, resolution = torch.randn(2, n, generator=generator)
        clean = self._observer(flux, rotation, plan.velocity * velocity, 1.0 + plan.resolution * resolution)
        level = None if snr is None else torch.full((n, len(self.instrument.arms)), float(snr))
        noisy, sigma, mask, _ = self._noise(clean, generator, level)
        batch = SpectrumBatch.from_arrays(
            self.instrument.wavelength,
            noisy.double().numpy(),
            sigma.double().numpy(),
            mask.numpy() | ~self._observer.inside,
            medium=self.instrument.medium,
            arms=self.instrument.slices,
        )
        for step in self._steps:
            batch = step(batch)
        return batch
