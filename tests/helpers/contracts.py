"""What the tests of the contract checks share: an exact estimator, spectra, the look of a broken rule."""

import json

import numpy as np
import pytest

from specinn.errors import ModelError
from specinn.instruments import Instrument
from specinn.labels import LabelSet, make_label
from specinn.plugins.interfaces import Estimator
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch

INSTRUMENT = Instrument.from_dict(
    {"name": "x", "summary": "", "arms": [{"name": "a", "range": [5000, 5049], "resolving_power": 20000}]}
)


def broken(rule, section):
    """The check fails, names this rule and leads to this section of the guide."""
    return pytest.raises(AssertionError, match=rf"{rule}.*docs/plugins\.md#{section}\)")


def spectra():
    rng = np.random.default_rng(0)
    flux = rng.normal(1, 0.1, (3, 50))
    flux[1, 7] = np.nan
    sigma = np.full((3, 50), 0.1)
    sigma[2] = np.nan
    return SpectrumBatch.from_arrays(5000 + np.arange(50.0), flux, sigma, ids=["a", "b", "c"])


class LinearGaussian(Estimator):
    """Two labels read off two pixels, with Gaussian errors: exact, and it saves itself as JSON."""

    labels = LabelSet((make_label("teff", (4000, 7000)), make_label("logg", (0, 5))))
    templates = None

    def __init__(self, instrument, preprocessing, scale=(0.02, 0.3)):
        self.instrument, self.preprocessing = instrument, preprocessing
        self.scale = np.array(scale)
        self.header = {}

    @classmethod
    def train(cls, config, folder, progress):
        raise NotImplementedError

    def centre(self, batch):
        return np.stack([3.7 + 0.01 * batch.flux[:, 0], 2.5 + batch.flux[:, 1]], axis=1)

    def noise(self, batch, n_samples, seed):
        rows = [np.random.default_rng([seed, int(row)]) for row in batch.meta["key"]]
        return np.stack([rng.normal(size=(n_samples, 2)) for rng in rows])

    def sample(self, batch, n_samples, seed):
        y = self.centre(batch)[:, None] + self.scale * self.noise(batch, n_samples, seed)
        samples = self.labels.from_network(y)
        return Posterior(self.labels, samples, self.log_prob(batch, samples))

    def to_latent(self, batch, labels):
        return (self.labels.to_network(labels) - self.centre(batch)[:, None]) / self.scale

    def log_prob(self, batch, labels):
        z = self.to_latent(batch, labels)
        return -0.5 * (z**2).sum(axis=-1) - np.log(2 * np.pi) - np.log(self.scale).sum()

    def save(self, path):
        data = {"instrument": self.instrument.to_dict(), "scale": self.scale.tolist()}
        path.write_text(json.dumps([data, self.preprocessing]) + " " * 2000 + "end")

    @classmethod
    def load(cls, path, device="cpu"):
        text = path.read_text()
        if not text.endswith("end"):
            raise ModelError(f"{path} is truncated")
        data, steps = json.loads(text[:-3])
        steps = tuple((name, options) for name, options in steps)
        return cls(Instrument.from_dict(data["instrument"]), steps, data["scale"])
