"""Training: spectra are simulated on the fly, so no epoch sees the same spectrum twice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

import specinn
from specinn.checkpoint import fingerprint, load_checkpoint, one_cycle, save_checkpoint
from specinn.config import structure
from specinn.continuum import ContinuumOptions
from specinn.errors import ConfigError
from specinn.evaluate import grid_metrics, metrics_for_header
from specinn.grids import Grid, load
from specinn.instruments import Instrument
from specinn.interfaces import Templates
from specinn.labels import LabelSet, make_label
from specinn.observe import Disturbances, ModelGrid, Observer
from specinn.plugins import Plugins
from specinn.resample import pixel_widths
from specinn.wavelengths import C_KMS

from .calibrators import Calibrator, Residual, broaden, measure
from .encoding import Encoding
from .estimator import CINN
from .network import BACKWARD, PRESETS, Architecture, Features, make_flow
from .simulation import MeasuredErrors, PhysicsError, Prior, Simulator
from .strangers_fit import StrangersPlan, fit_strangers

LABELS = (
    "teff",
    "logg",
    "fe_h",
    "vbroad",
    "vmic",
    "ca_fe",
    "c_fe",
    "mg_fe",
    "mn_fe",
    "n_fe",
    "si_fe",
    "ti_fe",
    "a_li",
)
_PLANNED_TEMPLATES = 24


@attrs.frozen
class Schedule:
    """``steps`` batches of ``batch`` spectra; each noiseless spectrum is observed ``repeats`` times. The
    weights that count are a running mean (``average`` per step). Every ``validate_every`` steps the loss on
    the grid's validation spectra is taken; ``patience`` validations without gain end the training.
    ``backward`` weighs the paper's second loss: latent variables are jittered by ``jitter``, and the squared
    distance of what comes back counts (None: 0 for the preset default, 1 for paper)."""

    steps: int = 6000
    batch: int = 512
    repeats: int = 3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    average: float = 0.998
    backward: float | None = None
    jitter: float = 0.01
    clip: float = 5.0
    validate_every: int = 250
    patience: int = 12
    seed: int = 0


@attrs.frozen
class Masking:
    """Pixels at which any calibrator's residual exceeds ``limit`` are never used, nor what lies within
    ``around`` km/s of a synthetic line that is too deep by more than ``wrong``: no star has it, so rotation
    would bring its wings in. Those of the windows ``keep`` (label: low, high; Angstrom) are used always: 6707
    is lithium's only line."""

    limit: float = 0.05
    wrong: float = 0.15
    around: float = 30.0
    keep: dict[str, tuple[float, float]] = attrs.field(factory=lambda: {"a_li": (6706.5, 6709.0)})


@attrs.frozen
class Config:
    """The ``[estimator]`` table of a training file; see docs/training.md for every key."""

    name: str
    instrument: str
    arms: list[str]
    grid: list[str]
    emulator: str = ""
    synthesizer: str = "emulator"
    preset: str = "default"
    start: str = ""
    labels: list[str] = attrs.field(factory=lambda: list(LABELS))
    device: str = "cpu"
    real_fraction: float = 0.05
    architecture: dict[str, Any] = attrs.field(factory=dict)
    schedule: Schedule = attrs.field(factory=Schedule)
    disturbances: Disturbances = attrs.field(factory=Disturbances)
    prior: Prior = attrs.field(factory=Prior)
    physics: PhysicsError = attrs.field(factory=PhysicsError)
    masking: Masking = attrs.field(factory=Masking)
    continuum: ContinuumOptions = attrs.field(factory=ContinuumOptions)
    calibrators: list[Calibrator] = attrs.field(factory=list)
    strangers: StrangersPlan = attrs.field(factory=StrangersPlan)


@attrs.frozen
class _Sizes:
    architecture: Architecture


@attrs.define(eq=False)
class Setup:
    """Everything that training needs, built once: also what evaluation simulates test spectra with."""

    config: Config
    grid: Grid
    instrument: Instrument
    labels: LabelSet
    model_grid: ModelGrid
    emulator: Any
    templates: Templates
    residuals: list[Residual]
    used: np.ndarray
    simulator: Simulator
    operator: Any

    def spectra(self, rows: np.ndarray) -> torch.Tensor:
        """Grid spectra ``(n_rows, n_model)`` on the model grid."""
        return _spectra(self.grid, self.operator, rows)


