"""The contract checks pass what keeps the rules, and name the rule that is broken."""

import importlib

import attrs
import numpy as np
import pytest
from astropy.table import Table

from specinn import testing
from specinn.errors import ConfigError, ReadError
from specinn.grids import Grid
from specinn.hookspecs import EstimatorRecord, InstrumentRecord, Record, hookimpl
from specinn.instruments import Instrument
from specinn.interfaces import Correction, Estimator, GridLoader, Preprocessor, Reader, Synthesizer
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch

SHIPPED = [
    "specinn_instruments",
    "specinn_preprocessing",
    "specinn_turbospectrum",
    "specinn_emulator",
    "specinn_cinn",
    "specinn_teff_bias",
]
INSTRUMENT = Instrument.from_dict(
    {"name": "x", "summary": "", "arms": [{"name": "a", "range": [5000, 5049], "resolving_power": 20000}]}
)


def broken(rule, section):
    return pytest.raises(AssertionError, match=rf"{rule}.*docs/plugins\.md#{section}\)")


# Instruments and readers


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("range = [5160", "range = [4160", "do not reach over its range"),
        ('summary = "', 'summary = " " #', "the summary is empty"),
        ("[[arms]]", "[[arms]]\nsnr_windows = [[1, 2]]", "S/N window 1.0-2.0 is not within arm"),
    ],
)
def test_instrument(tmp_path, old, new, rule):
    text = """name = "x"
summary = "for tests"
[[arms]]
name = "green"
range = [5160, 5170]
resolving_power = 20000
pixels = {n = 101, polynomial = [5160.0, 10.0]}
"""
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert testing.check_instrument(path).name == "x"
    path.write_text(text.replace(old, new, 1))
    with broken(rule, "instruments"):
        testing.check_instrument(path)


class Text(Reader):
    """Two columns under a first line that says so."""

    def recognises(self, path):
        with path.open("rb") as file:
            return file.read(9) == b"# two col"

    def read(self, path):
        try:
            table = np.loadtxt(path, ndmin=2).T
        except ValueError as error:
            raise ReadError(f"{path}: {error}") from None
        yield SpectrumBatch.from_arrays(*table, path=str(path))


class Eager(Text):
    def recognises(self, path):
        return True


class Shy(Text):
    def recognises(self, path):
        return False


class Forgetful(Text):
    def read(self, path):
        for batch in super().read(path):
            batch.mask[:] = False
            batch.flux[0, 1] = np.nan
            yield batch


class Nameless(Text):
    def read(self, path):
        for batch in super().read(path):
            batch.meta = Table({"id": ["a"]})
            yield batch


class Fickle(Text):
    count = 0

    def read(self, path):
        for batch in super().read(path):
            self.count += 1
            batch.flux += self.count
            yield batch


class Rough(Text):
    def read(self, path):
        if len(path.read_text().splitlines()) < 30:
            raise KeyError("FLUX")
        yield from super().read(path)


def write_text(tmp_path):
    path = tmp_path / "star.txt"
    np.savetxt(path, np.stack([5000 + np.arange(40.0), np.ones(40)], axis=1), header="two columns")
    return path


def test_reader(tmp_path):
    (batch,) = testing.check_reader(Text(), write_text(tmp_path))
    assert batch.flux.shape == (1, 40)


@pytest.mark.parametrize(
    ("reader", "rule"),
    [
        (Eager, "a file of nothing is recognised"),
        (Shy, "star.txt is not recognised"),
        (Forgetful, "flux that is not finite was not masked"),
        (Nameless, "meta has no column 'path'"),
        (Fickle, "the same file read twice gives different spectra"),
        (Rough, "a truncated file raised KeyError"),
    ],
)
def test_reader_that_breaks_a_rule(tmp_path, reader, rule):
    with broken(rule, "readers"):
        testing.check_reader(reader(), write_text(tmp_path))


# Preprocessors


def spectra():
    rng = np.random.default_rng(0)
    flux = rng.normal(1, 0.1, (3, 50))
    flux[1, 7] = np.nan
    sigma = np.full((3, 50), 0.1)
    sigma[2] = np.nan
    return SpectrumBatch.from_arrays(5000 + np.arange(50.0), flux, sigma, ids=["a", "b", "c"])


class Scale(Preprocessor):
    def __call__(self, batch):
        return attrs.evolve(batch, flux=2 * batch.flux)


class InPlace(Preprocessor):
    def __call__(self, batch):
        batch.flux *= 2
        return batch


class Meddling(Preprocessor):
    def __call__(self, batch):
        batch.meta["flags"] = 1
        return batch


class Dropping(Preprocessor):
    def __call__(self, batch):
        return batch[: max(1, len(batch) - 1)]


class Sorting(Preprocessor):
    def __call__(self, batch):
        return batch[::-1]


class Unmasking(Preprocessor):
    def __call__(self, batch):
        return attrs.evolve(batch, mask=np.zeros_like(batch.mask))


class Gregarious(Preprocessor):
    def __call__(self, batch):
        return attrs.evolve(batch, flux=batch.flux / np.nanmean(batch.flux))


