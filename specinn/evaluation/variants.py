"""The forms in which the spectrum of a star may come, made from an actual one: normalised or not, shifted,
noisy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from specinn.spectra.resample import pixel_widths
from specinn.wavelengths import doppler

if TYPE_CHECKING:
    from specinn.inference.pipeline import Pipeline
    from specinn.instruments import Instrument
    from specinn.spectra import SpectrumBatch

__all__ = [
    "BASE",
    "BASE_SNR",
    "LEVELS",
    "SHAPES",
    "VELOCITIES",
    "Variant",
    "VariedStar",
    "fit_continuum",
    "response",
]

SHAPES = ("delivered", "normalised", "un-normalised")
VELOCITIES = (-200.0, -100.0, 0.0, 100.0, 200.0)  # km/s, on top of the star's own
LEVELS = (20.0, 50.0, 100.0, 250.0)  # S/N per Angstrom
BASE_SNR = 100.0

_MARGIN = 30.0  # Angstrom beyond an arm in which the continuum is fitted, for stars that move
_CLIP = (1.5, 3.0)  # scatters below and above the continuum beyond which pixels are left out of its fit
_LOWEST = 0.05  # of the median flux, lower limit of any continuum
_PIVOT = 5500.0  # Angstrom, where the black body is 1
_HC_OVER_K = 1.438777e8  # Angstrom K
_BLAZE = 0.8  # of the arm's half width to the first zero: 70 to 45 % of the light is left at the ends
_PEAK = 0.1  # of the arm's width from its middle, to the red and to the blue in turn
_STEP = 0.6  # light of an arm over that of the arm before


@attrs.frozen
class Variant:
    """``shape`` is one of ``SHAPES``, ``velocity`` in km/s, ``snr`` per Angstrom."""

    shape: str = SHAPES[0]
    velocity: float = 0.0
    snr: float = BASE_SNR


BASE = Variant()


@attrs.frozen(eq=False)
class VariedStar:
    """The spectrum of a star and all that its variants need.

    ``batch`` holds it as it was delivered; ``continuum``, ``response`` and ``native (n_pix,)`` are its
    continuum, what turns it into one that is not normalised, and its S/N per Angstrom. ``normal
    (n_pix,)`` are standard normal numbers, one for each pixel.
    """

    batch: SpectrumBatch
    continuum: np.ndarray
    response: np.ndarray
    native: np.ndarray
    normal: np.ndarray

    @classmethod
    def of(
        cls,
        batch: SpectrumBatch,
        pipeline: Pipeline,
        native: Mapping[str, float],
        teff: float,
        seed: Sequence[int],
    ) -> VariedStar:
        """The only spectrum of ``batch``, of S/N ``native`` in the arms of the pipeline's model.

        What the steps before that to rest hide (telluric bands, sky lines, cosmic rays) stays hidden: pixels
        that are shifted carry the telluric lines with them, out of the windows in which they are masked.
        """
        instrument = pipeline.estimator.instrument
        hidden = batch = batch.in_medium(instrument.medium)
        for _, step in pipeline.steps:
            if step.stage == "velocity":
                break
            hidden = step(hidden)
        mask = batch.mask | hidden.mask
        batch = attrs.evolve(batch, flux=np.where(mask, 0.0, batch.flux), mask=mask)
        levels = np.array([native.get(arm.name, 0.0) for arm in instrument.arms])
        return cls(
            batch,
            fit_continuum(batch, instrument),
            response(batch.wavelength, instrument, teff),
            levels[_nearest(batch.wavelength, instrument)],
            np.random.default_rng(list(seed)).standard_normal(batch.wavelength.size),
        )

    def variants(self, velocity: float, snr: float) -> SpectrumBatch:
        """A spectrum for each of ``SHAPES``, its wavelengths moved by ``velocity``, with noise to ``snr``.

        No pixel is resampled. The noise comes last: of the standard deviation that the S/N asks for at the
        continuum of the variant, less what the spectrum has, times the normal numbers of the pixels, which
        are the same whatever is done to them. So variants of one S/N are equally noisy at every wavelength
        and have the same noise, and those of another S/N have it scaled.
        """
        batch = self.batch
        factors = np.stack([np.ones_like(self.continuum), 1.0 / self.continuum, self.response])
        had = np.divide(1.0, self.native, out=np.zeros_like(self.native), where=self.native > 0)
        width = pixel_widths(batch.wavelength, batch.arms)
        noise = factors * self.continuum * np.sqrt(np.clip(snr**-2 - had**2, 0.0, None) / width)
        meta = batch.meta[[0] * len(factors)]
        meta["rv"] = np.full(len(factors), np.nan)
        return attrs.evolve(
            batch,
            wavelength=doppler(batch.wavelength, velocity),
            flux=np.where(batch.mask, 0.0, batch.flux * factors + noise * self.normal),
            sigma=np.hypot(batch.sigma * factors, noise),
            mask=np.repeat(batch.mask, len(factors), axis=0),
            meta=meta,
        )


def _nearest(wavelength: np.ndarray, instrument: Instrument) -> np.ndarray:
    """``(n_pix,)`` the number of the arm that covers each wavelength or is nearest to it."""
    low, high = np.array([arm.range for arm in instrument.arms]).T
    return np.maximum(low[:, None] - wavelength, wavelength - high[:, None]).clip(min=0.0).argmin(axis=0)


def fit_continuum(batch: SpectrumBatch, instrument: Instrument) -> np.ndarray:
    """``(n_pix,)`` the continuum of the only spectrum of a batch, as people fit it before they publish.

    A Chebyshev polynomial of a degree per 100 Angstrom (at least two) for each arm of the instrument, without
    pixels 1.5 scatters below it or 3 above, by astropy: neither the code nor the pixels of the pipeline's
    own continuum. Constant from 30 Angstrom beyond the arms on, and 1 where there are no pixels.
    """
    from astropy.modeling.fitting import FittingWithOutlierRemoval, LinearLSQFitter
    from astropy.modeling.models import Chebyshev1D
    from astropy.stats import sigma_clip

    fit = FittingWithOutlierRemoval(
        LinearLSQFitter(), sigma_clip, niter=10, sigma_lower=_CLIP[0], sigma_upper=_CLIP[1]
    )
    wavelength, flux, out = batch.wavelength, batch.flux[0], np.ones(batch.wavelength.size)
    nearest = _nearest(wavelength, instrument)
    for number, arm in enumerate(instrument.arms):
        for piece in batch.arms.values():
            in_arm = np.arange(piece.start, piece.stop)
            in_arm = in_arm[nearest[in_arm] == number]
            near = np.abs(wavelength[in_arm] - np.mean(arm.range)) < 0.5 * np.ptp(arm.range) + _MARGIN
            used = in_arm[near & ~batch.mask[0, in_arm] & (flux[in_arm] > 0)]
            if not used.size:
                continue
            level, (low, high) = np.median(flux[used]), wavelength[used[[0, -1]]]
            degree = max(2, round((high - low) / 100.0))
            if used.size < 10 * degree:
                out[in_arm] = level
                continue
            fitted, _ = fit(Chebyshev1D(degree, domain=(low, high)), wavelength[used], flux[used] / level)
            out[in_arm] = level * np.maximum(fitted(wavelength[in_arm].clip(low, high)), _LOWEST)
    return out


def response(wavelength: np.ndarray, instrument: Instrument, teff: float) -> np.ndarray:
    """``(n_pix,)`` what a spectrum shows that is not normalised: a black body of ``teff`` K, times the light
    that the spectrograph lets through: sinc^2 0.8 (u - u0) in each arm, with u from -1/2 to 1/2 and u0 = 0.1
    and -0.1 in turn, and in every arm 0.6 of that of the arm before.
    """

    def planck(wave: np.ndarray) -> np.ndarray:
        return wave**-5.0 / np.expm1(_HC_OVER_K / (wave * teff))

    out = planck(wavelength) / planck(np.array(_PIVOT))
    nearest = _nearest(wavelength, instrument)
    for number, arm in enumerate(instrument.arms):
        in_arm = nearest == number
        u = (wavelength[in_arm] - np.mean(arm.range)) / np.ptp(arm.range)
        out[in_arm] *= _STEP**number * np.sinc(_BLAZE * (u.clip(-0.55, 0.55) - _PEAK * (-1) ** number)) ** 2
    return out
