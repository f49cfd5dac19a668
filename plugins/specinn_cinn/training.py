"""Training: spectra are simulated on the fly, so no epoch sees the same spectrum twice."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

import specinn
from specinn.errors import ConfigError
from specinn.evaluation.comparison import grid_metrics
from specinn.evaluation.metrics import metrics_for_header
from specinn.spectra.resample import pixel_widths
from specinn.training.checkpoint import fingerprint, load_checkpoint, one_cycle, save_checkpoint

from .encoding import Encoding
from .estimator import CINN
from .network import Features, make_flow
from .ood_fit import fit_ood_signs
from .projection import start_projection
from .recipe import Filters, Schedule, architecture
from .setup import Setup, prepare, validation_set


def train(
    config: Mapping[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None] = lambda state: None
) -> CINN:
    """Train according to ``config``; a checkpoint in ``folder`` is resumed exactly where it stopped.

    The returned model holds the averaged weights of the best validation, and in its header the errors
    on the test split.
    """
    setup = prepare(config)
    model = build(setup, filters=not setup.config.start and not _checkpoint(folder).exists())
    if setup.config.start:
        _start_from(model, Path(setup.config.start))
    model = fit(setup, model, folder, progress)
    if setup.config.ood.signs:
        fit_ood_signs(model, setup, setup.config.ood, progress)
    if setup.grid.split("test").size:
        model.header["metrics"] = metrics_for_header(grid_metrics(model, setup.grid))
    return model


def build(setup: Setup, *, filters: bool = True) -> CINN:
    """An untrained estimator for the setup; without ``filters``, which take minutes, where its weights will
    be replaced."""
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
    center, spread = network.mean(0), network.std(0)
    features = Features(len(pixels), encoding.n_context, sizes).to(device)
    if filters and features.projection is not None:
        with torch.no_grad():
            weight, bias = start_projection(setup, encoding, sizes.projection, center, spread)
            features.projection.weight[: len(weight)] = weight
            features.projection.bias.zero_()[: len(bias)] = bias
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
        center=center,
        spread=spread,
        device=device,
    )


def _header(setup: Setup) -> dict[str, Any]:
    settings, grid = setup.config, setup.grid
    bundled = settings.emulator if not Path(settings.emulator).suffix else ""
    return {
        "name": settings.name,
        **({"emulator": bundled} if bundled else {}),
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
            "reference_stars": [{"name": r.name, "vbroad": round(r.vbroad, 2),
                             "rms": float(np.sqrt(np.nanmean(r.residual**2)))} for r in setup.residuals],
        },
        "versions": {"specinn": specinn.__version__, "torch": torch.__version__},
    }  # fmt: skip


def _start_from(model: CINN, path: Path) -> None:
    """Take over weights, scaling and pixels of a trained model of the same shape, to train it further; how it
    was trained is kept as ``stages`` of the training."""
    other = CINN.load(path, model.device)
    same = (other.architecture, other.labels, other.instrument) == (
        model.architecture,
        model.labels,
        model.instrument,
    )
    if not same:
        raise ConfigError(
            f"$.start: {path} differs in labels (or their bounds, which hang on prior and seed), "
            "architecture or arms, so training cannot start from it"
        )
    model.features, model.flow, model.encoding = other.features.train(), other.flow.train(), other.encoding
    model.center, model.spread, model.labels = other.center, other.spread, other.labels
    before = dict(other.header.get("training", {}))
    model.header["training"]["stages"] = [*before.pop("stages", []), before]
    model.header["training"]["pixels_used"] = len(model.encoding.pixels)
    for weight in (*model.features.parameters(), *model.flow.parameters()):
        weight.requires_grad_(weight.is_floating_point())


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


@attrs.define(eq=False)
class _State:
    """What training carries from step to step, and a checkpoint from process to process.

    ``average`` is the running mean of the weights; ``best`` holds that of the best validation with its
    ``loss`` and ``step``. ``stale`` validations in a row brought no gain.
    """

    modules: torch.nn.ModuleDict
    optimiser: torch.optim.Optimizer
    average: dict[str, torch.Tensor]
    best: dict[str, Any]
    step: int = 0
    stale: int = 0

    @classmethod
    def start(cls, model: CINN, plan: Schedule, filters: Filters) -> _State:
        modules = torch.nn.ModuleDict({"features": model.features, "flow": model.flow})
        average = {k: v.clone() for k, v in modules.state_dict().items()}
        projection = model.features.projection
        slow = [] if projection is None else list(projection.parameters())
        others = [w for w in modules.parameters() if all(w is not other for other in slow)]
        groups = [{"params": others, "rate": 1.0}, {"params": slow, "rate": filters.rate}]
        optimiser = torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=plan.weight_decay)
        return cls(modules, optimiser, average, {"loss": math.inf, "step": 0, "weights": average})

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue where the checkpoint was left."""
        self.modules.load_state_dict(saved["modules"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.average, self.best = saved["average"], saved["best"]
        self.step, self.stale = saved["step"], saved["stale"]

    def saved(self) -> dict[str, Any]:
        """What :meth:`restore` takes."""
        return {
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "best": self.best,
            "step": self.step,
            "stale": self.stale,
        }

    def descend(self, loss: torch.Tensor, plan: Schedule) -> None:
        """One step of the optimiser, and of the running mean. Raises ``ConfigError``."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * one_cycle(self.step / plan.steps, plan.learning_rate, warm=0.05)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), plan.clip)
        if not torch.isfinite(loss):
            raise ConfigError(f"the loss is not finite at step {self.step}: lower $.schedule.learning_rate")
        self.optimiser.step()
        self.step += 1
        decay = min(plan.average, self.step / (self.step + 9))
        for key, value in self.modules.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[key].lerp_(value, 1.0 - decay)

    def judge(self, loss: float) -> None:
        """Keep the running mean, whose validation gave ``loss``, if it is the best so far."""
        if loss < self.best["loss"]:
            weights = {k: v.clone() for k, v in self.average.items()}
            self.best, self.stale = {"loss": loss, "step": self.step, "weights": weights}, 0
        else:
            self.stale += 1


def fit(setup: Setup, model: CINN, folder: Path, progress: Callable[[dict[str, Any]], None]) -> CINN:
    """The training loop."""
    plan = setup.config.schedule
    state = _State.start(model, plan, setup.config.filters)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint(folder)
    of_training = {k: v for k, v in attrs.asdict(setup.config).items() if k != "ood"}  # which comes after
    of_training["calibrators"] = of_training.pop("reference_stars")  # as when checkpoints began
    of_training["schedule"].pop("workers")
    of = fingerprint([of_training, setup.grid.hash])
    if (saved := load_checkpoint(checkpoint, of)) is not None:
        state.restore(saved)
    validation = [(*model.encoding(*spectra[:4])[:2], spectra[4]) for spectra in validation_set(setup)]
    started = time.monotonic()
    batches = _batches(setup, model, range(state.step, plan.steps))
    for x, context, labels, generator in batches:
        nll, backward = loss_terms(model, x, context, labels, plan, generator)
        loss = nll.mean()
        state.descend(loss + (plan.backward or 0.0) * backward, plan)
        seen = {"step": state.step, "steps": plan.steps, "loss": float(loss.detach())}
        if state.step % plan.validate_every == 0 or state.step == plan.steps:
            seen["validation"] = _validate(model, state.modules, state.average, validation, plan)
            state.judge(seen["validation"])
            save_checkpoint(checkpoint, state.saved(), of)
        progress(seen)
        if state.stale >= plan.patience:
            break
    _finish(model, state)
    model.header["training"] |= {"best_step": state.best["step"], "validation_loss": state.best["loss"],
                                 "seconds": round(time.monotonic() - started)}  # fmt: skip
    return model


def _checkpoint(folder: Path) -> Path:
    return folder / "cinn-checkpoint.safetensors"


def _batches(setup: Setup, model: CINN, steps: range) -> Iterator[tuple[Any, ...]]:
    """Of every step: encoded spectra, their labels, and the generator that made them. Some are made ahead."""
    plan = setup.config.schedule

    def make(step: int) -> tuple[Any, ...]:
        generator = torch.Generator(setup.config.device).manual_seed(plan.seed * 1_000_000_007 + step)
        *spectra, labels = setup.simulator(plan.batch // plan.repeats, plan.repeats, generator)
        return *model.encoding(*spectra)[:2], labels, generator

    pool = ThreadPoolExecutor(plan.workers)
    try:
        ahead = deque(pool.submit(make, step) for step in steps[: plan.workers])
        for step in range(steps.start + plan.workers, steps.stop + plan.workers):
            batch = ahead.popleft().result()
            if step < steps.stop:
                ahead.append(pool.submit(make, step))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(model: CINN, state: _State) -> None:
    """Give the model the best weights, as they are saved."""
    state.modules.load_state_dict(state.best["weights"])
    state.modules.requires_grad_(False).eval()
    if model.features.projection is not None:  # in half precision, so that it is the model in the file
        weight = model.features.projection.weight
        weight.copy_(weight.half())


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