def test_preprocessor():
    assert (testing.check_preprocessor(Scale(), spectra()).flux[0] == 2 * spectra().flux[0]).all()


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        (InPlace, "the step changed its input"),
        (Meddling, "the step changed its input"),
        (Dropping, "3 spectra became 2"),
        (Sorting, "changed their order"),
        (Unmasking, "flux that is not finite came out unmasked"),
        (Gregarious, "comes out otherwise alone than in its batch"),
    ],
)
def test_preprocessor_that_breaks_a_rule(step, rule):
    with broken(rule, "preprocessors"):
        testing.check_preprocessor(step(), spectra())


# Grids and synthesis


class Folder(GridLoader):
    """A folder with one text file of fluxes."""

    provenance: dict = {"code": "none"}  # noqa: RUF012
    factor = 1.0

    def recognises(self, path):
        return (path / "flux.txt").is_file()

    def load(self, path):
        flux = np.loadtxt(path / "flux.txt").astype("f4") * self.factor
        ids = np.array([str(i) for i in range(len(flux))])
        wavelength = 5000 + np.arange(flux.shape[1], dtype=float)
        arms = {"all": slice(0, flux.shape[1])}
        values = np.full((len(flux), 1), 5000.0)
        return Grid(("teff",), values, ids, wavelength, arms, self.source(flux), 1e5, "air", self.provenance)

    def source(self, flux):
        return lambda rows: flux[rows]


class Anonymous(Folder):
    provenance: dict = {}  # noqa: RUF012


class Negative(Folder):
    factor = -1.0


class Unsorted(Folder):
    def source(self, flux):
        return lambda rows: flux[np.sort(rows)]


class Greedy(Folder):
    def recognises(self, path):
        return path.is_dir()


def test_grid_loader(tmp_path):
    np.savetxt(tmp_path / "flux.txt", np.random.default_rng(0).uniform(0.2, 1, (5, 20)))
    assert len(testing.check_grid_loader(Folder(), tmp_path)) == 5
    for loader, rule in [
        (Anonymous, "provenance does not say which code"),
        (Negative, "negative flux was not rejected"),
        (Unsorted, "rows asked for in another order differ"),
        (Greedy, "a strange folder is recognised"),
    ]:
        with broken(rule, "grid-loaders"):
            testing.check_grid_loader(loader(), tmp_path)


class Lines(Synthesizer):
    labels = ("teff", "logg")
    bounds = np.array([[4000.0, 7000.0], [1.0, 5.0]])
    wavelength = np.linspace(5000, 5010, 60)
    resolving_power = 60000.0
    medium = "air"

    def depths(self, t, g):
        return 0.3 * t / 5000.0, 0.1 * g

    def __call__(self, labels):
        import torch

        given = isinstance(labels, torch.Tensor)
        x = labels if given else torch.tensor(np.array(labels), dtype=torch.float32)
        wave = torch.tensor(self.wavelength, dtype=torch.float32) - 5000.0
        first, second = self.depths(x[:, :1], x[:, 1:])
        flux = 1 - first * torch.exp(-((wave - 3) ** 2)) - second * torch.exp(-((wave - 7) ** 2))
        return flux if given else flux.numpy()


class Deaf(Lines):
    def depths(self, t, g):
        return 0.3 * t / 5000.0, 0.0 * g + 0.2


class Detached(Lines):
    def depths(self, t, g):
        return 0.3 * t.detach() / 5000.0, 0.1 * g.detach()


class Secretive(Lines):
    provenance = {"line_lists": {"lines.txt"}}  # noqa: RUF012 (a set is no JSON)


class Bright(Lines):
    def depths(self, t, g):
        return -t, g


class Sociable(Lines):
    def depths(self, t, g):
        return 0.3 * t / t.mean(), 0.1 * g


def test_synthesizer():
    assert testing.check_synthesizer(Lines(), differentiable=True).shape == (3, 60)
    for synthesizer, rule in [
        (Deaf, "the flux does not depend on logg"),
        (Detached, "the flux has no gradient"),
        (Bright, "not normalised"),
        (Secretive, "the provenance is not of JSON values"),
        (Sociable, "a spectrum alone differs"),
    ]:
        with broken(rule, "synthesizers"):
            testing.check_synthesizer(synthesizer(), differentiable=True)


# Estimators


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
        import json

        data = {"instrument": self.instrument.to_dict(), "scale": self.scale.tolist()}
        path.write_text(json.dumps([data, self.preprocessing]) + " " * 2000 + "end")

    @classmethod
    def load(cls, path, device="cpu"):
        import json

        from specinn.errors import ModelError

        text = path.read_text()
        if not text.endswith("end"):
            raise ModelError(f"{path} is truncated")
        data, steps = json.loads(text[:-3])
        steps = tuple((name, options) for name, options in steps)
        return cls(Instrument.from_dict(data["instrument"]), steps, data["scale"])


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


# Corrections


class Shift(Correction):
    by = 0.1

    @classmethod
    def load(cls, path):
        raise NotImplementedError

    def chosen(self, posterior):
        return posterior.map[:, 1] > 2

    def move(self, posterior, applied):
        samples = posterior.samples.copy()
        samples[applied, :, 1] += self.by
        return Posterior(posterior.labels, samples, posterior.log_prob, posterior.inside)

    def apply(self, posterior):
        applied = self.chosen(posterior)
        return self.move(posterior, applied), applied