def _spectra(grid: Grid, operator: Any, rows: np.ndarray) -> torch.Tensor:
    parts = [(operator @ flux.T).T for _, flux in grid.blocks(rows, 128)]
    return torch.as_tensor(np.concatenate(parts), dtype=torch.float32)


def prepare(config: Mapping[str, Any], plugins: Plugins | None = None) -> Setup:
    """Read grid, emulator and calibrators and build the simulator. Raises ``ConfigError`` for wrong keys."""
    settings = structure(dict(config), Config, "training configuration")
    architecture(settings)  # a wrong size is better known now than after the calibrators
    if settings.schedule.backward is None:
        schedule = attrs.evolve(settings.schedule, backward=BACKWARD[settings.preset])
        settings = attrs.evolve(settings, schedule=schedule)
    plugins = plugins or Plugins()
    grid = load([Path(p) for p in settings.grid], plugins=plugins)
    instrument = Instrument.from_toml(plugins.record("instrument", settings.instrument).toml).select(
        settings.arms
    )
    emulator = plugins.load("synthesizer", settings.synthesizer).load(
        Path(settings.emulator) if settings.emulator else None
    )
    if tuple(emulator.labels) != tuple(grid.labels):
        raise ConfigError("the emulator was trained on a grid with other labels: train it again on this grid")
    model_grid = ModelGrid.of(instrument, emulator.wavelength, emulator.arms)
    operator = model_grid.operator(emulator.wavelength, emulator.arms, emulator.resolving_power)
    fast = emulator.resampled(model_grid.wavelength, dict(model_grid.arms), operator).to(settings.device)

    names = tuple(settings.labels)
    rows = grid.split("train")
    bounds = {n: (grid.column(n).min(), grid.column(n).max()) for n in names if n != "vbroad"}
    bounds["vbroad"] = settings.prior.vbroad
    labels = LabelSet(tuple(make_label(n, (float(bounds[n][0]), float(bounds[n][1]))) for n in names))

    own = model_grid.operator(grid.wavelength, grid.arms, grid.resolving_power)
    templates = make_templates(grid, fast, model_grid, instrument)
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
        for star in settings.calibrators
    ]
    observer = Observer(instrument, model_grid, settings.device)
    used = usable_pixels(instrument, observer.inside, model_grid, residuals, settings.masking)

    validation = grid.split("validation")
    real = _spectra(grid, own, validation)
    with torch.no_grad():
        errors = fast.to("cpu")(torch.as_tensor(grid.values[validation], dtype=torch.float32)) - real
    where = torch.as_tensor(
        grid.values[validation][:, [grid.labels.index(n) for n in grid.labels[:3]]], dtype=torch.float32
    )
    measured = _measured_errors(settings, model_grid, residuals) if residuals else None
    simulator = Simulator(
        names,
        grid.labels,
        grid.values[rows],
        fast,
        model_grid,
        observer,
        settings.disturbances,
        settings.prior,
        settings.physics,
        settings.continuum,
        spectra=_spectra(grid, own, rows).to(settings.device) if settings.real_fraction else None,
        real_fraction=settings.real_fraction,
        measured=measured,
        emulator_errors=(where.to(settings.device), errors.to(settings.device)),
        device=settings.device,
    )
    return Setup(
        settings, grid, instrument, labels, model_grid, fast, templates, residuals, used, simulator, own
    )


def architecture(settings: Config) -> Architecture:
    """The preset with the sizes that the configuration changes.

    Raises ``ConfigError`` for an unknown preset or size.
    """
    if settings.preset not in PRESETS:
        raise ConfigError(f"$.preset is {settings.preset!r}; {near(settings.preset, PRESETS)}")
    sizes = {**attrs.asdict(PRESETS[settings.preset]), **settings.architecture}
    return structure({"architecture": sizes}, _Sizes, "training configuration").architecture


