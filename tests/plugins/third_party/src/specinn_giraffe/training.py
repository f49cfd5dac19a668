"""Training of the flow: spectra of a grid, observed anew in every epoch."""

from pathlib import Path

import attrs
import numpy as np
import torch

import specinn
from specinn.plugins import (
    ConfigError,
    Disturbances,
    LabelSet,
    Plugins,
    TrainingSpectra,
    fingerprint,
    load_checkpoint,
    load_grid,
    make_label,
    one_cycle,
    save_checkpoint,
    structure,
)
from specinn_giraffe.flow import STEPS, SplineFlow


@attrs.frozen
class Config:
    """The table [estimator] of a recipe. S/N is per Angstrom, vbroad and velocity in km/s."""

    name: str
    grid: list[str]
    instrument: str = "giraffe-hr10"
    labels: list[str] = attrs.field(factory=lambda: ["teff", "logg", "fe_h"])
    snr: tuple[float, float] = (20.0, 300.0)
    vbroad: tuple[float, float] = (1.0, 20.0)
    velocity: float = 0.5
    components: int = 24
    epochs: int = 40
    batch: int = 32
    learning_rate: float = 2e-3
    seed: int = 0


def train(config, folder, progress):
    settings = structure(config, Config, "[estimator]")
    plugins = Plugins()
    grid = load_grid([Path(path) for path in settings.grid], plugins=plugins)
    plan = Disturbances(snr=settings.snr, velocity=settings.velocity, gaps=1, arm_loss=0.0)
    spectra = TrainingSpectra(
        grid,
        plugins.instrument(settings.instrument),
        STEPS,
        plugins,
        disturbances=plan,
        vbroad=settings.vbroad,
    )
    rows = grid.split("train")
    if settings.components >= len(rows):
        raise ConfigError(
            f"[estimator]: $.components is {settings.components}, the grid trains on {len(rows)} spectra"
        )
    flux = spectra.model_flux(rows)
    values = np.stack([grid.column(name)[rows] for name in settings.labels], axis=1)
    labels = LabelSet(
        make_label(name, (grid.column(name).min(), grid.column(name).max())) for name in settings.labels
    )
    torch.manual_seed(settings.seed)
    model = prepared(settings, spectra, labels, values, flux)
    fit(model, settings, spectra, values, flux, Path(folder), progress)
    return model


def prepared(settings, simulated, labels, values, flux):
    """The untrained estimator, with principal components of observations that have little noise."""
    batch = simulated(flux, settings.seed, snr=1000.0)
    spectra = torch.as_tensor(np.where(batch.mask, np.nan, batch.flux), dtype=torch.float32)
    mean = spectra.nanmean(dim=0).nan_to_num(1.0)
    off = (spectra - mean).nan_to_num(0.0)
    _, _, basis = torch.pca_lowrank(off, settings.components, center=False)
    network = torch.as_tensor(labels.to_network(values), dtype=torch.float32)
    tensors = {"mean": mean, "basis": basis.T.contiguous(), "scale": (off @ basis).std(dim=0),
               "center": network.mean(dim=0), "spread": network.std(dim=0)}  # fmt: skip
    grid = simulated.grid
    templates = simulated.templates(grid.split("train")[:: max(1, len(flux) // 12)])
    header = {
        "name": settings.name,
        "grid": {"hash": grid.hash, "models": len(grid), "provenance": dict(grid.provenance)},
        "training": {**attrs.asdict(settings), "snr_range": list(settings.snr)},
        "versions": {"specinn": specinn.__version__, "torch": torch.__version__},
    }
    return SplineFlow.untrained(labels, simulated.instrument, STEPS, templates, header, tensors)


def fit(model, settings, spectra, values, flux, folder, progress):
    """Maximum likelihood; a checkpoint after every epoch, from which an interrupted training goes on."""
    network = model.network
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    checkpoint, of = (
        folder / "spline-flow.safetensors",
        fingerprint([attrs.asdict(settings), spectra.grid.hash]),
    )
    first = 0
    if (state := load_checkpoint(checkpoint, of)) is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]
    targets = model.standardised(values)
    steps = -(-len(flux) // settings.batch)
    for epoch in range(first, settings.epochs):
        inputs = model.features(spectra(flux, settings.seed + 1 + epoch))
        order = torch.randperm(len(flux), generator=torch.Generator().manual_seed(settings.seed + epoch))
        for i, chosen in enumerate(order.split(settings.batch)):
            done = (epoch + i / steps) / settings.epochs
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(done, settings.learning_rate)
            loss = -network(inputs[chosen]).log_prob(targets[chosen]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1}
        save_checkpoint(checkpoint, state, of)
        progress({"epoch": epoch + 1, "epochs": settings.epochs, "loss": float(loss.detach())})
    network.requires_grad_(False).eval()
