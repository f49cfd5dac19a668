"""What a training needs, built once: grid, emulator, reference stars, templates, simulator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from specinn.config import structure
from specinn.errors import ConfigError
from specinn.grids import Grid, load
from specinn.grids.priors import draw
from specinn.grids.recipe import Recipe
from specinn.instruments import Instrument
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins, Templates
from specinn.simulation.observer import ModelGrid, Observer
from specinn.wavelengths import C_KMS

from .model_errors import Residual, broaden, measure
from .physics_errors import EmulatorErrors, MeasuredErrors, PhysicsErrors
from .recipe import BACKWARD, FORMER, Config, Masking, architecture
from .simulator import TrainingSimulator

_DRAWS = 1 << 15  # of the prior of a recipe


@attrs.define(eq=False)
class Setup:
    """Everything that training needs, built once: evaluation also simulates test spectra with it."""

    config: Config
    grid: Grid
    instrument: Instrument
    labels: LabelSet
    model_grid: ModelGrid
    emulator: Any
    templates: Templates
    residuals: list[Residual]
    used: np.ndarray
    simulator: TrainingSimulator
    operator: Any

    def spectra(self, rows: np.ndarray) -> torch.Tensor:
        """Grid spectra ``(n_rows, n_model)`` on the model grid."""
        return _spectra(self.grid, self.operator, rows)


def _spectra(grid: Grid, operator: Any, rows: np.ndarray) -> torch.Tensor:
    parts = [(operator @ flux.T).T for _, flux in grid.blocks(rows, 128)]
    return torch.as_tensor(np.concatenate(parts), dtype=torch.float32)


def prepare(config: Mapping[str, Any], plugins: Plugins | None = None) -> Setup:
    """Read grid, emulator and reference stars and build the simulator.

    Raises ``ConfigError`` for wrong keys.
    """
    settings = _settings(config)
    plugins = plugins or Plugins()
    grid = load([Path(p) for p in settings.grid], plugins=plugins)
    instrument = plugins.instrument(settings.instrument).select(settings.arms)
    emulator = plugins.load("synthesizer", settings.synthesizer).load(
        Path(settings.emulator) if settings.emulator else None
    )
    if tuple(emulator.labels) != tuple(grid.labels):
        raise ConfigError("the emulator was trained on a grid with other labels: train it again on this grid")
    model_grid = ModelGrid.of(instrument, emulator.wavelength, emulator.arms)
    to_model_grid = model_grid.operator(emulator.wavelength, emulator.arms, emulator.resolving_power)
    fast = emulator.resampled(model_grid.wavelength, dict(model_grid.arms), to_model_grid).to(settings.device)
    drawn = _values(settings, grid, emulator)
    templates = make_templates(drawn, grid.labels, fast, model_grid, instrument)
    residuals = [
        measure(
            star,
            fast.to("cpu"),
            grid.labels,
            model_grid,
            instrument,
            templates,
            settings.continuum,
            plugins,
        )
        for star in settings.reference_stars
    ]
    observer = Observer(instrument, model_grid, settings.device)
    operator = model_grid.operator(grid.wavelength, grid.arms, grid.resolving_power)
    return Setup(
        settings,
        grid,
        instrument,
        _labels(settings, grid, drawn if settings.prior.recipe else grid.values),
        model_grid,
        fast,
        templates,
        residuals,
        usable_pixels(instrument, observer.inside, model_grid, residuals, settings.masking),
        _simulator(settings, grid, drawn, operator, fast, observer, model_grid, residuals),
        operator,
    )


def _settings(config: Mapping[str, Any]) -> Config:
    """The configuration, checked, with the weight of the second loss that its preset has."""
    config = dict(config)
    for former, name in FORMER.items():
        if former in config and name in config:
            raise ConfigError(f"$.{former} is now called $.{name}: give only that")
        if former in config:
            warnings.warn(
                f"the table {former} of the recipe is now called {name}", FutureWarning, stacklevel=3
            )
            config[name] = config.pop(former)
    settings = structure(config, Config, "training configuration")
    architecture(settings)  # a wrong size is better known now than after the reference stars
    if settings.schedule.backward is None:
        schedule = attrs.evolve(settings.schedule, backward=BACKWARD[settings.preset])
        settings = attrs.evolve(settings, schedule=schedule)
    return settings


def _values(settings: Config, grid: Grid, emulator: Any) -> np.ndarray:
    """Labels ``(n, n_grid_labels)`` that training spectra may have: of the training split, or of a recipe."""
    path = settings.prior.recipe
    if not path:
        return np.asarray(grid.values[grid.split("train")])
    if settings.real_fraction:
        raise ConfigError(
            f"$.real_fraction is {settings.real_fraction:g}: expected 0 with $.prior.recipe, whose models "
            "are in no grid"
        )
    columns = draw(Recipe.read(path).prior, _DRAWS, seed=settings.schedule.seed)
    if absent := [name for name in grid.labels if name not in columns]:
        raise ConfigError(
            f"{path} draws no {', '.join(absent)}, which the grid has: name the recipe of the grid"
        )
    values = np.stack([columns[name] for name in grid.labels], axis=1)
    low, high = np.asarray(emulator.bounds).T
    return np.asarray(values[((values >= low) & (values <= high)).all(axis=1)])


def _labels(settings: Config, grid: Grid, values: np.ndarray) -> LabelSet:
    """The labels to infer, within the bounds of ``values (n, n_grid_labels)``."""
    bounds = {"vbroad": settings.prior.vbroad}
    for name in settings.labels:
        if name != "vbroad":
            grid.column(name)  # says which there are
            column = values[:, grid.labels.index(name)]
            bounds[name] = (column.min(), column.max())
    return LabelSet(tuple(make_label(n, (float(bounds[n][0]), float(bounds[n][1]))) for n in settings.labels))


def _simulator(
    settings: Config,
    grid: Grid,
    drawn: np.ndarray,
    operator: Any,
    emulator: Any,
    observer: Observer,
    model_grid: ModelGrid,
    residuals: list[Residual],
) -> TrainingSimulator:
    """What draws the spectra of the training; ``operator`` takes those of the grid to the model grid."""
    rows, device = grid.split("train"), settings.device
    errors = PhysicsErrors(
        settings.physics,
        grid.labels,
        torch.as_tensor(drawn, dtype=torch.float32, device=device),
        emulator,
        model_grid,
        _measured_errors(settings, model_grid, residuals) if residuals else None,
        _emulator_errors(grid, operator, emulator, device),
    )
    return TrainingSimulator(
        tuple(settings.labels),
        errors,
        observer,
        settings.disturbances,
        settings.prior,
        settings.continuum,
        spectra=_spectra(grid, operator, rows).to(device) if settings.real_fraction else None,
        real_fraction=settings.real_fraction,
        jointly=bool(settings.prior.recipe),
        device=device,
    )


def _emulator_errors(grid: Grid, operator: Any, emulator: Any, device: str) -> EmulatorErrors:
    """How the emulator errs on spectra of the validation split, which it was not trained on."""
    rows = grid.split("validation")
    values = torch.as_tensor(grid.values[rows], dtype=torch.float32)
    with torch.no_grad():
        residual = emulator.to("cpu")(values) - _spectra(grid, operator, rows)
    return EmulatorErrors(residual.to(device), values.to(device))


def make_templates(
    drawn: np.ndarray, names: tuple[str, ...], emulator: Any, model_grid: ModelGrid, instrument: Instrument
) -> Templates:
    """Emulated spectra of training labels over Teff and [Fe/H], at the instrument's resolving power."""
    teff, fe_h = drawn[:, names.index("teff")], drawn[:, names.index("fe_h")]
    chosen = []
    for t in (3900, 4300, 4800, 5300, 5800, 6300, 6800, 7100):
        for m in (-2.5, -1.2, 0.0):
            chosen.append(np.argmin(((teff - t) / 200) ** 2 + ((fe_h - m) / 0.2) ** 2))
    values = torch.as_tensor(drawn[chosen], dtype=torch.float32)
    with torch.no_grad():
        flux = emulator.to("cpu")(values)
        # rest of the way to the instrument's resolving power, and the broadening of a typical star
        flux = broaden(flux, torch.full((len(flux),), 8.0), model_grid)
    power = min(arm.resolving_power.value[0] for arm in instrument.arms)
    return Templates(model_grid.wavelength, flux.double().numpy(), dict(model_grid.arms), float(power))