def make_templates(grid: Grid, emulator: Any, model_grid: ModelGrid, instrument: Instrument) -> Templates:
    """Emulated spectra of training labels over Teff and [Fe/H], at the instrument's resolving power."""
    rows = grid.split("train")
    teff, fe_h = grid.column("teff")[rows], grid.column("fe_h")[rows]
    chosen = []
    for t in (3900, 4300, 4800, 5300, 5800, 6300, 6800, 7100):
        for m in (-2.5, -1.2, 0.0):
            chosen.append(rows[np.argmin(((teff - t) / 200) ** 2 + ((fe_h - m) / 0.2) ** 2)])
    values = torch.as_tensor(grid.values[chosen], dtype=torch.float32)
    with torch.no_grad():
        flux = emulator.to("cpu")(values)
        # rest of the way to the instrument's resolving power, and the broadening of a typical star
        flux = broaden(flux, torch.full((len(flux),), 8.0), model_grid)
    power = min(arm.resolving_power.value[0] for arm in instrument.arms)
    return Templates(model_grid.wavelength, flux.double().numpy(), dict(model_grid.arms), float(power))


def _measured_errors(settings: Config, model_grid: ModelGrid, residuals: list[Residual]) -> MeasuredErrors:
    """The calibrators' residuals as the simulator takes them."""
    wave = model_grid.wavelength

    def tensor(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=settings.device)

    kept = {
        name: torch.as_tensor((wave >= low) & (wave <= high), device=settings.device)
        for name, (low, high) in settings.masking.keep.items()
    }
    parameters = [[star.labels[name] for name in ("teff", "logg", "fe_h")] for star in settings.calibrators]
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
    """Boolean ``(n_pix,)``: inside the arms, and where models describe every calibrator."""
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


