"""The checks of estimators and flows pass what keeps the rules, and name what is broken."""

import numpy as np
import pytest
from contracts import INSTRUMENT, LinearGaussian, broken, spectra

from specinn import testing
from specinn.errors import ConfigError
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch


class Seedless(LinearGaussian):
    def noise(self, batch, n_samples, seed):
        return super().noise(batch, n_samples, 0)


class Restless(LinearGaussian):
    def noise(self, batch, n_samples, seed):
        return np.random.default_rng().normal(size=(len(batch), n_samples, 2))


class Jostled(LinearGaussian):
    def noise(self, batch, n_samples, seed):
        return np.random.default_rng(seed).normal(size=(n_samples, len(batch), 2)).swapaxes(0, 1)


class Lenient(LinearGaussian):
    def sample(self, batch, n_samples, seed):
        posterior = super().sample(batch, n_samples, seed)
        samples = posterior.samples + np.array([5000, 0])
        return Posterior(self.labels, samples, posterior.log_prob, np.ones(posterior.log_prob.shape, bool))


class Offset(LinearGaussian):
    def sample(self, batch, n_samples, seed):
        posterior = super().sample(batch, n_samples, seed)
        return Posterior(self.labels, posterior.samples, posterior.log_prob + 1)


class Unnormalised(LinearGaussian):
    def log_prob(self, batch, labels):
        return super().log_prob(batch, labels) + np.log(self.scale).sum()


class Lossy(LinearGaussian):
    def save(self, path):
        kept, self.scale = self.scale, np.round(self.scale + 1e-6, 6)
        super().save(path)
        self.scale = kept


class Trusting(LinearGaussian):
    @classmethod
    def load(cls, path, device="cpu"):
        try:
            return super().load(path, device)
        except Exception:
            raise KeyError("weights") from None


def observed():
    batch = spectra()
    return SpectrumBatch.from_arrays(
        batch.wavelength, np.nan_to_num(batch.flux, nan=1.0), ids=["a", "b", "c"]
    )


@pytest.fixture
def parts():
    return INSTRUMENT, (("to-arms", {}),)


def test_estimator(parts):
    posterior = testing.check_estimator(LinearGaussian(*parts), observed())
    assert posterior.samples.shape == (3, 64, 2)


@pytest.mark.parametrize(
    ("estimator", "rule", "section"),
    [
        (Seedless, "another seed gives the same samples", "estimators"),
        (Restless, "the same seed gives other samples", "estimators"),
        (Jostled, "depend on its companions", "estimators"),
        (Lenient, "samples outside the training bounds were accepted", "estimators"),
        (Offset, "is not the density that sample gives", "estimators"),
        (Unnormalised, "from that of a numerical Jacobian", "flows"),
        (Lossy, "samples differ after save and load", "estimators"),
        (Trusting, "a truncated model raised KeyError", "estimators"),
    ],
)
def test_estimator_that_breaks_a_rule(parts, estimator, rule, section):
    with broken(rule, section):
        testing.check_estimator(estimator(*parts), observed())


def test_invertible():
    x = np.random.default_rng(0).normal(size=(20, 3))
    testing.check_invertible(np.arcsinh, np.sinh, x)
    with broken("there and back is off by", "flows"):
        testing.check_invertible(np.arcsinh, lambda z: np.sinh(z) + 0.01, x)
    with broken("became", "flows"):
        testing.check_invertible(lambda v: v[:, :2], lambda z: z, x)


def test_log_density_of_a_nonlinear_map():
    """z = A sinh(y): log p = log N(z) + log |det A| + sum log cosh(y)."""
    a = np.array([[1.0, 0.5], [-0.3, 2.0]])

    def to_latent(y):
        return np.sinh(y) @ a.T

    def log_prob(y):
        z = to_latent(y)
        volume = np.log(np.linalg.det(a)) + np.log(np.cosh(y)).sum(axis=1)
        return -0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi) + volume

    y = np.random.default_rng(0).normal(size=(10, 2))
    testing.check_log_density(to_latent, log_prob, y, step=1e-4, atol=1e-6)
    with broken("log_prob is off by 0.5 from", "flows"):
        testing.check_log_density(to_latent, lambda y: log_prob(y) + 0.5, y, step=1e-4)


class Trained(LinearGaussian):
    """Trains in eight steps of nothing."""

    keeps, careless, mute = True, False, False

    @classmethod
    def train(cls, config, folder, progress):
        if set(config) - {"name"} and not cls.careless:
            raise ConfigError(f"[estimator]: {sorted(set(config) - {'name'})} is not known")
        path = folder / "checkpoint"
        first = int(path.read_text()) if path.exists() else 0
        for i in range(first, 8):
            if cls.keeps:
                path.write_text(str(i + 1))
            progress({"loss": 1.0} if cls.mute else {"step": i + 1, "steps": 8})
        return cls(INSTRUMENT, ())


class Forgets(Trained):
    keeps = False


class Careless(Trained):
    careless = True


class Mute(Trained):
    mute = True


def test_training(tmp_path):
    assert isinstance(testing.check_training(Trained, {"name": "x"}, tmp_path), Trained)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Forgets, "an interrupted training began anew"),
        (Careless, "an unknown key raised None, not a ConfigError"),
        (Mute, "progress heard {'loss': 1.0}: expected step and steps"),
    ],
)
def test_training_that_breaks_a_rule(tmp_path, kind, rule):
    with broken(rule, "estimators"):
        testing.check_training(kind, {"name": "x"}, tmp_path)
