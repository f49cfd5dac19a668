"""Labels by ridge regression on the flux of all pixels; their error is the scatter of spectra left out."""

from pathlib import Path

import attrs
import numpy as np
import torch

from specinn.config import structure
from specinn.errors import ModelError
from specinn.grids import load
from specinn.instruments import Instrument
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.plugins.interfaces import Estimator, Templates
from specinn.posterior import Posterior
from specinn.simulation.observer import ModelGrid, Observer
from specinn.spectra import SpectrumBatch
from specinn.weights import load_weights, save_weights

# what spectra pass before ``sample``
STEPS: tuple[tuple[str, dict], ...] = (("mask", {}), ("rest-frame", {}), ("to-arms", {}), ("continuum", {}))


@attrs.frozen
class Config:
    """The table [estimator] of a training recipe; ``noise`` is that of a pixel, no ``arms`` are all."""

    name: str
    grid: list[str]
    instrument: str
    labels: list[str]
    arms: list[str] = attrs.field(factory=list)
    noise: float = 0.01
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

    @classmethod
    def train(cls, config, folder, progress):
        settings = structure(config, Config, "[estimator]")
        plugins = Plugins()
        grid = load([Path(path) for path in settings.grid], plugins=plugins)
        instrument = Instrument.from_toml(plugins.record("instrument", settings.instrument).toml)
        instrument = instrument.select(settings.arms) if settings.arms else instrument
        return cls.fitted(settings, grid, instrument, progress)

    @classmethod
    def fitted(cls, settings, grid, instrument, progress=lambda state: None):
        """One step, so there is nothing to keep for an interrupted training."""
        rows = grid.split("train")
        model_grid = ModelGrid.of(instrument, grid.wavelength, grid.arms)
        operator = model_grid.operator(grid.wavelength, grid.arms, grid.resolving_power)
        model_flux = (operator @ grid.flux(rows).T).T
        still = torch.zeros(len(rows))
        observer = Observer(instrument, model_grid)
        flux = observer(torch.as_tensor(model_flux, dtype=torch.float32), still).double().numpy()
        flux += settings.noise * np.random.default_rng(settings.seed).normal(size=flux.shape)
        seen = SpectrumBatch.from_arrays(
            instrument.wavelength,
            flux,
            np.full(flux.shape, settings.noise),
            np.tile(~observer.inside, (len(rows), 1)),
            arms=instrument.slices,
        )
        for name, options in STEPS[3:]:  # those that follow to-arms, as spectra of stars pass them
            step = Plugins().load("preprocessor", name)
            seen = step(instrument=instrument, templates=None, **options)(seen)
        flux = np.where(seen.mask, 1.0, seen.flux)
        values = np.stack([grid.column(name)[rows] for name in settings.labels], axis=1)
        labels = LabelSet(
            make_label(n, (v.min(), v.max())) for n, v in zip(settings.labels, values.T, strict=True)
        )
        y = labels.to_network(values)
        x, off = flux - flux.mean(axis=0), y - y.mean(axis=0)
        kernel = x @ x.T
        inverse = np.linalg.inv(kernel + settings.noise**2 * x.shape[1] * np.eye(len(x)))
        hat = np.diag(kernel @ inverse)[:, None]
        left_out = (off - kernel @ inverse @ off) / (1 - hat)  # residuals of spectra that were left out
        scatter = np.linalg.cholesky(left_out.T @ left_out / len(x) + 1e-12 * np.eye(len(labels)))
        tensors = {"mean": flux.mean(axis=0), "weights": x.T @ inverse @ off, "centre": y.mean(axis=0)}
        progress({"step": 1, "steps": 1})
        power = float(model_grid.resolving_power.mean())
        templates = Templates(model_grid.wavelength, model_flux[::10], dict(model_grid.arms), power)
        header = {"name": settings.name, "grid": {"models": len(grid), "provenance": dict(grid.provenance)},
                  "training": {"seed": settings.seed}}  # fmt: skip
        return cls(labels, instrument, STEPS, templates, header, tensors | {"scatter": scatter})

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
        tensors = {name: torch.as_tensor(values) for name, values in self.tensors.items()}
        tensors |= {
            f"templates.{n}": torch.as_tensor(getattr(self.templates, n)) for n in ("wavelength", "flux")
        }
        arms = {name: [arm.start, arm.stop] for name, arm in self.templates.arms.items()}
        header = {
            **self.header,
            "format": "specinn model",
            "version": 1,
            "estimator": "plugin-name",
            "labels": self.labels.to_dicts(),
            "instrument": self.instrument.to_dict(),
            "preprocessing": [[name, options] for name, options in self.preprocessing],
            "templates": {"arms": arms, "resolving_power": self.templates.resolving_power},
        }
        save_weights(path, tensors, header)

    @classmethod
    def load(cls, path, device="cpu"):
        tensors, header = load_weights(path, "specinn model")
        try:
            numbers = {name: tensor.numpy() for name, tensor in tensors.items()}
            wavelength, flux = (numbers.pop(f"templates.{name}") for name in ("wavelength", "flux"))
            arms = {name: slice(*ends) for name, ends in header["templates"]["arms"].items()}
            templates = Templates(wavelength, flux, arms, header["templates"]["resolving_power"])
            steps = tuple((name, options) for name, options in header["preprocessing"])
            labels, instrument = (
                LabelSet.from_dicts(header["labels"]),
                Instrument.from_dict(header["instrument"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: its weights do not fit its header ({error})") from None
        return cls(labels, instrument, steps, templates, header, numbers)