def _initial_projection(setup: Setup, encoding: Encoding, n: int) -> torch.Tensor:
    """Directions ``(n, n_used)`` that start the projection, each scaled to unit variance over model spectra.

    Three quarters are principal components of noiseless spectra. The others are the differences that a step
    in one label makes in stars of all kinds: a line as lonely as lithium's is in no leading component.
    """
    generator = torch.Generator(setup.config.device).manual_seed(99)
    simulator = setup.simulator

    def encode(flux: torch.Tensor, vbroad: torch.Tensor) -> torch.Tensor:
        spectra = simulator.observer(flux, vbroad)
        mask = simulator.outside.expand_as(spectra)
        sigma = torch.full_like(spectra, 1e-3)
        return encoding(spectra / simulator.continuum(spectra, sigma, mask)[0], sigma, mask)[0]

    with torch.no_grad():
        x = torch.cat([encode(flux, vbroad) for flux, _, vbroad in
                       (simulator.noiseless(256, generator) for _ in range(8))])  # fmt: skip
        x = x - x.mean(0)
        values, vectors = torch.linalg.eigh((x @ x.T).double())
        values, vectors = values.flip(0), vectors.flip(1)
        n_components = min(n - n // 4, len(x) - 1)
        directions = [((vectors / values.sqrt())[:, :n_components].float().T @ x)]
        names = [label for label in setup.labels.names if label in setup.grid.labels]
        for i in range(n - n_components):
            stars = simulator.labels(1, generator)[0].repeat(2, 1)
            column = setup.grid.labels.index(names[i % len(names)])
            stars[0, column] -= 0.1 * simulator.spread[column]
            stars[1, column] += 0.1 * simulator.spread[column]
            low, high = encode(simulator.emulate(stars), torch.full((2,), 5.0, device=x.device))
            directions.append(((high - low) / (high - low).norm().clamp(min=1e-12))[None])
        all_directions = torch.cat(directions)
        deviation = (x @ all_directions.T).std(0).clamp(min=0.3)
    return all_directions / deviation[:, None]


def build(setup: Setup) -> CINN:
    """An untrained estimator for the setup."""
    settings = setup.config
    sizes = architecture(settings)
    torch.manual_seed(settings.schedule.seed)
    simulator, device = setup.simulator, settings.device
    width = pixel_widths(setup.instrument.wavelength, setup.instrument.slices)
    generator = torch.Generator(device).manual_seed(7)
    sample = torch.cat([simulator.observe(flux, vbroad, generator) for flux, _, vbroad in
                        (simulator.noiseless(256, generator) for _ in range(4))])  # fmt: skip
    sigma, mask = torch.full_like(sample, 1e-3), simulator.outside.expand_as(sample)
    sample = sample / simulator.continuum(sample, sigma, mask)[0]
    pixels = torch.as_tensor(np.flatnonzero(setup.used), device=device)
    encoding = Encoding(
        pixels,
        sample.mean(0)[pixels],
        0.1,
        torch.as_tensor(width, dtype=torch.float32, device=device),
        setup.instrument.slices,
        settings.disturbances.snr,
    )
    labels = torch.cat([simulator.targets(*simulator.labels(4096, generator)) for _ in range(4)])
    network = setup.labels.to_network(labels)
    features = Features(len(pixels), encoding.n_context, sizes).to(device)
    if features.projection is not None:
        with torch.no_grad():
            start = _initial_projection(setup, encoding, sizes.projection)
            features.projection.weight[: len(start)] = start
            features.projection.bias.zero_()
    flow = make_flow(len(setup.labels), sizes.features[-1], sizes, settings.schedule.seed).to(device)
    steps: tuple[tuple[str, dict[str, Any]], ...] = (
        ("mask", {}),
        ("rest-frame", {}),
        ("to-arms", {}),
        ("continuum", {"options": attrs.asdict(settings.continuum)}),
    )
    return CINN(
        setup.labels,
        setup.instrument,
        steps,
        setup.templates,
        _header(setup),
        sizes,
        encoding,
        features,
        flow,
        center=network.mean(0),
        spread=network.std(0),
        device=device,
    )


def _header(setup: Setup) -> dict[str, Any]:
    settings, grid = setup.config, setup.grid
    return {
        "name": settings.name,
        "grid": {"hash": grid.hash, "models": len(grid), "resolving_power": grid.resolving_power,
                 "medium": grid.medium, "provenance": dict(grid.provenance)},
        "training": {
            "schedule": attrs.asdict(settings.schedule),
            "disturbances": attrs.asdict(settings.disturbances),
            "prior": attrs.asdict(settings.prior),
            "physics": attrs.asdict(settings.physics),
            "masking": attrs.asdict(settings.masking),
            "real_fraction": settings.real_fraction,
            "snr_range": list(settings.disturbances.snr),
            "pixels_used": int(setup.used.sum()),
            "calibrators": [{"name": r.name, "vbroad": round(r.vbroad, 2),
                             "rms": float(np.sqrt(np.nanmean(r.residual**2)))} for r in setup.residuals],
        },
        "versions": {"specinn": specinn.__version__, "torch": torch.__version__},
    }  # fmt: skip


def loss_terms(
    model: CINN,
    x: torch.Tensor,
    context: torch.Tensor,
    labels: torch.Tensor,
    schedule: Schedule,
    generator: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood per star ``(n,)`` in standardised label space, and the backward loss."""
    condition = model.features(x, context)
    y = (model.labels.to_network(labels) - model.center) / model.spread
    z, log_determinant = model.flow(y, c=[condition], rev=False)
    nll = 0.5 * z.square().sum(1) - log_determinant
    backward = nll.new_zeros(())
    if schedule.backward and generator is not None:
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        back, _ = model.flow(z + schedule.jitter * noise, c=[condition], rev=True, jac=False)
        backward = (back - y).square().sum(1).mean()
    return nll, backward


def train(
    config: Mapping[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None] = lambda state: None
) -> CINN:
    """Train as ``config`` says; a checkpoint in ``folder`` is taken up exactly where it was left.

    The model that comes back holds the averaged weights of the best validation, and in its header the errors
    on the test split.
    """
    setup = prepare(config)
    model = build(setup)
    if setup.config.start:
        _start_from(model, Path(setup.config.start))
    model = fit(setup, model, folder, progress)
    if setup.config.strangers.signs:
        fit_strangers(model, setup, setup.config.strangers, progress)
    if setup.grid.split("test").size:
        model.header["metrics"] = metrics_for_header(grid_metrics(model, setup.grid))
    return model


def _start_from(model: CINN, path: Path) -> None:
    """Take over weights, scaling and pixels of a trained model of the same shape, to train it further."""
    other = CINN.load(path, model.device)
    same = (other.architecture, other.labels, other.instrument) == (
        model.architecture,
        model.labels,
        model.instrument,
    )
    if not same:
        raise ConfigError(
            f"$.start: {path} differs in labels, architecture or arms, so training cannot go on from it"
        )
    model.features, model.flow, model.encoding = other.features.train(), other.flow.train(), other.encoding
    model.center, model.spread = other.center, other.spread
    for weight in (*model.features.parameters(), *model.flow.parameters()):
        weight.requires_grad_(weight.is_floating_point())


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
        disturbed, synthetic = simulator.disturb(flux, values, generator)
        observed = simulator.observe(disturbed, vbroad, generator)
        out.append((*simulator.degrade(observed, generator), synthetic, simulator.targets(values, vbroad)))
    return out


def fit(setup: Setup, model: CINN, folder: Path, progress: Callable[[dict[str, Any]], None]) -> CINN:
    """The training loop."""
    plan, device = setup.config.schedule, setup.config.device
    modules = torch.nn.ModuleDict({"features": model.features, "flow": model.flow})
    average = {k: v.clone() for k, v in modules.state_dict().items()}
    best: dict[str, Any] = {"loss": math.inf, "step": 0, "weights": average}
    optimiser = torch.optim.AdamW(modules.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    folder.mkdir(parents=True, exist_ok=True)
    of_training = {k: v for k, v in attrs.asdict(setup.config).items() if k != "strangers"}  # they come after
    checkpoint, of = (
        folder / "cinn-checkpoint.safetensors",
        fingerprint([of_training, setup.grid.hash]),
    )
    first, stale = 0, 0
    if (state := load_checkpoint(checkpoint, of)) is not None:
        modules.load_state_dict(state["modules"])
        optimiser.load_state_dict(state["optimiser"])
        average, best, first, stale = state["average"], state["best"], state["step"], state["stale"]
    validation = [(*model.encoding(*spectra[:4])[:2], spectra[4]) for spectra in validation_set(setup)]
    generator = torch.Generator(device)
    started = time.monotonic()
    for step in range(first, plan.steps):
        generator.manual_seed(plan.seed * 1_000_000_007 + step)
        *spectra, labels = setup.simulator(plan.batch // plan.repeats, plan.repeats, generator)
        x, context, _ = model.encoding(*spectra)
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step / plan.steps, plan.learning_rate, warm=0.05)
        nll, backward = loss_terms(model, x, context, labels, plan, generator)
        loss = nll.mean() + (plan.backward or 0.0) * backward
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), plan.clip)
        if not torch.isfinite(loss):
            raise ConfigError(f"the loss is not finite at step {step}: lower $.schedule.learning_rate")
        optimiser.step()
        decay = min(plan.average, (step + 1) / (step + 10))
        for key, value in modules.state_dict().items():
            if value.dtype.is_floating_point:
                average[key].lerp_(value, 1.0 - decay)
        state = {"step": step + 1, "steps": plan.steps, "loss": float(nll.mean().detach())}
        if (step + 1) % plan.validate_every == 0 or step + 1 == plan.steps:
            state["validation"] = _validate(model, modules, average, validation, plan)
            if state["validation"] < best["loss"]:
                best = {
                    "loss": state["validation"],
                    "step": step + 1,
                    "weights": {k: v.clone() for k, v in average.items()},
                }
                stale = 0
            else:
                stale += 1
            whole = {
                "modules": modules.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average,
                "best": best,
                "step": step + 1,
                "stale": stale,
            }
            save_checkpoint(checkpoint, whole, of)
        progress(state)
        if stale >= plan.patience:
            break
    modules.load_state_dict(best["weights"])
    modules.requires_grad_(False).eval()
    if model.features.projection is not None:  # as it is saved, so that the model is the one in the file
        weight = model.features.projection.weight
        weight.copy_(weight.half())
    model.header["training"] |= {"best_step": best["step"], "validation_loss": best["loss"],
                                 "seconds": round(time.monotonic() - started)}  # fmt: skip
    return model


@torch.no_grad()
def _validate(
    model: CINN, modules: Any, average: dict[str, torch.Tensor], batches: list[Any], plan: Schedule
) -> float:
    """Mean loss of the averaged weights."""
    kept = {k: v.clone() for k, v in modules.state_dict().items()}
    modules.load_state_dict(average)
    losses = [loss_terms(model, x, context, labels, plan)[0] for x, context, labels in batches]
    modules.load_state_dict(kept)
    return float(torch.cat(losses).clamp(max=100.0).mean())