def _measured_errors(settings: Config, model_grid: ModelGrid, residuals: list[Residual]) -> MeasuredErrors:
    """The reference stars' residuals as the simulator takes them."""
    wave = model_grid.wavelength

    def tensor(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=settings.device)

    kept = {
        name: torch.as_tensor((wave >= low) & (wave <= high), device=settings.device)
        for name, (low, high) in settings.masking.keep.items()
    }
    parameters = [
        [star.labels[name] for name in ("teff", "logg", "fe_h")] for star in settings.reference_stars
    ]
    return MeasuredErrors(
        tensor(np.nan_to_num([star.residual for star in residuals])),
        tensor([star.flux for star in residuals]),
        tensor(parameters),
        kept,
    )


def usable_pixels(
    instrument: Instrument,
    inside: np.ndarray,
    model_grid: ModelGrid,
    residuals: list[Residual],
    masking: Masking,
) -> np.ndarray:
    """Boolean ``(n_pix,)``: inside the arms, and where models agree with every reference star."""
    wave = instrument.wavelength
    keep = np.zeros(wave.size, bool)
    for low, high in masking.keep.values():
        keep |= (wave >= low) & (wave <= high)
    used = inside.copy()
    for star in residuals:
        for line in model_grid.wavelength[np.nan_to_num(star.residual) < -masking.wrong]:
            used &= (np.abs(wave - line) > masking.around / C_KMS * line) | keep
        for arm, piece in zip(instrument.arms, instrument.slices.values(), strict=True):
            source = model_grid.arms[arm.name]
            at = np.interp(
                wave[piece], model_grid.wavelength[source], np.nan_to_num(np.abs(star.residual[source]))
            )
            used[piece] &= (at <= masking.limit) | keep[piece]
    return used


def validation_set(setup: Setup, repeats: int = 8) -> list[tuple[torch.Tensor, ...]]:
    """Grid spectra of the validation split, observed with fixed noise, as (flux, sigma, mask, whether
    synthetic, labels)."""
    simulator = setup.simulator
    generator = torch.Generator(setup.config.device).manual_seed(12345)
    rows = setup.grid.split("validation")
    flux = setup.spectra(rows).to(setup.config.device)
    values = torch.as_tensor(setup.grid.values[rows], dtype=torch.float32, device=setup.config.device)
    out: list[tuple[torch.Tensor, ...]] = []
    for _ in range(repeats):
        vbroad = simulator.vbroad(len(rows), generator)
        disturbed, synthetic = simulator.errors.disturb(flux, values, generator)
        observed = simulator.observe(disturbed, vbroad, generator)
        out.append((*simulator.degrade(observed, generator), synthetic, simulator.targets(values, vbroad)))
    return out
