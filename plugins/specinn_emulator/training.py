"""Training of the emulator from a grid, and its error on spectra that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

import specinn
from specinn.config import structure
from specinn.errors import ConfigError
from specinn.evaluation.emulation import compare, metrics
from specinn.grids import Grid, load
from specinn.training.checkpoint import fingerprint, load_checkpoint, one_cycle, save_checkpoint

from .emulator import CoefficientNetwork, Emulator, blocks_of
from .former import Former
from .labels import features
from .process import ProcessEmulator, inputs
from .process_training import ProcessConfig, fit_windows, standardised

_FLOOR = 1e-6  # mean squared flux error below which a star needs no more attention: (1e-3)^2


@attrs.frozen
class NetworkConfig:
    """``arm_components``: principal components for each arm, in place of ``components`` for all together."""

    components: int = 216
    arm_components: dict[str, int] = attrs.field(factory=dict)
    width: int = 400
    depth: int = 3
    members: int = 2


@attrs.frozen
class TrainingConfig:
    epochs: int = 1500
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0


@attrs.frozen
class Config:
    """The TOML of an emulator: ``grid`` is a list of files or folders, ``splits`` of which it learns from;
    either ``process``, of windows, or sizes and schedule of a network."""

    grid: list[str]
    splits: tuple[str, ...] = ("train",)
    process: ProcessConfig | None = None
    network: NetworkConfig = attrs.field(factory=NetworkConfig)
    training: TrainingConfig = attrs.field(factory=TrainingConfig)


def train(
    config: Mapping[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None] = lambda state: None
) -> Any:
    """Train on the grid's training split: ``ProcessEmulator`` with a table ``process``, else ``Emulator``.

    Checkpoints in ``folder`` let an interrupted training resume. The header of the result carries the errors
    on the first split that is left of test and validation (see :func:`specinn.evaluation.emulation.metrics`).
    """
    settings = structure(dict(config), Config, "emulator configuration")
    grid = load([Path(p) for p in settings.grid])
    rows = np.sort(np.concatenate([grid.split(name) for name in settings.splits] or [np.empty(0, int)]))
    unseen = next((name for name in ("test", "validation") if name not in settings.splits), None)
    if not len(rows) or len(set(settings.splits)) < len(settings.splits) or unseen is None:
        raise ConfigError(
            f"$.splits is {list(settings.splits)}: expected train, and test where others serve as a test"
        )
    if "fe_h" not in grid.labels or not len(grid.split(unseen)):
        raise ConfigError(
            f"the grid has {len(grid)} models with the labels {', '.join(grid.labels)}: training needs fe_h "
            "among them, and enough models to keep some for the test"
        )
    about = {
        "grid": {"hash": grid.hash, "models": len(grid), "provenance": dict(grid.provenance)},
        "versions": {"specinn": specinn.__version__, "torch": torch.__version__},
    }
    emulator: Emulator | ProcessEmulator
    if settings.process is not None:
        emulator = _process(grid, rows, settings.process, about, folder, progress)
    else:
        emulator = _network(grid, rows, settings, about, folder, progress)
    emulator.header["metrics"] = metrics(compare(emulator, grid, split=unseen))
    return emulator


def _process(
    grid: Grid,
    rows: np.ndarray,
    plan: ProcessConfig,
    about: Mapping[str, Any],
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
) -> ProcessEmulator:
    raw = inputs(torch.as_tensor(grid.values[rows]).double(), grid.labels)
    bounds = np.stack([grid.values.min(0), grid.values.max(0)], axis=1)
    former = Former.of(plan.former, grid, rows) if plan.former else None
    if former is not None:
        raw = torch.cat([raw, former.inputs])
        theirs = former.emulator
        bounds[:, 0] = np.minimum(bounds[:, 0], theirs.bounds[:, 0])
        bounds[:, 1] = np.maximum(bounds[:, 1], theirs.bounds[:, 1])
        about = {**about, "former": {"stars": len(former.inputs), "grid": theirs.header.get("grid", {})}}
    stars, center, spread = standardised(raw)
    return ProcessEmulator(
        labels=grid.labels,
        bounds=bounds,
        wavelength=grid.wavelength,
        arms=dict(grid.arms),
        resolving_power=grid.resolving_power,
        medium=grid.medium,
        center=center,
        spread=spread,
        stars=stars,
        windows=fit_windows(grid, rows, stars, plan, folder, progress, former),
        header={**about, "process": attrs.asdict(plan)},
    )


def _network(
    grid: Grid,
    rows: np.ndarray,
    settings: Config,
    about: Mapping[str, Any],
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
) -> Emulator:
    blocks = _blocks(grid, settings.network, len(rows))
    torch.manual_seed(settings.training.seed)
    mean, basis, coefficients = _components(grid, rows, blocks)
    scale = coefficients.std(0)

    values = torch.as_tensor(grid.values[rows], dtype=torch.float32)
    raw = features(values, grid.labels)
    center, spread = raw.mean(0), raw.std(0)
    spread = torch.where(spread > 0, spread, 1.0)  # of a label with one value throughout
    x, target = (raw - center) / spread, coefficients / scale
    weight = torch.cat([scale[rows] ** 2 / (pixels.stop - pixels.start) for rows, pixels in blocks])
    network = _fit(x, target, weight, blocks, settings, grid.hash, folder, progress)

    return Emulator(
        labels=grid.labels,
        bounds=np.stack([grid.values.min(0), grid.values.max(0)], axis=1),
        wavelength=grid.wavelength,
        arms=dict(grid.arms),
        resolving_power=grid.resolving_power,
        medium=grid.medium,
        network=network.requires_grad_(False).eval(),
        center=center,
        spread=spread,
        mean=mean,
        basis=basis,
        scale=scale,
        blocks=blocks,
        header={
            **({"components": settings.network.arm_components} if len(blocks) > 1 else {}),
            "network": {
                "n_labels": len(grid.labels),
                "n_components": scale.numel(),
                "width": settings.network.width,
                "depth": settings.network.depth,
                "members": settings.network.members,
            },
            "training": attrs.asdict(settings.training),
            **about,
        },
    )


Blocks = tuple[tuple[slice, slice], ...]


def _blocks(grid: Grid, sizes: NetworkConfig, n: int) -> Blocks:
    """Coefficients and pixels that belong together: those of an arm, or all."""
    if sizes.arm_components and set(sizes.arm_components) != set(grid.arms):
        raise ConfigError(
            f"$.network.arm_components has {', '.join(sizes.arm_components)}: the arms of the grid are "
            f"{', '.join(grid.arms)}"
        )
    by_arm = [
        (f"arm_components.{name}", sizes.arm_components[name]) for name in grid.arms if sizes.arm_components
    ]
    components = by_arm or [("components", sizes.components)]
    for key, value in components:
        if not 0 < value < n:
            raise ConfigError(
                f"$.network.{key} is {value}: the grid has only {n} training spectra, choose fewer, "
                "at least 1"
            )
    pixels = [arm.stop - arm.start for arm in grid.arms.values()] if by_arm else [grid.wavelength.size]
    return blocks_of([value for _, value in components], pixels)


def _components(
    grid: Grid, rows: np.ndarray, blocks: Blocks
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean ``(n_pix,)``, leading principal components of each block, in the first rows of its pixels, and
    coefficients ``(n_rows, n_components)`` of all blocks."""
    flux = torch.as_tensor(grid.flux(rows))
    mean = flux.mean(0)
    flux -= mean
    basis = torch.zeros(max(own.stop - own.start for own, _ in blocks), mean.numel())
    coefficients = []
    for own, pixels in blocks:
        part, n = flux[:, pixels], own.stop - own.start
        values, vectors = torch.linalg.eigh((part @ part.T).double())
        values, vectors = values.flip(0)[:n], vectors.flip(1)[:, :n]
        basis[:n, pixels] = (vectors / values.sqrt()).float().T @ part
        coefficients.append(part @ basis[:n, pixels].T)
    return mean, basis, torch.cat(coefficients, dim=1)


