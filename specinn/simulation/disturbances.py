"""Disturbances of an observed spectrum: shapes of the continuum, noise, gaps. In torch, by batches."""

from __future__ import annotations

import attrs
import numpy as np
import torch

from specinn.instruments import Instrument
from specinn.spectra.resample import pixel_widths
from specinn.wavelengths import C_KMS

__all__ = ["STRETCH", "Disturbances", "Noise"]

STRETCH = (30, 400)  # pixels that are lost together


@attrs.frozen
class Disturbances:
    """What an observation does to a spectrum; every amplitude is drawn anew for every spectrum.

    S/N per Angstrom is log-uniform in ``snr``, the arms' ratios scatter by ``snr_arm_scatter`` (dex); the
    noise grows with flux to a power drawn between 0 and ``noise_power`` (0.5 = photon noise); ``velocity``
    km/s and ``resolution`` (fraction) are standard deviations; the flux is multiplied by a random smooth
    function: a polynomial of ``tilt`` and waves of ``wave`` relative amplitude (standard deviations) with
    periods from 30 to 300 Angstrom; the zero level (scattered light, sky) is off by ``zero_level`` of the
    continuum (standard deviation); up to ``gaps`` stretches of up to ``gap_width`` Angstrom are lost in a
    spectrum, a whole arm with probability ``arm_loss``; a fraction ``lost`` of spectra miss up to 70 % of
    their pixels, one by one or in stretches. Residuals of cosmic rays after masking: in a quarter of the
    spectra up to ``hits`` pixels are too bright by up to ``hit_level`` of the continuum. Pixels in
    ``windows`` (Angstrom in the frame of the instrument: tellurics, sky lines) are masked, each shifted with
    the star's velocity, of standard deviation ``window_velocity`` km/s.
    """

    snr: tuple[float, float] = (10.0, 1000.0)
    snr_arm_scatter: float = 0.1
    noise_power: float = 0.5
    velocity: float = 0.5
    resolution: float = 0.03
    tilt: float = 0.1
    wave: float = 0.003
    zero_level: float = 0.0
    gaps: int = 4
    gap_width: float = 60.0
    arm_loss: float = 0.03
    lost: float = 0.0
    hits: int = 0
    hit_level: float = 0.25
    windows: tuple[tuple[float, float], ...] = ()
    window_velocity: float = 60.0


