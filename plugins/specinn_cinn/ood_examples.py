"""Spectra altered so that no star of the training looks like them: the examples for the sign likeness.

The families are broad on purpose (any velocity, any share of a second star, bumps anywhere), because
nobody knows beforehand what will be wrong with a spectrum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .simulator import TrainingSimulator

_H_ALPHA = 6562.8  # Angstrom
_H_ALPHA_WING = 25.0


class Alterations:
    """Makes noiseless spectra ``(n, n_pix)`` that are wrong, from fluxes ``(n, n_model)`` on the model grid.

    ``wavelength (n_model,)`` is that of the model grid, in Angstrom.
    """

    def __init__(
        self, simulator: TrainingSimulator, wavelength: torch.Tensor, generator: torch.Generator
    ) -> None:
        self.simulator, self.generator = simulator, generator
        self.model_wave = wavelength
        device = simulator.device
        self.wave = torch.as_tensor(simulator.observer.wavelength, dtype=torch.float32, device=device)
        self.arms = list(simulator.observer.instrument.slices.values())
        self.hydrogen = (wavelength - _H_ALPHA).abs() < _H_ALPHA_WING

    @property
    def families(self) -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
        """By the names of :data:`specinn_cinn.ood.ALTERATIONS`; each takes flux and vbroad."""
        return {
            "velocity": self.velocity,
            "two": self.two,
            "blur": self.blur,
            "arms": self.swapped,
            "weak": self.weak,
            "bumps": self.bumps,
            "waves": self.waves,
            "few": self.few,
        }

    def velocity(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """Off by 15 to 300 km/s, up or down."""
        n = len(flux)
        return self.simulator.observer(flux, vbroad, self._sign(n) * self._log_uniform(15.0, 300.0, n))

    def two(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """Another star has 30 to 70 % of the light, half of them at another velocity (100 km/s, normal)."""
        n = len(flux)
        other = torch.randperm(n, generator=self.generator, device=flux.device)
        share = 0.3 + 0.4 * self._uniform(n, 1)
        apart = torch.where(self._uniform(n) < 0.5, 0.0, 100.0 * self._normal(n).clamp(-2.0, 2.0))
        second = self.simulator.observer(flux[other], vbroad[other], apart)
        return share * self._observe(flux, vbroad) + (1.0 - share) * second

    def blur(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """35 to 80 % of the resolving power; slow rotators at 130 % (the most that the model grid has)."""
        n = len(flux)
        sharp = self._uniform(n) < 0.3
        factor = torch.where(sharp, torch.full_like(vbroad, 1.3), 0.35 + 0.45 * self._uniform(n))
        vbroad = torch.where(sharp, vbroad.clamp(max=5.0), vbroad)
        return self.simulator.observer(flux, vbroad, 0.5 * self._normal(n), factor)

    def swapped(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """The last arm of another star, or (half of them) every arm in the place of the next."""
        spectra = self._observe(flux, vbroad)
        out, half = spectra.clone(), len(flux) // 2
        out[:half, self.arms[-1]] = spectra[:half, self.arms[-1]].roll(1, 0)
        for arm, source in zip(self.arms, [*self.arms[1:], self.arms[0]], strict=True):
            length = min(arm.stop - arm.start, source.stop - source.start)
            out[half:, arm] = 1.0
            out[half:, arm.start : arm.start + length] = spectra[half:, source.start : source.start + length]
        return out

    def weak(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """Lines of metals at the optical depth of an abundance lower by 0.5 to 3 dex, or all lines filled in
        by 20 to 90 %."""
        n = len(flux)
        depth = 10.0 ** -(0.5 + 2.5 * self._uniform(n, 1))
        poorer = torch.where(self.hydrogen, flux, flux.clamp(min=0.01) ** depth)
        veil = 0.2 + 0.7 * self._uniform(n, 1)
        poor = self._uniform(n, 1) < 0.6
        return self._observe(torch.where(poor, poorer, veil + (1.0 - veil) * flux), vbroad)

    def bumps(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """Up to six Gaussians of 0.3 to 10 Angstrom, in emission or absorption, a third at H alpha."""
        spectra = self._observe(flux, vbroad)
        for _ in range(6):
            height = self._log_uniform(0.1, 3.0, len(flux))
            height = torch.where(self._uniform(len(flux)) < 0.3, -height.clamp(max=0.9), height)
            present = self._uniform(len(flux)) < 0.5
            spectra = spectra + self._bell(len(flux), 0.3, 10.0) * torch.where(present, height, 0.0)[:, None]
        return spectra.clamp(min=0.0)

    def waves(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """A sine of 8 to 30 % and of 1.5 to 30 Angstrom on the continuum."""
        n = len(flux)
        return self._observe(flux, vbroad) * self.sine(self._log_uniform(0.08, 0.3, n), (1.5, 30.0))

    def few(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        """A continuum with up to five lines of 0.5 to 15 Angstrom."""
        n = len(flux)
        spectra = flux.new_ones(n, len(self.wave))
        for _ in range(5):
            depth = torch.where(self._uniform(n) < 0.5, 0.7 * self._uniform(n), 0.0)
            spectra = spectra * (1.0 - depth[:, None] * self._bell(n, 0.5, 15.0))
        return spectra

    def sine(self, amplitude: torch.Tensor, periods: tuple[float, float]) -> torch.Tensor:
        """Continua ``(n, n_pix)`` that wave by ``amplitude (n,)``, with log-uniform periods in Angstrom."""
        n = len(amplitude)
        phase = self.wave / self._log_uniform(*periods, n)[:, None] + self._uniform(n, 1)
        return 1.0 + amplitude[:, None] * torch.sin(2.0 * torch.pi * phase)

    def _bell(self, n: int, narrow: float, wide: float) -> torch.Tensor:
        """Gaussians ``(n, n_pix)`` of height 1 anywhere, a third of them at H alpha."""
        pixel = (self._uniform(n) * (len(self.wave) - 1)).long()
        centre = torch.where(self._uniform(n) < 0.33, _H_ALPHA, self.wave[pixel])
        x = (self.wave - centre[:, None]) / self._log_uniform(narrow, wide, n)[:, None]
        return torch.exp(-2.773 * x.square())

    def _observe(self, flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        return self.simulator.observe(flux, vbroad, self.generator)

    def _sign(self, n: int) -> torch.Tensor:
        return torch.where(self._uniform(n) < 0.5, -1.0, 1.0)

    def _log_uniform(self, low: float, high: float, n: int) -> torch.Tensor:
        return low * (high / low) ** self._uniform(n)

    def _uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.simulator.device)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.simulator.device)