def _fit(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    blocks: Blocks,
    settings: Config,
    of_grid: str,
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
) -> CoefficientNetwork:
    """Minimise the mean over stars and blocks of the log of the mean squared flux error: every star has the
    same weight, while the sum of squares would favour cool giants."""
    sizes, plan = settings.network, settings.training
    network = CoefficientNetwork(x.shape[1], target.shape[1], sizes.width, sizes.depth, sizes.members)
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    batch = min(plan.batch, len(x))
    steps = len(x) // batch
    checkpoint = folder / "emulator-checkpoint.safetensors"
    of = fingerprint([attrs.asdict(settings), of_grid])
    first = 0
    if (state := load_checkpoint(checkpoint, of)) is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]
    for epoch in range(first, plan.epochs):
        shuffle = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
        total = 0.0
        for i, part in enumerate(
            torch.randperm(len(x), generator=shuffle)[: steps * batch].view(steps, batch)
        ):
            rate = one_cycle((epoch + i / steps) / plan.epochs, plan.learning_rate)
            for group in optimiser.param_groups:
                group["lr"] = rate
            squares = torch.stack([(m(x[part]) - target[part]) ** 2 * weight for m in network.members])
            error = torch.stack([squares[..., rows].sum(-1) for rows, _ in blocks])
            loss = torch.log(error + _FLOOR).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise ConfigError(f"the loss is not finite in epoch {epoch}: lower $.training.learning_rate")
        progress({"step": epoch + 1, "steps": plan.epochs, "loss": total / steps})
        if (epoch + 1) % 100 == 0:
            save_checkpoint(checkpoint, {"network": network.state_dict(), "optimiser": optimiser.state_dict(),
                                         "epoch": epoch + 1}, of)  # fmt: skip
    return network