class Noise:
    """Adds continuum shapes, noise and gaps to noiseless spectra on an instrument's pixels, according to
    ``plan``, on a torch ``device``."""

    def __init__(self, instrument: Instrument, plan: Disturbances, device: str = "cpu") -> None:
        self.plan, self.device = plan, device
        self.slices = list(instrument.slices.values())
        wave = instrument.wavelength
        self.wavelength = torch.as_tensor(wave, dtype=torch.float32, device=device)
        width = pixel_widths(wave, instrument.slices)
        self.width = torch.as_tensor(width, dtype=torch.float32, device=device)

    def snr(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """``(n, n_arms)`` S/N per Angstrom, drawn from ``generator``."""
        low, high = np.log(self.plan.snr[0]), np.log(self.plan.snr[1])
        overall = low + (high - low) * self._uniform(n, 1, generator=generator)
        scatter = np.log(10.0) * self.plan.snr_arm_scatter
        each: torch.Tensor = overall + scatter * self._normal(n, len(self.slices), generator=generator)
        return each.clamp(low, high).exp()

    def __call__(
        self, flux: torch.Tensor, generator: torch.Generator, snr: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noisy flux, its sigma, its mask (each ``(n_spec, n_pix)``) and the S/N ``(n_spec, n_arms)``.

        ``flux (n_spec, n_pix)`` is noiseless; random numbers come from ``generator``, and S/N per Angstrom
        too where ``snr (n_spec, n_arms)`` is not given. A lost arm has S/N 0. sigma of a pixel at the
        continuum is 1 / (S/N sqrt(width)).
        """
        n, plan = len(flux), self.plan
        snr = self.snr(n, generator) if snr is None else snr
        lost = self._uniform(n, len(self.slices), generator=generator) < plan.arm_loss
        lost &= ~lost.all(1, keepdim=True)
        power = plan.noise_power * self._uniform(n, 1, generator=generator)
        sigma = torch.empty_like(flux)
        shape = torch.empty_like(flux)
        mask = torch.zeros_like(flux, dtype=torch.bool)
        for i, arm in enumerate(self.slices):
            level = 1.0 / (snr[:, i : i + 1] * self.width[arm].sqrt())
            sigma[:, arm] = level * flux[:, arm].clamp(min=0.05) ** power
            shape[:, arm] = self._shape(n, self.wavelength[arm], generator)
            mask[:, arm] |= lost[:, i : i + 1]
        if plan.gaps or plan.windows:
            mask |= self._between(torch.cat([self._gaps(n, generator), self._windows(n, generator)], dim=1))
        if plan.lost:
            some = self._some(n, plan.lost, generator)
            mask[some] |= self._lost(len(some), generator)
        zero = plan.zero_level * self._normal(n, 1, generator=generator)
        level = (flux + zero) / (1.0 + zero)
        if plan.hits:
            some = self._some(n, 0.25, generator)
            level[some] += self._hits(len(some), generator)
        noisy = (level + sigma * self._normal(*flux.shape, generator=generator)) * shape
        return noisy, sigma * shape, mask, torch.where(lost, 0.0, snr)

    def _shape(self, n: int, wave: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        x = 2.0 * (wave - wave[0]) / (wave[-1] - wave[0]) - 1.0
        terms = torch.stack([x, 2 * x**2 - 1, 4 * x**3 - 3 * x])
        shape = 1.0 + self.plan.tilt * self._normal(n, 3, generator=generator) @ terms
        for _ in range(2):
            period = 30.0 * 10.0 ** self._uniform(n, 1, generator=generator)
            phase = 2.0 * torch.pi * self._uniform(n, 1, generator=generator)
            amplitude = self.plan.wave * self._normal(n, 1, generator=generator)
            shape = shape + amplitude * torch.sin(2.0 * torch.pi * (wave - wave[0]) / period + phase)
        return shape.clamp(min=0.2)

    def _gaps(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Ranges ``(n, gaps, 2)`` of wavelength, anywhere; half of them have no width, short ones are more
        frequent."""
        shape = (n, self.plan.gaps, 1)
        low, high = self.wavelength.min(), self.wavelength.max()
        middle = low + (high - low) * self._uniform(*shape, generator=generator)
        width = self.plan.gap_width * self._uniform(*shape, generator=generator) ** 3
        width = torch.where(self._uniform(*shape, generator=generator) < 0.5, width, 0.0)
        return torch.cat([middle - 0.5 * width, middle + 0.5 * width], dim=2)

    def _windows(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Ranges ``(n, n_windows, 2)`` of wavelength in the frame of each star."""
        windows = torch.tensor(self.plan.windows, device=self.device).view(-1, 2)
        velocity = self.plan.window_velocity * self._normal(n, len(windows), 1, generator=generator)
        return windows * (1.0 + velocity / C_KMS)

    def _between(self, ranges: torch.Tensor) -> torch.Tensor:
        """Pixels ``(n, n_pix)`` in any of the ``ranges (n, n_ranges, 2)`` of wavelength of each spectrum."""
        n, n_pix = len(ranges), len(self.wavelength)
        steps = torch.zeros(n, n_pix + 1, dtype=torch.int8, device=self.device)  # +1 to begin, -1 after it
        for arm in self.slices:
            edges = torch.searchsorted(self.wavelength[arm], ranges.contiguous()) + arm.start
            for side, sign in enumerate((1, -1)):
                index = edges[:, :, side]
                steps.scatter_add_(1, index, torch.full_like(index, sign, dtype=torch.int8))
        return steps[:, :-1].cumsum(1, dtype=torch.int8) > 0

    def _some(self, n: int, share: float, generator: torch.Generator) -> torch.Tensor:
        """Numbers of a ``share`` of ``n`` spectra."""
        return (self._uniform(n, generator=generator) < share).nonzero()[:, 0]

    def _lost(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Pixels ``(n, n_pix)`` that are lost, up to 70 % of a spectrum: one by one, or in stretches."""
        n_pix = len(self.wavelength)
        share = 0.7 * self._uniform(n, 1, generator=generator)
        alone = self._uniform(n, n_pix, generator=generator) < share
        low, high = STRETCH
        length = low + (high - low) * self._uniform(n, 1, generator=generator)
        number = (torch.arange(n_pix, device=self.device) / length).long()
        stretches = (self._uniform(n, n_pix // low + 1, generator=generator) < share).gather(1, number)
        return torch.where(self._uniform(n, 1, generator=generator) < 0.5, alone, stretches)

    def _hits(self, n: int, generator: torch.Generator) -> torch.Tensor:
        share = self.plan.hits / len(self.wavelength) * self._uniform(n, 1, generator=generator)
        hit = self._uniform(n, len(self.wavelength), generator=generator) < share
        height = self.plan.hit_level * self._uniform(n, len(self.wavelength), generator=generator)
        return torch.where(hit, height, 0.0)

    def _uniform(self, *shape: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=self.device)

    def _normal(self, *shape: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=self.device)
