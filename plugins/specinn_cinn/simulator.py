"""Training spectra made on the fly: labels from the prior, emulator or grid spectrum, errors of the physics,
observation, noise, and the pipeline's own continuum."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import numpy as np
import torch

from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.observer import STEP_KMS, ModelGrid, Observer
from specinn.spectra.continuum import ContinuumFit, ContinuumOptions

from .recipe import PhysicsError, Prior

FLOOR = 0.03  # line depth below which an error of the physics is taken as one of lines that the models lack
WEAK = 1.5  # power of the mean depth with which these go: they are weak, and saturate less than the mean does
BALMER = (4101.7, 4340.5, 4861.3, 6562.8)  # Angstrom
BALMER_WIDTH = 25.0  # Angstrom, beyond which metal lines decide


@attrs.frozen(eq=False)
class MeasuredErrors:
    """What calibrator stars showed: ``residual`` (synthetic minus observed) and synthetic ``flux``, both
    ``(n_stars, n_model)``, and ``parameters (n_stars, 3)``, Teff, logg and [Fe/H]. ``kept`` tells, by
    label, the pixels ``(n_model,)`` of windows that are used for its sake however large the residuals."""

    residual: torch.Tensor
    flux: torch.Tensor
    parameters: torch.Tensor
    kept: Mapping[str, torch.Tensor]


class Simulator:
    """Draws batches of (normalised flux, sigma, mask, whether synthetic, physical labels)."""

    def __init__(
        self,
        names: tuple[str, ...],
        grid_names: tuple[str, ...],
        values: np.ndarray,
        emulate: Callable[[torch.Tensor], torch.Tensor],
        model_grid: ModelGrid,
        observer: Observer,
        noise: Disturbances,
        prior: Prior,
        physics: PhysicsError,
        continuum: ContinuumOptions,
        *,
        spectra: torch.Tensor | None = None,
        real_fraction: float = 0.0,
        measured: MeasuredErrors | None = None,
        emulator_errors: tuple[torch.Tensor, torch.Tensor] | None = None,
        device: str = "cpu",
    ) -> None:
        self.names, self.grid_names, self.device = names, grid_names, device
        self.values = torch.as_tensor(values, dtype=torch.float32, device=device)
        self.spread = self.values.std(0)
        self.low, self.high = self.values.min(0).values, self.values.max(0).values
        self.parameters = torch.tensor(
            [n in ("teff", "logg", "fe_h", "vmic") for n in grid_names], device=device
        )
        self.emulate, self.observer, self.prior, self.physics = emulate, observer, prior, physics
        self.noise = Noise(observer.instrument, noise, device)
        self.disturbances = noise
        self.continuum = ContinuumFit(observer.wavelength, observer.instrument.slices, continuum, device)
        wave = torch.as_tensor(model_grid.wavelength, dtype=torch.float32, device=device)
        near = [torch.exp(-0.5 * ((wave - line) / BALMER_WIDTH) ** 2) for line in BALMER]
        self.metallic = 1.0 - torch.stack(near).amax(0)
        self.arms = model_grid.arms
        self.outside = ~torch.as_tensor(observer.inside, device=device)
        self.spectra, self.real_fraction = spectra, real_fraction
        self.measured, self.emulator_errors = measured, emulator_errors

    def labels(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Grid labels ``(n, n_grid_labels)`` and vbroad ``(n,)``, physical."""
        stars = self._rows(n, generator)
        others = self._rows(n, generator)
        values = torch.where(self.parameters, self.values[stars], self.values[others])
        out = values.clone()
        todo = torch.ones(n, dtype=torch.bool, device=self.device)
        for _ in range(20):
            blurred = values + self.prior.blur * self.spread * self._normal(
                *values.shape, generator=generator
            )
            inside = ((blurred >= self.low) & (blurred <= self.high)).all(1)
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
        if self.emulator_errors is not None and self.physics.emulator:
            # an emulated spectrum errs as the emulator was seen to err for a star alike
            where, errors = self.emulator_errors
            distance = ((values[n_real:, None, :3] - where) / self.spread[:3]).square().sum(2)
            near = (distance + 0.3 * self._normal(*distance.shape, generator=generator).square()).argmin(1)
            flux[n_real:] -= (
                self.physics.emulator * self._normal(n - n_real, 1, generator=generator) * errors[near]
            )
        return flux, values, vbroad

    def departures(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change of the flux ``(n, n_model)``: what LTE in plane layers gets wrong in poor stars.

        Which pixels belong to neutral species the emulator tells: with higher gravity lines of ions weaken,
        by about 0.4 of what the same step down in metallicity does; those of neutral species hardly change.
        """
        physics = self.physics
        if not (physics.overionisation or physics.excitation):
            return torch.zeros((), device=self.device)
        teff, gravity, iron = (self.grid_names.index(name) for name in ("teff", "logg", "fe_h"))
        poverty = (-values[:, iron]).clamp(min=0.0)
        shares = 2.0 * torch.rand(2, len(values), device=self.device, generator=generator) * poverty
        weakening, cooling = physics.overionisation * shares[0], physics.excitation * shares[1]
        flux = self.emulate(values)
        cooler, poorer, denser = values.clone(), values.clone(), values.clone()
        step = (values[:, iron] - self.low[iron]).clamp(0.05, 0.3)
        up = torch.where(values[:, gravity] + 0.3 <= self.high[gravity], 0.3, -0.3)
        down = torch.where(values[:, teff] - 100.0 >= self.low[teff], -100.0, 100.0)
        cooler[:, teff] += down
        poorer[:, iron] -= step
        denser[:, gravity] += up
        by_temperature = (self.emulate(cooler) - flux) / down[:, None]
        by_metal = (self.emulate(poorer) - flux) / step[:, None]
        by_gravity = (self.emulate(denser) - flux) / up[:, None]
        ratio = by_gravity / by_metal.clamp(min=0.01)
        neutral = 1.0 - ((ratio - 0.1) / 0.25).clamp(0.0, 1.0)
        weaker = neutral * by_metal.clamp(min=0.0) * weakening[:, None]
        return weaker - self.metallic * by_temperature * cooling[:, None]

    @torch.no_grad()
    def __call__(
        self, n: int, repeats: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``n * repeats`` spectra: flux, sigma, mask ``(n * repeats, n_pix)``, whether they have no errors of
        the physics ``(n * repeats,)``, and physical labels.

        Each noiseless spectrum is observed ``repeats`` times with other noise, gaps and continuum errors.
        """
        flux, values, vbroad = self.noiseless(n, generator)
        flux, synthetic = self.disturb(flux, values, generator)
        observed = self.observe(flux, vbroad, generator)
        synthetic, labels, observed = (
            v.repeat_interleave(repeats, 0) for v in (synthetic, self.targets(values, vbroad), observed)
        )
        return *self.degrade(observed, generator), synthetic, labels

    def disturb(
        self, flux: torch.Tensor, values: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``flux (n, n_model)`` of stars with grid labels ``values`` with random errors of the physics, and
        which of them have none ``(n,)``."""
        synthetic = torch.rand(len(flux), generator=generator, device=self.device) < self.physics.synthetic
        out, values = flux.clone(), values[~synthetic]
        real = flux[~synthetic] + self.departures(values, generator)
        out[~synthetic] = real - self._residual(real, values, generator)
        return out, synthetic

    def _residual(self, flux: torch.Tensor, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Errors like those that calibrators showed, ``(n, n_model)``."""
        if self.measured is None:
            return torch.zeros((), device=self.device)
        measured, physics, n = self.measured, self.physics, len(flux)
        depth = (1.0 - self._without_kept(flux, values)).clamp(min=0.0)
        reference = (1.0 - measured.flux).clamp(min=0.0)
        mean = (1.0 - flux) @ self.metallic
        floor = FLOOR * (mean[:, None] / (reference @ self.metallic)).clamp(min=0.0) ** WEAK
        parameters = [self.grid_names.index(name) for name in ("teff", "logg", "fe_h")]
        distance = (values[:, None, parameters] - measured.parameters) / values.new_tensor(physics.reach)
        likeness = torch.softmax(-0.5 * distance.square().sum(2), dim=1)
        share = 0.5 + torch.rand(n, 1, generator=generator, device=self.device)
        weight = physics.common * share * likeness
        error, squares = torch.zeros_like(flux), torch.zeros_like(flux)
        for star, residual in enumerate(measured.residual):
            own = (depth + floor[:, star : star + 1]).div_(reference[star] + FLOOR)
            own.clamp_(max=1.5).mul_(residual)
            wandering = self._field(n, physics.wander, generator).mul_(physics.amplitude)
            for kept in measured.kept.values():
                wandering[:, kept] = 0.0
            error.addcmul_(own, wandering.add_(weight[:, star : star + 1]))
            squares.addcmul_(own, own)
        rms = squares.div_(len(measured.residual)).sqrt_()
        for kept in measured.kept.values():
            rms[:, kept] = 0.0
        error.addcmul_(rms, self._field(n, physics.width, generator), value=physics.line)
        return error

    def _field(self, n: int, coherence: float, generator: torch.Generator) -> torch.Tensor:
        """Standard normal numbers ``(n, n_model)`` that change along the spectrum over ``coherence`` km/s:
        independent at knots as far apart, and interpolated between them."""
        left, share = self._knots(coherence)
        knots = self._normal(n, int(left[-1]) + 2, generator=generator)
        start = knots[:, left]
        return start.lerp_(knots[:, left + 1], share).div_((share.square() + (1.0 - share).square()).sqrt())

    def _knots(self, coherence: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The knot to the left of every pixel of the model grid, and the share of the one to its right; arms
        have none in common."""
        left, share, first = [], [], 0
        for arm in self.arms.values():
            place = torch.arange(arm.stop - arm.start, device=self.device) * (STEP_KMS / coherence)
            whole = place.floor().long()
            left.append(first + whole)
            share.append(place - whole)
            first += int(whole[-1]) + 2
        return torch.cat(left), torch.cat(share)

    def _without_kept(self, flux: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The flux with the lines for whose sake windows are kept at their weakest.

        Where the line of a label is blended with one that no star shows, the error goes with the
        depth of the blend and not with that of the line.
        """
        assert self.measured is not None
        out = flux
        for name, pixels in self.measured.kept.items():
            if name in self.grid_names and bool(pixels.any()):
                column = self.grid_names.index(name)
                weakest = values.clone()
                weakest[:, column] = self.low[column]
                out = out.clone()
                out[:, pixels] = self.emulate(weakest)[:, pixels]
        return out

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
