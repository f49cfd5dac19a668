"""Training spectra made on the fly: labels from the prior, emulator or grid spectrum, errors of the physics,
observation, noise, and the pipeline's own continuum."""

from __future__ import annotations

import numpy as np
import torch

from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.observer import Observer
from specinn.spectra.continuum import ContinuumFit, ContinuumOptions

from .physics_errors import PhysicsErrors
from .recipe import Prior


class TrainingSimulator:
    """Draws batches of (normalised flux, sigma, mask, whether synthetic, physical labels).

    Grid, emulator and errors of the physics are those of ``errors``; a share ``real_fraction`` of spectra is
    not emulated but taken from ``spectra (n_models, n_model)``. Labels of ``errors`` that were drawn
    ``jointly`` from a prior are taken as they are.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        errors: PhysicsErrors,
        observer: Observer,
        noise: Disturbances,
        prior: Prior,
        continuum: ContinuumOptions,
        *,
        spectra: torch.Tensor | None = None,
        real_fraction: float = 0.0,
        jointly: bool = False,
        device: str = "cpu",
    ) -> None:
        self.names, self.grid_names, self.device = names, errors.grid_names, device
        self.values, self.emulate, self.errors = errors.values, errors.emulate, errors
        self.parameters = torch.tensor(
            [n in ("teff", "logg", "fe_h", "vmic") for n in self.grid_names], device=device
        )
        self.observer, self.prior = observer, prior
        self.noise = Noise(observer.instrument, noise, device)
        self.disturbances = noise
        self.continuum = ContinuumFit(observer.wavelength, observer.instrument.slices, continuum, device)
        self.outside = ~torch.as_tensor(observer.inside, device=device)
        self.spectra, self.real_fraction = spectra, real_fraction
        self.jointly = jointly

    def labels(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Grid labels ``(n, n_grid_labels)`` and vbroad ``(n,)``, physical."""
        stars = self._rows(n, generator)
        if self.jointly:
            return self.values[stars], self.vbroad(n, generator)
        others = self._rows(n, generator)
        values = torch.where(self.parameters, self.values[stars], self.values[others])
        out = values.clone()
        todo = torch.ones(n, dtype=torch.bool, device=self.device)
        for _ in range(20):
            blurred = values + self.prior.blur * self.errors.spread * self._normal(
                *values.shape, generator=generator
            )
            inside = ((blurred >= self.errors.low) & (blurred <= self.errors.high)).all(1)
            fresh = todo & inside
            out[fresh] = blurred[fresh]
            todo = todo & ~inside
        return out, self.vbroad(n, generator)

    def vbroad(self, n: int, generator: torch.Generator) -> torch.Tensor:
        low, high = np.log(self.prior.vbroad[0]), np.log(self.prior.vbroad[1])
        return (low + (high - low) * torch.rand(n, generator=generator, device=self.device)).exp()

    def targets(self, values: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """The labels to infer ``(n, n_labels)``, physical, in the order of ``names``."""
        columns = [vbroad if n == "vbroad" else values[:, self.grid_names.index(n)] for n in self.names]
        return torch.stack(columns, dim=1)

    @torch.no_grad()
    def noiseless(
        self, n: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Model flux ``(n, n_model)`` on the model grid, its grid labels and vbroad."""
        values, vbroad = self.labels(n, generator)
        n_real = round(n * self.real_fraction) if self.spectra is not None else 0
        if n_real:
            rows = self._rows(n_real, generator)
            values[:n_real] = self.values[rows]
        flux = self.emulate(values)
        if n_real:
            flux[:n_real] = self.spectra[rows].to(flux)  # type: ignore[index]
        flux[n_real:] -= self.errors.of_emulation(values[n_real:], generator)
        return flux, values, vbroad

    @torch.no_grad()
    def __call__(
        self, n: int, repeats: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``n * repeats`` spectra: flux, sigma, mask ``(n * repeats, n_pix)``, whether they have no errors of
        the physics ``(n * repeats,)``, and physical labels.

        Each noiseless spectrum is observed ``repeats`` times with other noise, gaps and continuum errors.
        """
        flux, values, vbroad = self.noiseless(n, generator)
        flux, synthetic = self.errors.disturb(flux, values, generator)
        observed = self.observe(flux, vbroad, generator)
        synthetic, labels, observed = (
            v.repeat_interleave(repeats, 0) for v in (synthetic, self.targets(values, vbroad), observed)
        )
        return *self.degrade(observed, generator), synthetic, labels

    def observe(self, flux: torch.Tensor, vbroad: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        n = len(flux)
        velocity = self.disturbances.velocity * self._normal(n, generator=generator)
        resolution = 1.0 + self.disturbances.resolution * self._normal(n, generator=generator)
        return self.observer(flux, vbroad, velocity, resolution)

    def degrade(
        self, flux: torch.Tensor, generator: torch.Generator, snr: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noise, gaps and continuum errors, then the continuum fit that observed spectra get, too."""
        noisy, sigma, mask, _ = self.noise(flux, generator, snr)
        mask = mask | self.outside
        continuum, _ = self.continuum(noisy, sigma, mask)
        return noisy / continuum, sigma / continuum, mask

    def _rows(self, n: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(len(self.values), (n,), generator=generator, device=self.device)

    def _normal(self, *shape: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=self.device)
