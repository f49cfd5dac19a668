"""Training of the flow: spectra of a grid, observed anew in every epoch."""

from pathlib import Path

import attrs
import numpy as np
import torch

import specinn
from specinn.config import structure
from specinn.errors import ConfigError
from specinn.grids import load
from specinn.instruments import Instrument
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.plugins.interfaces import Templates
from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.observer import ModelGrid, Observer
from specinn.spectra import SpectrumBatch
from specinn.training.checkpoint import fingerprint, load_checkpoint, one_cycle, save_checkpoint
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


class Simulator:
    """Observations of the spectra of a grid, as the estimator will be given them."""

    def __init__(self, settings: Config, plugins: Plugins):
        self.settings = settings
        self.grid = load([Path(path) for path in settings.grid], plugins=plugins)
        self.instrument = Instrument.from_toml(plugins.record("instrument", settings.instrument).toml)
        self.model_grid = ModelGrid.of(self.instrument, self.grid.wavelength, self.grid.arms)
        self.operator = self.model_grid.operator(
            self.grid.wavelength, self.grid.arms, self.grid.resolving_power
        )
        self.observer = Observer(self.instrument, self.model_grid)
        plan = Disturbances(snr=settings.snr, velocity=settings.velocity, gaps=1, arm_loss=0.0)
        self.noise = Noise(self.instrument, plan)
        names = [name for name, _ in STEPS]
        self.steps = [
            plugins.load("preprocessor", name)(instrument=self.instrument, templates=None, **options)
            for name, options in STEPS[names.index("to-arms") + 1 :]
        ]

    def model_flux(self, rows):
        """``(n_rows, n_model)`` spectra of the grid on the model grid."""
        return torch.as_tensor((self.operator @ self.grid.flux(rows).T).T, dtype=torch.float32)

    def __call__(self, flux, seed, snr=None):
        """A batch of preprocessed observations of ``flux (n, n_model)``, at random S/N unless it is given."""
        generator = torch.Generator().manual_seed(seed)
        n = len(flux)
        low, high = np.log(self.settings.vbroad)
        vbroad = (low + (high - low) * torch.rand(n, generator=generator)).exp()
        velocity = self.settings.velocity * torch.randn(n, generator=generator)
        noisy, sigma, mask, _ = self.noise(
            self.observer(flux, vbroad, velocity), generator, None if snr is None else torch.full((n, 1), snr)
        )
        batch = SpectrumBatch.from_arrays(
            self.instrument.wavelength,
            noisy.numpy(),
            sigma.numpy(),
            (mask | ~torch.as_tensor(self.observer.inside)).numpy(),
            medium=self.instrument.medium,
            arms=self.instrument.slices,
        )
        for step in self.steps:
            batch = step(batch)
        return batch


def train(kind, config, folder, progress):
    settings = structure(config, Config, "[estimator]")
    plugins = Plugins()
    simulator = Simulator(settings, plugins)
    grid, rows = simulator.grid, simulator.grid.split("train")
    if settings.components >= len(rows):
        raise ConfigError(
            f"[estimator]: $.components is {settings.components}, the grid trains on {len(rows)} spectra"
        )
    flux = simulator.model_flux(rows)
    values = np.stack([grid.column(name)[rows] for name in settings.labels], axis=1)
    labels = LabelSet(
        make_label(name, (grid.column(name).min(), grid.column(name).max())) for name in settings.labels
    )
    torch.manual_seed(settings.seed)
    model = prepared(kind, settings, simulator, labels, values, flux)
    fit(model, simulator, values, flux, Path(folder), progress)
    return model


def prepared(kind: type[SplineFlow], settings, simulator, labels, values, flux):
    """The untrained estimator, with principal components of observations that have little noise."""
    batch = simulator(flux, settings.seed, snr=1000.0)
    spectra = torch.as_tensor(np.where(batch.mask, np.nan, batch.flux), dtype=torch.float32)
    mean = spectra.nanmean(dim=0).nan_to_num(1.0)
    off = (spectra - mean).nan_to_num(0.0)
    _, _, basis = torch.pca_lowrank(off, settings.components, center=False)
    network = torch.as_tensor(labels.to_network(values), dtype=torch.float32)
    tensors = {"mean": mean, "basis": basis.T.contiguous(), "scale": (off @ basis).std(dim=0),
               "center": network.mean(dim=0), "spread": network.std(dim=0)}  # fmt: skip
    grid, model_grid = simulator.grid, simulator.model_grid
    chosen = flux[:: max(1, len(flux) // 12)]
    power = float(model_grid.resolving_power.mean())
    templates = Templates(model_grid.wavelength, chosen.double().numpy(), dict(model_grid.arms), power)
    header = {
        "name": settings.name,
        "grid": {"hash": grid.hash, "models": len(grid), "provenance": dict(grid.provenance)},
        "training": {**attrs.asdict(settings), "snr_range": list(settings.snr)},
        "versions": {"specinn": specinn.__version__, "torch": torch.__version__},
    }
    return kind.untrained(labels, simulator.instrument, STEPS, templates, header, tensors)


def fit(model, simulator, values, flux, folder, progress):
    """Maximum likelihood; a checkpoint after every epoch, from which an interrupted training goes on."""
    settings, network = simulator.settings, model.network
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    checkpoint, of = (
        folder / "spline-flow.safetensors",
        fingerprint([attrs.asdict(settings), simulator.grid.hash]),
    )
    first = 0
    if (state := load_checkpoint(checkpoint, of)) is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]
    targets = model.standardised(values)
    steps = -(-len(flux) // settings.batch)
    for epoch in range(first, settings.epochs):
        inputs = model.features(simulator(flux, settings.seed + 1 + epoch))
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
