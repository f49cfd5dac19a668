"""From model spectra to observed spectra on an instrument's pixels: rotation, line-spread function, velocity,
pixels. In torch, on any device, a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import torch
from scipy import sparse
from scipy.fft import next_fast_len

from specinn.errors import ModelError
from specinn.instruments import Instrument
from specinn.spectra.resample import resampling_operator
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA

__all__ = [
    "HEADROOM",
    "LIMB_DARKENING",
    "STEP_KMS",
    "ModelGrid",
    "Observer",
    "rotation_transfer",
    "spline_matrix",
    "spline_prefilter",
]

STEP_KMS = 4.0  # of the model grid: 3.7 points per FWHM at R = 20 000, where aliases are below 1e-5
HEADROOM = 1.3  # resolving power of the model grid over the instrument's; the rest is applied star by star
LIMB_DARKENING = 0.6


def rotation_transfer(frequency: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
    """Fourier transform of Gray's rotation profile with linear limb darkening 0.6.

    ``frequency (n_freq,)`` in cycles per km/s, ``vbroad (n_spec,)`` in km/s (0 = no rotation) give
    ``(n_spec, n_freq)``. With x = 2 pi f vbroad and limb darkening e the transform of the profile (Gray, The
    Observation and Analysis of Stellar Photospheres, 18.14) is
    [(1 - e) 2 J1(x) / x + (2 e / 3) 3 (sin x - x cos x) / x^3] / (1 - e / 3).
    """
    x = 2.0 * torch.pi * vbroad[:, None] * frequency
    small = x < 0.05
    safe = torch.where(small, torch.ones_like(x), x)
    disc = torch.where(small, 1.0 - x**2 / 8.0, 2.0 * torch.special.bessel_j1(safe) / safe)
    parabola = torch.where(small, 1.0 - x**2 / 10.0, 3.0 * (safe.sin() - safe * safe.cos()) / safe**3)
    e = LIMB_DARKENING
    return ((1.0 - e) * disc + e * 2.0 / 3.0 * parabola) / (1.0 - e / 3.0)


@attrs.frozen(eq=False)
class ModelGrid:
    """The grid on which broadening is a product in Fourier space: uniform in ln(lambda), an arm at a time.

    ``wavelength (n_model,)`` Angstrom in pieces ``arms``; ``resolving_power (n_model,)`` is chosen so that a
    Gaussian of ``rest_kms`` (sigma, per arm) more gives the instrument's.
    """

    wavelength: np.ndarray
    arms: Mapping[str, slice]
    resolving_power: np.ndarray
    rest_kms: Mapping[str, float]

    @classmethod
    def of(cls, instrument: Instrument, wavelength: np.ndarray, arms: Mapping[str, slice]) -> ModelGrid:
        """A grid within the model spectra's ``wavelength`` that covers each arm of the instrument with the
        margin of the model beyond it, at most 25 Angstrom, for shifts and the wrap of the Fourier transform.

        Raises ``ModelError`` where an arm of the instrument is not covered.
        """
        pieces, slices, powers, rest, start = [], {}, [], {}, 0
        ranges = [(wavelength[s][0], wavelength[s][-1]) for s in arms.values()]
        for arm in instrument.arms:
            covering = [(lo, hi) for lo, hi in ranges if lo <= arm.range[0] and hi >= arm.range[1]]
            if not covering:
                covered = ", ".join(f"{lo:.0f}-{hi:.0f}" for lo, hi in ranges)
                raise ModelError(
                    f"arm {arm.name} needs model spectra over {arm.range[0]:.0f}-{arm.range[1]:.0f} "
                    f"Angstrom, there are {covered}"
                )
            lo, hi = covering[0]
            lo, hi = max(lo + 0.1, arm.range[0] - 25.0), min(hi - 0.1, arm.range[1] + 25.0)
            n = int(np.log(hi / lo) * C_KMS / STEP_KMS)
            wave = lo * np.exp(np.arange(n) * STEP_KMS / C_KMS)
            power = arm.resolving_power.at(wave)
            rest[arm.name] = C_KMS / FWHM_PER_SIGMA * np.sqrt(1.0 - HEADROOM**-2) / power.max()
            powers.append(1.0 / np.sqrt(power**-2.0 - (rest[arm.name] * FWHM_PER_SIGMA / C_KMS) ** 2))
            slices[arm.name] = slice(start, start + n)
            start += n
            pieces.append(wave)
        return cls(np.concatenate(pieces), slices, np.concatenate(powers), rest)

    def operator(
        self, wavelength: np.ndarray, arms: Mapping[str, slice], resolving_power: Any
    ) -> sparse.csr_array:
        """Operator ``(n_model, n_pix)`` that takes spectra with the given pixels and R to this grid."""
        return resampling_operator(
            wavelength, arms, resolving_power, self.wavelength, self.arms, self.resolving_power
        )


def spline_matrix(grid: np.ndarray, wavelength: np.ndarray) -> sparse.csr_array:
    """Operator ``(n_pix, n_grid)`` from cubic B-spline coefficients, on a grid even in ln(lambda), to points.

    The coefficients come from values by :func:`spline_prefilter` in Fourier space; together they are the
    interpolating spline, exact to 1e-4 of a line's depth at 3 points per FWHM.
    """
    position = np.log(wavelength / grid[0]) / np.log(grid[1] / grid[0])
    base = np.floor(position).astype(int)[:, None]
    columns = base + np.arange(-1, 3)
    if columns.min() < 0 or columns.max() >= grid.size:
        raise ModelError("the model grid does not reach beyond the pixels of the arm")
    x = np.abs(position[:, None] - columns)
    near, far = 2.0 / 3.0 - x**2 + 0.5 * x**3, (2.0 - x).clip(min=0) ** 3 / 6.0
    kernel = np.where(x < 1.0, near, far)
    rows = np.broadcast_to(np.arange(wavelength.size)[:, None], columns.shape)
    return sparse.csr_array(
        (kernel.ravel(), (rows.ravel(), columns.ravel())), shape=(wavelength.size, grid.size)
    )


def spline_prefilter(cycles_per_point: torch.Tensor) -> torch.Tensor:
    """Fourier transform of the filter from values to cubic B-spline coefficients."""
    return 3.0 / (2.0 + torch.cos(2.0 * torch.pi * cycles_per_point))


class Observer:
    """Broadens model spectra given on ``grid`` and puts them on the pixels of ``instrument``.

    Resolving power is that of the recorded spectrum, its pixels included (as in ``spectra.resample``).
    Only pixels within an arm's range are simulated; the others (the detector reaches a little beyond) are
    False in ``inside (n_pix,)`` and carry flux 1.

    Parameters
    ----------
    instrument : Instrument
        Its arms have pixels.
    grid : ModelGrid
        That of the model spectra.
    device : str
        Torch device on which to compute.

    Examples
    --------
    A line of a star that rotates at 50 km/s and recedes at 30 km/s:

    >>> import numpy as np
    >>> import torch
    >>> from specinn.instruments import Instrument
    >>> from specinn.simulation.observer import ModelGrid, Observer
    >>> instrument = Instrument.from_dict({
    ...     "name": "toy",
    ...     "summary": "One short arm",
    ...     "arms": [{
    ...         "name": "red",
    ...         "range": [6500.0, 6600.0],
    ...         "resolving_power": 20_000,
    ...         "pixels": {"n": 1000, "polynomial": [6500.0, 100.0]},
    ...     }],
    ... })
    >>> grid = ModelGrid.of(instrument, np.linspace(6450.0, 6650.0, 20_000), {"all": slice(0, 20_000)})
    >>> line = 1.0 - 0.8 * np.exp(-0.5 * ((grid.wavelength - 6550.0) / 0.2) ** 2)
    >>> model = torch.as_tensor(line, dtype=torch.float32)[None]
    >>> observer = Observer(instrument, grid)
    >>> flux = observer(model, vbroad=torch.tensor([50.0]), velocity=torch.tensor([30.0]))
    >>> flux.shape  # (n_spec, n_pix)
    torch.Size([1, 1000])
    >>> depth = 1.0 - flux[0].numpy()
    >>> print(((depth * observer.wavelength).sum() / depth.sum()).round(1))  # 6550 (1 + 30 / c)
    6550.7
    """

    def __init__(self, instrument: Instrument, grid: ModelGrid, device: str = "cpu") -> None:
        self.instrument, self.grid, self.device = instrument, grid, device
        self.wavelength = instrument.wavelength
        inside = [arm.contains(arm.wavelength) for arm in instrument.arms]
        self.inside = np.concatenate(inside)
        self._arms = []
        for arm in instrument.arms:
            wave = arm.wavelength
            chosen = arm.contains(wave)
            source = grid.wavelength[grid.arms[arm.name]]
            matrix = spline_matrix(source, wave[chosen])
            # room between the two ends, which wrap around
            length = next_fast_len(source.size + 64, real=True)
            frequency = torch.fft.rfftfreq(length, STEP_KMS).to(device)
            start = instrument.slices[arm.name].start + int(np.argmax(chosen))
            self._arms.append((grid.arms[arm.name], length, frequency, _torch_csr(matrix, device),
                               slice(start, start + int(chosen.sum())), grid.rest_kms[arm.name]))  # fmt: skip

    def __call__(
        self,
        flux: torch.Tensor,
        vbroad: torch.Tensor,
        velocity: torch.Tensor | None = None,
        resolution_factor: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noiseless spectra of model spectra.

        Parameters
        ----------
        flux : torch.Tensor
            ``(n_spec, n_model)`` normalised, on the model grid.
        vbroad : torch.Tensor
            ``(n_spec,)`` km/s; 0 for none.
        velocity : torch.Tensor, optional
            ``(n_spec,)`` radial velocity in km/s.
        resolution_factor : torch.Tensor, optional
            ``(n_spec,)`` actual R over nominal R.

        Returns
        -------
        torch.Tensor
            ``(n_spec, n_pix)`` on the instrument's pixels.
        """
        out = flux.new_ones(len(flux), self.wavelength.size)
        for source, length, frequency, matrix, target, rest in self._arms:
            transfer = rotation_transfer(frequency, vbroad)
            width = torch.full_like(vbroad, rest**2)
            if resolution_factor is not None:
                power = self.instrument.resolving_power_at(self.wavelength[target]).mean()
                nominal = C_KMS / FWHM_PER_SIGMA / float(power)
                width = (width + nominal**2 * (resolution_factor**-2.0 - 1.0)).clamp(min=0.0)
            transfer = transfer * torch.exp(-2.0 * (torch.pi * frequency) ** 2 * width[:, None])
            transfer = transfer * spline_prefilter(frequency * STEP_KMS)
            if velocity is not None:
                phase = -2.0 * torch.pi * frequency * velocity[:, None]
                transfer = torch.polar(transfer.abs(), phase) * transfer.sign()
            arm = flux[:, source]
            spectrum = torch.fft.rfft(_taper(arm) - 1.0, n=length) * transfer
            broadened = torch.fft.irfft(spectrum, n=length)[:, : arm.shape[1]]
            out[:, target] = 1.0 + (matrix @ broadened.T).T
        return out


def _taper(flux: torch.Tensor, points: int = 16) -> torch.Tensor:
    """Flux that tends to 1 within a few points of both ends: lines cut by an end would ring."""
    ramp = torch.ones(flux.shape[1], device=flux.device)
    ramp[:points] = torch.linspace(0, 1, points, device=flux.device)
    ramp[-points:] = torch.linspace(1, 0, points, device=flux.device)
    return 1.0 + (flux - 1.0) * ramp


def _torch_csr(matrix: sparse.csr_array, device: str) -> torch.Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # the layout is in beta, the product is not
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr.astype(np.int64)),
            torch.as_tensor(matrix.indices.astype(np.int64)),
            torch.as_tensor(matrix.data.astype(np.float32)),
            size=matrix.shape,
            device=device,
        )