class ShiftInPlace(Shift):
    def move(self, posterior, applied):
        posterior.samples[applied] += self.by
        return posterior


class ShiftAll(Shift):
    def move(self, posterior, applied):
        return super().move(posterior, slice(None))


class Judging(Shift):
    by = 4.0

    def move(self, posterior, applied):
        out = super().move(posterior, applied)
        return Posterior(out.labels, out.samples, out.log_prob)


class Blind(Shift):
    def chosen(self, posterior):
        return np.ones(len(posterior), bool)


class Relative(Shift):
    def chosen(self, posterior):
        return posterior.map[:, 1] >= np.nanmedian(posterior.map[:, 1])


def posterior():
    rng = np.random.default_rng(0)
    samples = np.array([[5800, 4.0], [5000, 1.0], [9000, 4.0]])[:, None] + rng.normal(size=(3, 50, 2)) * [
        20,
        0.1,
    ]
    return Posterior(LinearGaussian.labels, samples, rng.normal(size=(3, 50)))


def test_correction():
    assert testing.check_correction(Shift(), posterior()).map[0, 1] == pytest.approx(
        posterior().map[0, 1] + 0.1
    )


@pytest.mark.parametrize(
    ("correction", "rule"),
    [
        (ShiftInPlace, "the correction changed its input"),
        (ShiftAll, "a star out of range was moved"),
        (Judging, "accepts or rejects samples"),
        (Blind, "a star without an accepted sample counts as within range"),
        (Relative, "comes out otherwise alone"),
    ],
)
def test_correction_that_breaks_a_rule(correction, rule):
    with broken(rule, "corrections"):
        testing.check_correction(correction(), posterior())


# Plugins


class Offering:
    """A plugin that offers one record for each of the fields."""

    def __init__(self, hook, *records):
        setattr(self, hook, hookimpl(lambda: list(records)))


def step(name="mask", factory="specinn_preprocessing.mask:Mask", summary="masks", **fields):
    return Record(name=name, factory=factory, summary=summary, **fields)


@pytest.mark.parametrize("name", SHIPPED)
def test_our_own_plugins(name):
    assert testing.check_plugin(importlib.import_module(name))


@pytest.mark.parametrize(
    ("records", "rule", "section"),
    [
        ([], "the plugin offers nothing", "hooks-and-records"),
        ([step(name="My_Step")], "small letters, digits and hyphens", "hooks-and-records"),
        ([step(), step()], "preprocessor 'mask' is there twice", "hooks-and-records"),
        ([step(summary="two\nlines")], "the summary is not one line", "hooks-and-records"),
        ([step(api_version=99)], "the plugin does not load: .*version 99", "hooks-and-records"),
        ([step(factory="specinn_preprocessing.mask:Masks")], "cannot be used", "hooks-and-records"),
        ([step(factory="test_testing:Shift")], "is no specinn.interfaces.Preprocessor", "preprocessors"),
        ([step(factory="test_testing:Lazy")], "lacks __call__", "preprocessors"),
        ([step(factory="test_testing:Scaled")], "cannot be called with instrument", "preprocessors"),
    ],
)
def test_plugin_that_breaks_a_rule(records, rule, section):
    with broken(rule, section):
        testing.check_plugin(Offering("specinn_preprocessors", *records))


class Lazy(Preprocessor):
    pass


class Scaled(Preprocessor):
    def __init__(self, instrument):
        pass

    def __call__(self, batch):
        return batch


def test_records_that_lead_elsewhere(tmp_path):
    toml = tmp_path / "x.toml"
    toml.write_text(
        'name = "x"\nsummary = "for tests"\n'
        '[[arms]]\nname = "green"\nrange = [5160, 5170]\nresolving_power = 20000\n'
    )
    record = InstrumentRecord(name="y", summary="for tests", toml=toml)
    with broken("instrument 'y' is 'x' in its TOML", "hooks-and-records"):
        testing.check_plugin(Offering("specinn_instruments", record))
    fields = {"name": "other", "summary": "for tests", "factory": "specinn_cinn.estimator:CINN"}
    (weights,) = Plugins([], {"cinn": importlib.import_module("specinn_cinn")}).offers("estimator")
    for models, rule in (
        (weights.record.models, "its model '4most-hr-gr' is one of 'cinn'"),
        ({"gone": tmp_path / "gone.safetensors"}, "its model 'gone': .*no such model file"),
    ):
        with pytest.raises(AssertionError, match=rule):
            testing.check_plugin(Offering("specinn_estimators", EstimatorRecord(models=models, **fields)))


# Training


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
        (Careless, "an unknown key raised None, no ConfigError"),
        (Mute, "progress heard {'loss': 1.0}: expected step and steps"),
    ],
)
def test_training_that_breaks_a_rule(tmp_path, kind, rule):
    with broken(rule, "estimators"):
        testing.check_training(kind, {"name": "x"}, tmp_path)
