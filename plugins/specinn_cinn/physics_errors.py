"""Errors of the physics, drawn: how real spectra differ from model spectra, of which training must know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import attrs
import torch

from specinn.simulation.observer import STEP_KMS, ModelGrid

from .recipe import PhysicsError

FLOOR = 0.03  # line depth below which an error of the physics is taken as one of lines that the models lack
SHALLOW = 0.01  # line depth below which departures from LTE count for less
SOME = 2048  # stars at most, for whose lines departures are worked out
WEAK = 1.5  # power of the mean depth with which these scale: they are weak, and saturate less than it does
BALMER = (4101.7, 4340.5, 4861.3, 6562.8)  # Angstrom
BALMER_WIDTH = 25.0  # Angstrom, beyond which metal lines decide


@attrs.frozen(eq=False)
class MeasuredErrors:
    """What reference stars showed: ``residual`` (synthetic minus observed) and synthetic ``flux``, both
    ``(n_stars, n_model)``, and ``parameters (n_stars, 3)``, Teff, logg and [Fe/H]. ``kept`` tells, by
    label, the pixels ``(n_model,)`` of windows that are used for its sake however large the residuals."""

    residual: torch.Tensor
    flux: torch.Tensor
    parameters: torch.Tensor
    kept: Mapping[str, torch.Tensor]


@attrs.frozen(eq=False)
class EmulatorErrors:
    """What the emulator gets wrong: ``residual (n_stars, n_model)``, emulated minus computed, of stars with
    labels ``values (n_stars, n_grid_labels)``."""

    residual: torch.Tensor
    values: torch.Tensor


@attrs.define(eq=False)
class PhysicsErrors:
    """Draws the errors that ``options`` describe.

    ``values (n_models, n_grid_labels)`` are physical labels of the grid, in the order of ``grid_names``;
    ``emulate`` turns such labels into flux ``(n, n_model)`` on ``model_grid``. Without ``measured`` there are
    no errors like those of reference stars, without ``emulator`` none of emulation.
    """

    options: PhysicsError
    grid_names: tuple[str, ...]
    values: torch.Tensor
    emulate: Callable[[torch.Tensor], torch.Tensor]
    model_grid: ModelGrid
    measured: MeasuredErrors | None = None
    emulator: EmulatorErrors | None = None
    low: torch.Tensor = attrs.field(init=False)
    high: torch.Tensor = attrs.field(init=False)
    spread: torch.Tensor = attrs.field(init=False)
    metallic: torch.Tensor = attrs.field(init=False)
    _stellar: list[int] = attrs.field(init=False)
    _poor: torch.Tensor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.low, self.high = self.values.min(0).values, self.values.max(0).values
        self.spread = self.values.std(0)
        wave = torch.as_tensor(self.model_grid.wavelength, dtype=torch.float32, device=self.values.device)
        near = [torch.exp(-0.5 * ((wave - line) / BALMER_WIDTH) ** 2) for line in BALMER]
        self.metallic = 1.0 - torch.stack(near).amax(0)
        self._stellar = [self.grid_names.index(name) for name in ("teff", "logg", "fe_h")]
        self._poor = self.values[self.values[:, self._stellar[2]] < 0][:SOME]

    def of_emulation(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Errors of emulated spectra ``(n, n_model)``: those that the emulator made for a star alike, with
        weights that change along the spectrum, since no other star has just these."""
        if self.emulator is None or not self.options.emulator:
            return torch.zeros((), device=self.values.device)
        distance = self._unlikeness(values, self.emulator.values)
        noise = torch.randn(*distance.shape, generator=generator, device=self.values.device)
        near = (distance + 0.3 * noise.square()).argmin(1)
        weights = self._field(len(values), self.options.wander, generator).mul_(self.options.emulator)
        return weights.mul_(self.emulator.residual[near])

    def stellar(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Teff, logg and [Fe/H] of labels of the grid ``(n, n_grid_labels)``, each ``(n,)``."""
        return list(values[:, self._stellar].unbind(1))

    def _unlikeness(self, values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Squared distances ``(n, n_others)`` in Teff, logg and [Fe/H], in units of their spread."""
        difference = values[:, None, self._stellar] - others[:, self._stellar]
        return (difference / self.spread[self._stellar]).square().sum(2)

    def departures(
        self, flux: torch.Tensor, values: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Change of ``flux (n, n_model)``: what LTE in plane layers gets wrong in poor stars.

        It is that of the poor star of the grid most alike in Teff, logg and [Fe/H], in units of the depth
        of lines.
        """
        options = self.options
        if not (options.overionisation or options.excitation) or not len(self._poor):
            return torch.zeros((), device=self.values.device)
        poverty = (-values[:, self._stellar[2]]).clamp(min=0.0)
        shares = 2.0 * torch.rand(2, len(values), device=self.values.device, generator=generator) * poverty
        weakening, cooling = options.overionisation * shares[0], options.excitation * shares[1]
        near = self._unlikeness(values, self._poor).argmin(1)
        weaker, deeper = (of_star[near].to(flux.dtype) for of_star in self._of_poor)
        change = weaker.mul_(weakening[:, None]).sub_(deeper.mul_(cooling[:, None]))
        return change.mul_((1.0 - flux).clamp(min=0.0))

    @cached_property
    def _of_poor(self) -> tuple[torch.Tensor, torch.Tensor]:
        """By how much of their depth lines get weaker per dex of overionisation, and deeper per K of cooling,
        in the poor stars, each ``(n_poor, n_model)``.

        The emulator tells which pixels belong to neutral species: with higher gravity lines of ions weaken,
        by about 0.4 of what the same step down in metallicity does; those of neutral species hardly change.
        """
        parts = [self._changes(values) for values in self._poor.split(64)]
        weaker, deeper = (torch.cat(part) for part in zip(*parts, strict=True))
        return weaker, deeper

    def _changes(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the stars ``values (n, n_grid_labels)``, in half precision."""
        _, gravity, iron = self._stellar
        other, denser = values.clone(), values.clone()
        room = values[:, iron] - self.low[iron]
        step = torch.where(room >= 0.05, -room.clamp(max=0.3), 0.3)
        up = torch.where(values[:, gravity] + 0.3 <= self.high[gravity], 0.3, -0.3)
        other[:, iron] += step
        denser[:, gravity] += up
        flux = self.emulate(values)
        by_temperature = self._by_temperature(values, flux)
        by_metal = (flux - self.emulate(other)) / step[:, None]
        by_gravity = (self.emulate(denser) - flux) / up[:, None]
        ratio = by_gravity / by_metal.clamp(min=0.01)
        neutral = 1.0 - ((ratio - 0.1) / 0.25).clamp(0.0, 1.0)
        depth = (1.0 - flux).clamp(min=SHALLOW)
        weaker = neutral * by_metal.clamp(min=0.0) / depth
        return weaker.half(), (self.metallic * by_temperature / depth).half()

    def wings(self, flux: torch.Tensor, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change of ``flux (n, n_model)`` where the wings of hydrogen lines tell another temperature: that of
        the star of the grid most alike, for as many K."""
        if not self.options.balmer:
            return torch.zeros((), device=self.values.device)
        kelvin = torch.randn(len(values), 1, generator=generator, device=self.values.device)
        near = self._unlikeness(values, self._some).argmin(1)
        change = torch.zeros_like(flux)
        change[:, self._hydrogen] = self._of_hydrogen[near].to(flux.dtype).mul_(self.options.balmer * kelvin)
        return change

    @property
    def _some(self) -> torch.Tensor:
        return self.values[:SOME]

    @property
    def _hydrogen(self) -> torch.Tensor:
        """``(n_model,)`` which pixels are in the wings."""
        return self.metallic < 0.99

    @cached_property
    def _of_hydrogen(self) -> torch.Tensor:
        """Change of the flux in the wings per K, ``(n_some, n_wings)``, in half precision."""
        pixels = self._hydrogen
        parts = [
            self._by_temperature(values, self.emulate(values))[:, pixels] for values in self._some.split(64)
        ]
        return torch.cat([part.mul_(1.0 - self.metallic[pixels]).half() for part in parts])

    def _by_temperature(self, values: torch.Tensor, flux: torch.Tensor) -> torch.Tensor:
        """Change of ``flux (n, n_model)`` of stars with the labels ``values`` per K."""
        teff = self._stellar[0]
        cooler = values.clone()
        down = torch.where(values[:, teff] - 100.0 >= self.low[teff], -100.0, 100.0)
        cooler[:, teff] += down
        return (self.emulate(cooler) - flux) / down[:, None]

    def disturb(
        self, flux: torch.Tensor, values: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``flux (n, n_model)`` of stars with grid labels ``values`` with random errors of the physics, and
        which of them have none ``(n,)``."""
        chance = torch.rand(len(flux), generator=generator, device=self.values.device)
        synthetic = chance < self.options.synthetic
        out, values = flux.clone(), values[~synthetic]
        real = flux[~synthetic]
        real = real + self.departures(real, values, generator) + self.wings(real, values, generator)
        out[~synthetic] = real - self._residual(real, values, generator)
        return out, synthetic

    def _residual(self, flux: torch.Tensor, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Errors like those that reference stars showed, ``(n, n_model)``."""
        if self.measured is None:
            return torch.zeros((), device=self.values.device)
        measured, options, n = self.measured, self.options, len(flux)
        depth = (1.0 - self._without_kept(flux, values)).clamp(min=0.0)
        reference = (1.0 - measured.flux).clamp(min=0.0)
        mean = (1.0 - flux) @ self.metallic
        floor = FLOOR * (mean[:, None] / (reference @ self.metallic)).clamp(min=0.0) ** WEAK
        distance = (values[:, None, self._stellar] - measured.parameters) / values.new_tensor(options.reach)
        likeness = torch.softmax(-0.5 * distance.square().sum(2), dim=1)
        share = 0.5 + torch.rand(n, 1, generator=generator, device=self.values.device)
        weight = options.common * share * likeness
        error, squares = torch.zeros_like(flux), torch.zeros_like(flux)
        for star, residual in enumerate(measured.residual):
            scaled = (depth + floor[:, star : star + 1]).div_(reference[star] + FLOOR)
            scaled.clamp_(max=1.5).mul_(residual)
            wandering = self._field(n, options.wander, generator).mul_(options.amplitude)
            for kept in measured.kept.values():
                wandering[:, kept] = 0.0
            error.addcmul_(scaled, wandering.add_(weight[:, star : star + 1]))
            squares.addcmul_(scaled, scaled)
        rms = squares.div_(len(measured.residual)).sqrt_()
        for kept in measured.kept.values():
            rms[:, kept] = 0.0
        error.addcmul_(rms, self._field(n, options.width, generator), value=options.line)
        return error

    def _field(self, n: int, coherence: float, generator: torch.Generator) -> torch.Tensor:
        """Standard normal numbers ``(n, n_model)`` that change along the spectrum over ``coherence`` km/s:
        independent at knots as far apart, and interpolated between them."""
        left, share = self._knots(coherence)
        knots = torch.randn(n, int(left[-1]) + 2, generator=generator, device=self.values.device)
        start = knots[:, left]
        return start.lerp_(knots[:, left + 1], share).div_((share.square() + (1.0 - share).square()).sqrt())

    def _knots(self, coherence: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The knot to the left of every pixel of the model grid, and the share of the one to its right; arms
        have none in common."""
        left, share, first = [], [], 0
        for arm in self.model_grid.arms.values():
            position = torch.arange(arm.stop - arm.start, device=self.values.device) * (STEP_KMS / coherence)
            whole = position.floor().long()
            left.append(first + whole)
            share.append(position - whole)
            first += int(whole[-1]) + 2
        return torch.cat(left), torch.cat(share)

    def _without_kept(self, flux: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The flux with the lines for whose sake windows are kept at their weakest.

        Where the line of a label is blended with one that no star shows, the error scales with the
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
