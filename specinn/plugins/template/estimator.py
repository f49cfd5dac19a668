"""Labels by ridge regression on the flux of all pixels; their error is the scatter of left-out spectra."""

from pathlib import Path

import attrs
import numpy as np

from specinn.plugins import (
    Disturbances,
    Estimator,
    Instrument,
    LabelSet,
    ModelError,
    Plugins,
    Posterior,
    Templates,
    TrainingSpectra,
    load_grid,
    make_label,
    open_model,
    save_model,
    structure,
)

# what spectra pass before ``sample``
STEPS: tuple[tuple[str, dict], ...] = (("mask", {}), ("rest-frame", {}), ("to-arms", {}), ("continuum", {}))


@attrs.frozen
class Config:
    """The table [estimator] of a training recipe; ``snr`` is per Angstrom, no ``arms`` are all."""

    name: str
    grid: list[str]
    instrument: str
    labels: list[str]
    arms: list[str] = attrs.field(factory=list)
    snr: float = 300.0
    seed: int = 0


@attrs.define(eq=False)
class Ridge(Estimator):
    """``tensors``: ``mean (n_pix,)``, ``weights (n_pix, n_labels)``, ``centre (n_labels,)`` and the Cholesky
    factor ``scatter (n_labels, n_labels)`` of the covariance, all for labels in network units."""

    labels: LabelSet
    instrument: Instrument
    preprocessing: tuple
    templates: Templates
    header: dict
    tensors: dict

    def centre(self, batch):
        """Mean of the labels ``(n_spec, n_labels)`` in network units."""
        if batch.flux.shape[1] != len(self.tensors["mean"]):
            raise ModelError(
                f"the batch has {batch.flux.shape[1]} pixels: pass it through the preprocessing first"
            )
        off = np.where(batch.mask, 0.0, batch.flux - self.tensors["mean"])
        return np.stack([row @ self.tensors["weights"] for row in off]) + self.tensors["centre"]

    def sample(self, batch, n_samples, seed):
        keys = batch.meta["key"] if "key" in batch.meta.colnames else range(len(batch))
        z = [
            np.random.default_rng([seed, int(key)]).normal(size=(n_samples, len(self.labels))) for key in keys
        ]
        y = self.centre(batch)[:, None] + np.stack(z) @ self.tensors["scatter"].T
        samples = self.labels.from_network(y)
        return Posterior(self.labels, samples, self.log_prob(batch, samples))

    def to_latent(self, batch, labels):
        off = self.labels.to_network(labels) - self.centre(batch)[:, None]
        return off @ np.linalg.inv(self.tensors["scatter"]).T

    def log_prob(self, batch, labels):
        volume = np.log(np.diag(self.tensors["scatter"])).sum()
        z = self.to_latent(batch, labels)
        return -0.5 * (z**2).sum(axis=-1) - 0.5 * len(self.labels) * np.log(2 * np.pi) - volume

    def save(self, path):
        save_model(path, self, "plugin-name", self.tensors)

    @classmethod
    def load(cls, path, device="cpu"):
        with open_model(path) as m:
            tensors = {name: tensor.numpy() for name, tensor in m.tensors.items()}
            return cls(m.labels, m.instrument, m.preprocessing, m.templates, m.header, tensors)


def train(config, folder, progress):
    """What ``specinn train`` calls. It is one step, so there is nothing to keep in ``folder``."""
    settings = structure(config, Config, "[estimator]")
    plugins = Plugins()
    grid = load_grid([Path(path) for path in settings.grid], plugins=plugins)
    instrument = plugins.instrument(settings.instrument)
    instrument = instrument.select(settings.arms) if settings.arms else instrument
    model = fit(settings, grid, instrument, plugins)
    progress({"step": 1, "steps": 1})
    return model


def fit(settings, grid, instrument, plugins):
    """The regression, on spectra observed once each."""
    rows = grid.split("train")
    plan = Disturbances(velocity=0.0, resolution=0.0, tilt=0.0, wave=0.0, gaps=0, arm_loss=0.0)
    spectra = TrainingSpectra(grid, instrument, STEPS, plugins, disturbances=plan, vbroad=None)
    seen = spectra(spectra.model_flux(rows), settings.seed, settings.snr)
    flux = np.where(seen.mask, 1.0, seen.flux)
    noise = seen.sigma[~seen.mask].mean()
    values = np.stack([grid.column(name)[rows] for name in settings.labels], axis=1)
    labels = LabelSet(
        make_label(n, (v.min(), v.max())) for n, v in zip(settings.labels, values.T, strict=True)
    )
    y = labels.to_network(values)
    x, off = flux - flux.mean(axis=0), y - y.mean(axis=0)
    kernel = x @ x.T
    inverse = np.linalg.inv(kernel + noise**2 * x.shape[1] * np.eye(len(x)))
    hat = np.diag(kernel @ inverse)[:, None]
    left_out = (off - kernel @ inverse @ off) / (1 - hat)  # residuals of spectra that were left out
    scatter = np.linalg.cholesky(left_out.T @ left_out / len(x) + 1e-12 * np.eye(len(labels)))
    tensors = {"mean": flux.mean(axis=0), "weights": x.T @ inverse @ off, "centre": y.mean(axis=0)}
    header = {"name": settings.name, "grid": {"models": len(grid), "provenance": dict(grid.provenance)},
              "training": {"seed": settings.seed}}  # fmt: skip
    templates = spectra.templates(rows[::10])
    return Ridge(labels, instrument, STEPS, templates, header, tensors | {"scatter": scatter})
