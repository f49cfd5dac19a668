"""Classes that break the rules of their interfaces, each one of them."""

import numpy as np
import torch

from specinn.instruments import Instrument
from specinn.labels import LabelSet
from specinn.plugins.interfaces import Correction, Estimator, Preprocessor, Templates
from specinn.posterior import Posterior
from specinn.weights import load_weights, save_weights


class Loses(Preprocessor):
    def __init__(self, instrument, templates=None):
        pass

    def __call__(self, batch):
        return batch[1:]


class Nan(Estimator):
    """Takes labels, instrument and steps from the header of its file; its samples are not numbers."""

    def __init__(self, header):
        self.header = header
        self.labels = LabelSet.from_dicts(header["labels"])
        self.instrument = Instrument.from_dict(header["instrument"])
        self.preprocessing = tuple((name, options) for name, options in header["preprocessing"])
        wavelength = 5339.0 * np.exp(np.arange(3000) * 1.3e-5)
        self.templates = Templates(wavelength, np.ones((1, 3000)), {"hr10": slice(0, 3000)}, 21500.0)

    @classmethod
    def train(cls, config, folder, progress):
        raise NotImplementedError

    @classmethod
    def load(cls, path, device="cpu"):
        return cls(load_weights(path, "specinn model")[1])

    def save(self, path):
        save_weights(path, {"nothing": torch.zeros(1)}, self.header)

    def numbers(self, batch, n_samples):
        return np.full((len(batch), n_samples, len(self.labels)), np.nan)

    def sample(self, batch, n_samples, seed):
        samples = self.numbers(batch, n_samples)
        return Posterior(self.labels, samples, np.zeros(samples.shape[:2]))

    def log_prob(self, batch, labels):
        return np.zeros(labels.shape[:2])


class Fewer(Nan):
    """One spectrum is missing."""

    def numbers(self, batch, n_samples):
        return np.tile(self.labels.bounds.mean(axis=1), (len(batch) - 1, n_samples, 1))


class Flat(Nan):
    """The axis of the samples is missing."""

    def numbers(self, batch, n_samples):
        return np.tile(self.labels.bounds.mean(axis=1), (len(batch), 1))


class LosesStar(Correction):
    @classmethod
    def load(cls, path):
        return cls()

    def apply(self, posterior):
        return posterior[1:], np.ones(len(posterior) - 1, bool)
