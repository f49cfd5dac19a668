"""The pipeline, runs over files, the Python interface."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.table import QTable

import specinn
from specinn import api, catalogue, models
from specinn.errors import ConfigError, ModelError, PluginError, ReadError
from specinn.flags import Flag, names
from specinn.inference.batching import CHUNK
from specinn.inference.corrections import load_correction
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.inference.run import Source, file_sources, prepare, unread
from specinn.inference.velocities import parse_velocity
from specinn.plugins import Plugins
from specinn.plugins.interfaces import Correction
from specinn.posterior import Posterior
from specinn.wavelengths import air_to_vacuum

TRUTH = np.array([[5772.0, 4.44, 0.0, 1.05], [4500.0, 2.0, -1.2, 2.0], [6500.0, 4.0, -0.5, 2.6]])


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    fake_plugin.Toy.train({"estimator": {"kind": "toy"}}, path.parent, lambda state: None).save(path)
    fake_plugin.MODELS["toy-model"] = path
    plugins = Plugins(entry=[], extra={"fake": fake_plugin})
    assert not plugins.failures
    return plugins


@pytest.fixture
def infer(plugins: Plugins) -> Callable[..., api.Inference]:
    def call(spectra: Any, **options: Any) -> api.Inference:
        return specinn.infer(spectra, **{"instrument": "toy", "plugins": plugins, "samples": 1000, **options})

    return call


Infer = Callable[..., api.Inference]


def run_files(plugins: Plugins, files: list[Path], **options: Any) -> Any:
    job = prepare(plugins, instrument="toy", samples=500, **options)
    return job.catalogue(file_sources(files, plugins))


@pytest.mark.slow
def test_the_truth_lies_within_the_posterior(infer: Infer) -> None:
    rng = np.random.default_rng(5)
    truth = fake_plugin.from_unit(rng.uniform(-0.4, 0.4, (200, 4)))
    result = infer(fake_plugin.simulate(truth, snr=100.0)).catalogue
    assert not result["flag_bad"].any()
    for i, name in enumerate(fake_plugin.LABELS.names):
        values = {end: result[f"{name}{end}"].value for end in ("_p16", "_p84", "_p2_5", "_p97_5")}
        within = (values["_p16"] < truth[:, i]) & (truth[:, i] < values["_p84"])
        assert 0.55 < within.mean() < 0.80, name
        within = (values["_p2_5"] < truth[:, i]) & (truth[:, i] < values["_p97_5"])
        assert within.mean() > 0.90, name


@pytest.mark.slow
def test_result_has_units_and_samples(infer: Infer, tmp_path: Path) -> None:
    result = infer(fake_plugin.simulate(TRUTH))
    assert isinstance(result.catalogue, QTable) and result.catalogue["teff"].unit == u.K
    assert isinstance(result.posterior, Posterior) and result.posterior.samples.shape == (3, 1000, 4)
    assert result.catalogue["teff"][1].value == pytest.approx(result.posterior.map[1, 0])
    assert result.catalogue["id"].tolist() == ["star-0", "star-1", "star-2"]
    assert result.catalogue.meta["seed"] == 0 and result.catalogue.meta["model"] == "toy-model"
    assert result.catalogue.meta["code"] == "straight lines"
    result.write(tmp_path / "out.fits")
    assert len(catalogue.read(tmp_path / "out.fits")) == 3


def test_a_posterior_does_not_depend_on_its_companions(infer: Infer) -> None:
    batch = fake_plugin.simulate(TRUTH)
    together = infer(batch).catalogue
    alone = infer(batch[[0]]).catalogue
    assert together["teff_p16"][0] == alone["teff_p16"][0]
    reordered = infer(batch[[1, 0]]).catalogue
    assert reordered["teff_p16"][1] != together["teff_p16"][0]  # another row, other random numbers


def test_many_spectra_are_inferred_in_pieces_with_the_same_result(infer: Infer, plugins: Plugins) -> None:
    truth = np.repeat(TRUTH, 50, axis=0)
    batch = fake_plugin.simulate(truth)
    assert len(batch) > 2 * CHUNK
    result = infer(batch, samples=50)
    job = prepare(plugins, instrument="toy", samples=50)
    whole = catalogue.summarise(job.pipeline(batch), instrument="toy", model=job.model)
    assert np.array_equal(result.catalogue["logg"].value, whole["logg"].astype(np.float32))
    assert result.catalogue["row"].tolist() == list(range(150))


def test_seeds(infer: Infer) -> None:
    batch = fake_plugin.simulate(TRUTH)
    first, same, other = (infer(batch, seed=seed).catalogue for seed in (1, 1, 2))
    assert (first["teff"] == same["teff"]).all()
    assert (first["teff"] != other["teff"]).any()


def test_A11_velocities(infer: Infer, tmp_path: Path) -> None:
    batch = fake_plugin.simulate(TRUTH[:2], rv=40.0)
    stated = infer(batch).catalogue
    assert stated["rv"].value == pytest.approx([40, 40]) and not stated["flags"].any()
    measured = infer(batch, rv="auto").catalogue
    assert measured["rv"].value == pytest.approx([40, 40], abs=2)
    assert names(measured["flags"][0]) == ["rv_measured"]
    batch.meta["rv"] = np.nan
    assert infer(batch).catalogue["rv"].value == pytest.approx([40, 40], abs=2)
    forced = infer(batch, rv=38.5).catalogue
    assert forced["rv"].value == pytest.approx([38.5, 38.5]) and not forced["flags"].any()
    table = tmp_path / "rv.csv"
    table.write_text("id,rv\nstar-1,40.5\nsomebody,3\n")
    with pytest.warns(UserWarning, match="1 of 2 velocities .* match no spectrum.*: somebody"):
        mixed = infer(batch, rv=table).catalogue
    assert mixed["rv"][1].value == pytest.approx(40.5)
    assert [names(f) for f in mixed["flags"]] == [["rv_measured"], []]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,velocity\na,3\n", "expected the columns id"),
        ("id,rv\na,fast\n", "'fast' of a is not a number"),
        ("id,rv\na,3\na,4\n", "listed twice"),
        ("id,rv\na,1e6\n", "not one of a star"),
        ("", "found nothing"),
    ],
)
def test_bad_tables_of_velocities(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rv.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        parse_velocity(path)


def test_tables_of_velocities_by_path_and_as_ecsv(tmp_path: Path) -> None:
    QTable({"path": ["a.fits", "b c.fits"], "rv": [1.5, -2.0] * u.km / u.s}).write(tmp_path / "rv.ecsv")
    assert parse_velocity(str(tmp_path / "rv.ecsv")) == (None, {"a.fits": 1.5, "b c.fits": -2.0})
    assert parse_velocity("auto") == ("auto", {}) and parse_velocity("-12.5") == (-12.5, {})
    with pytest.raises(ConfigError, match="expected a velocity"):
        parse_velocity("fast")


def test_noise_is_added_down_to_the_asked_level(infer: Infer) -> None:
    batch = fake_plugin.simulate(TRUTH, snr=400.0)
    clean, noisy = infer(batch).catalogue, infer(batch, degrade_snr=50.0).catalogue
    assert np.asarray(clean["snr_green"]) == pytest.approx(400.0, rel=0.01)
    assert np.median(noisy["snr_green"]) == pytest.approx(50, rel=0.1)
    assert (noisy["teff_std"] > 3 * clean["teff_std"]).all()
    assert noisy.meta["degraded"] == 50.0


def test_estimators_are_told_which_spectra_are_synthetic(
    monkeypatch: pytest.MonkeyPatch, infer: Infer
) -> None:
    declared: list[list[bool]] = []
    sample = fake_plugin.Toy.sample

    def listen(toy: Any, batch: Any, *options: Any) -> Posterior:
        declared.append([bool(value) for value in batch.meta["synthetic"]])
        return sample(toy, batch, *options)

    monkeypatch.setattr(fake_plugin.Toy, "sample", listen)
    batch = fake_plugin.simulate(TRUTH)
    assert "synthet" not in infer(batch).catalogue.meta
    assert infer(batch, synthetic=True).catalogue.meta["synthet"] is True
    assert declared == [[False] * 3, [True] * 3]


def test_resolution_too_low_is_flagged_and_others_go_on(plugins: Plugins, tmp_path: Path) -> None:
    low = fake_plugin.simulate(TRUTH)
    low.resolving_power = 3000.0
    files = [tmp_path / "low.txt", tmp_path / "good.txt"]
    fake_plugin.write_text(files[0], low)
    fake_plugin.write_text(files[1], fake_plugin.simulate(TRUTH[:1]))
    table = run_files(plugins, files)
    assert [names(f) for f in table["flags"]] == [["resolution_low"]] * 3 + [[]]
    assert "resolving power 3000" in table["message"][0] and "5000" in table["message"][0]
    assert table["teff"].mask.tolist() == [True, True, True, False]
    assert not run_files(plugins, files, resolving_power=5000.0)["flag_bad"].any()


def test_the_instruments_resolving_power_stands_in(plugins: Plugins, infer: Infer) -> None:
    batch = attrs.evolve(fake_plugin.simulate(TRUTH[:1]), resolving_power=None)
    seen: list[Any] = []
    job = prepare(plugins, instrument="toy", samples=10)
    steps = [("spy", lambda b: (seen.append(b.resolving_power), b)[1]), *job.pipeline.steps]
    job.pipeline.steps = tuple(steps)
    assert not job.pipeline(batch).meta["flags"].any()
    assert np.broadcast_to(seen[0], batch.wavelength.shape) == pytest.approx(5000)
    assert batch.resolving_power is None  # the caller's batch stays as it is


def test_vacuum_wavelengths_become_air(infer: Infer) -> None:
    air = fake_plugin.simulate(TRUTH)
    vacuum = attrs.evolve(air, wavelength=air_to_vacuum(air.wavelength), medium="vacuum")
    right = infer(vacuum).catalogue
    assert right["teff"].value == pytest.approx(infer(air).catalogue["teff"].value, abs=1)
    wrong = infer(attrs.evolve(vacuum, medium="air")).catalogue
    assert wrong["flag_bad"].all() and not right["flag_bad"].any()  # the lines are 1.5 Angstrom off


def test_flags_of_pixels_and_samples(infer: Infer) -> None:
    batch = fake_plugin.simulate(np.vstack([TRUTH, TRUTH[:2]]), snr=100.0)
    red = batch.wavelength > 6000
    batch.mask[0, red] = True
    batch.mask[1] = True
    batch.sigma[2] *= 30.0
    batch.flux[3] = 1.9 - batch.flux[3]  # emission: far outside the training set
    result = infer(batch).catalogue
    flags = [names(f) for f in result["flags"]]
    assert "arm_missing" in flags[0] and not result["flag_warn"][0]
    assert result["snr_red"][0] == 0
    assert "no_overlap" in flags[1] and result["flag_bad"][1]
    assert "snr_low" in flags[2]
    assert "all_rejected" in flags[3] and result["rejected_fraction"][3] == 1.0
    assert flags[4] == []
    assert result["teff"].mask.tolist() == [False, True, True, True, False]
    assert ["teff" in text.split() for text in result["undetermined"]] == [False, False, True, False, False]
    assert result["teff_p16"].mask.tolist() == [False, True, False, True, False]


def test_a_map_near_a_bound_is_flagged(infer: Infer) -> None:
    truth = np.array([[5500.0, 4.999, 0.0, 2.0], [5500.0, 2.5, 0.0, 2.0]])
    result = infer(fake_plugin.simulate(truth, snr=900.0)).catalogue
    assert ["at_bounds" in names(f) for f in result["flags"]] == [True, False]


@attrs.frozen
class Shift(Correction):
    """Adds 100 K to stars below 6000 K."""

    model: str | None = None

    def apply(self, posterior: Posterior) -> tuple[Posterior, np.ndarray]:
        within = posterior.map[:, 0] < 6000
        samples = posterior.samples.copy()
        samples[within, :, 0] += 100
        return Posterior(posterior.labels, samples, posterior.log_prob, posterior.inside), within

    @classmethod
    def load(cls, path: Path) -> Shift:
        return cls(path.read_text().strip() or None)


class OnlyShift(Shift):
    """Reads files with its name in them, and says little of others."""

    @classmethod
    def load(cls, path: Path) -> Shift:
        if "shift" not in path.read_text():
            raise KeyError("shift")
        return cls()


def test_corrections_keep_the_raw_value(infer: Infer) -> None:
    batch = fake_plugin.simulate(TRUTH)
    batch.mask[1] = True
    plain, corrected = infer(batch).catalogue, infer(batch, corrections=[Shift()]).catalogue
    assert (corrected["teff_raw"][[0, 2]] == plain["teff"][[0, 2]]).all()
    for name in ("teff", "teff_p16", "teff_p97_5"):
        assert abs(corrected[name][0] - plain[name][0] - 100 * u.K) < 0.01 * u.K
    assert corrected["teff"][2] == plain["teff"][2]
    assert names(corrected["flags"][2]) == ["correction_out_of_range"]
    assert corrected["teff_raw"].mask.tolist() == [False, True, False]
    assert "teff_raw" not in plain.colnames and corrected.meta["correct"] == "Shift"


def test_correction_files(plugins: Plugins, infer: Infer, tmp_path: Path) -> None:
    from specinn.plugins.hookspecs import Record, hookimpl

    class Extra:
        @hookimpl
        def specinn_corrections(self) -> list[Record]:
            return [Record(name="shift", summary="", factory=f"{__name__}:Shift")]

    both = Plugins(entry=[], extra={"fake": fake_plugin, "extra": Extra()})
    good, wrong = tmp_path / "good.toml", tmp_path / "wrong.toml"
    good.write_text(models.find(both, "toy-model").sha256())
    wrong.write_text("0123456789abcdef")
    batch = fake_plugin.simulate(TRUTH)
    result = infer(batch, corrections=[str(good)], plugins=both).catalogue
    assert result.meta["correct"] == "good.toml"
    assert (
        result["teff"] == infer(batch, corrections=[f"shift:{good}"], plugins=both).catalogue["teff"]
    ).all()
    with pytest.raises(ConfigError, match="fitted for the model 0123456789ab"):
        infer(batch, corrections=[wrong], plugins=both)
    with pytest.raises(
        ConfigError, match=r"good.toml is not read by any installed correction \(there is none\)"
    ):
        infer(batch, corrections=[good])


def test_the_kind_of_a_correction_is_recognised(tmp_path: Path) -> None:
    import specinn_teff_bias
    from specinn_teff_bias.correction import TeffBias

    from specinn.plugins.hookspecs import Record, hookimpl

    class Extra:
        @hookimpl
        def specinn_corrections(self) -> list[Record]:
            return [Record(name="shift", summary="", factory=f"{__name__}:OnlyShift")]

    plugins = Plugins([], {"extra": Extra(), "shipped": specinn_teff_bias})
    shift, bias, neither, both = (tmp_path / name for name in ("shift", "bias.toml", "x.toml", "both.toml"))
    shift.write_text("shift")
    text = (
        'n_stars = 3\nprovenance = "made up"\n[labels.logg]\na = 1e-4\nb = 0.1\n[range]\nteff = [4e3, 7e3]\n'
    )
    bias.write_text(text)
    both.write_text(f"# shift\n{text}")
    neither.write_text("[labels]\n")
    assert isinstance(load_correction(plugins, shift), Shift)
    assert isinstance(load_correction(plugins, bias), TeffBias)
    assert isinstance(load_correction(plugins, f"shift:{both}"), Shift)
    assert isinstance(load_correction(plugins, f"teff-bias:{both}"), TeffBias)
    with pytest.raises(
        ConfigError, match=r"is read by shift and by teff-bias: choose one, as in shift:.*both"
    ):
        load_correction(plugins, both)
    with pytest.raises(
        ConfigError,
        match=r"x.toml is not read by any installed correction.*shift says: KeyError.*teff-bias says: ",
    ):
        load_correction(plugins, neither)
    with pytest.raises(KeyError):  # of the kind that was asked for: not hidden
        load_correction(plugins, f"shift:{neither}")


def test_bad_files_cost_their_own_rows(plugins: Plugins, tmp_path: Path) -> None:
    good, bad, empty = tmp_path / "good.txt", tmp_path / "bad.txt", tmp_path / "empty.txt"
    fake_plugin.write_text(good, fake_plugin.simulate(TRUTH))
    bad.write_text("a letter to a friend\n")
    empty.write_text("")
    (tmp_path / "folder").mkdir()
    reported: list[tuple[str, str]] = []
    job = prepare(plugins, instrument="toy", samples=100)
    files = [bad, good, tmp_path / "none.txt", tmp_path / "folder", empty, good]
    table = job.catalogue(file_sources(files, plugins), report=lambda *said: reported.append(said))
    assert unread(table).tolist() == [True, False, False, False, True, True, True, False, False, False]
    assert table["row"].tolist() == list(range(10))
    assert "no such file" in table["message"][4] and "*.fits" in table["message"][5]
    assert [name for name, _ in reported] == [str(f) for f in (bad, files[2], files[3], empty)]
    assert table["id"][0] == str(bad) and table["id"][1] == "star-0" and table["path"][1] == str(good)
    assert all(len(message) > 10 for message in table["message"][unread(table)])


def test_a_defect_in_the_middle_keeps_what_came_before(plugins: Plugins) -> None:
    def broken() -> Any:
        yield fake_plugin.simulate(TRUTH[:2])
        raise OSError("the tape ended")

    job = prepare(plugins, instrument="toy", samples=100)
    table = job.catalogue(
        [Source("tape.fits", broken), Source("next", lambda: [fake_plugin.simulate(TRUTH[:1])])]
    )
    assert unread(table).tolist() == [False, False, True, False]
    assert table["message"][2] == "tape.fits could not be read: OSError: the tape ended"


class Fragile(fake_plugin.Toy):
    """Fails for one star, as code may."""

    def sample(self, batch: Any, n_samples: int, seed: int) -> Posterior:
        if "star-1" in batch.meta["id"]:
            raise ZeroDivisionError("of all things")
        return super().sample(batch, n_samples, seed)


def test_an_unexpected_failure_costs_one_spectrum_and_is_logged(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    model = Fragile.load(fake_plugin.MODELS["toy-model"])
    pipeline = Pipeline(model, plugins, RunOptions(samples=100), keep_samples=True)
    with caplog.at_level(logging.ERROR, "specinn"):
        result = pipeline(fake_plugin.simulate(TRUTH))
    assert [names(f) for f in result.meta["flags"]] == [[], ["not_read"], []]
    message = "could not be processed: ZeroDivisionError: of all things (in the estimator 'toy')"
    assert result.meta["message"][1] == message
    assert np.isfinite(result.posterior.map[[0, 2]]).all() and np.isnan(result.posterior.map[1]).all()
    assert "ZeroDivisionError" in caplog.text
    reference = Pipeline(
        fake_plugin.Toy.load(fake_plugin.MODELS["toy-model"]),
        plugins,
        RunOptions(samples=100),
        keep_samples=True,
    )
    expected = reference(fake_plugin.simulate(TRUTH)).posterior.map
    assert np.array_equal(result.posterior.map[2], expected[2])  # alone or not: the same samples


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rv": 1e5}, "rv 100000"),
        ({"degrade_snr": -1.0}, "positive S/N"),
        ({"resolving_power": 0.5}, "above 1"),
        ({"samples": 1}, "at least 2"),
        ({"seed": -1}, "not negative"),
    ],
)
def test_wrong_options_are_refused_before_the_work(infer: Infer, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        infer(fake_plugin.simulate(TRUTH), **options)


def test_steps_that_the_options_need(plugins: Plugins) -> None:
    model = fake_plugin.Toy.load(fake_plugin.MODELS["toy-model"])
    model.preprocessing = (("to-arms", {}),)
    with pytest.raises(ConfigError, match="rest-frame"):
        Pipeline(model, plugins, RunOptions(rv=3.0))
    model.preprocessing = (("rest-frame", {}),)
    with pytest.raises(ConfigError, match="to-arms"):
        Pipeline(model, plugins, RunOptions(degrade_snr=3.0))
    model.preprocessing = (("rest-frame", {"speed": 3}),)
    with pytest.raises(PluginError, match="does not take the options"):
        Pipeline(model, plugins)


def specutils_spectrum(batch: Any, row: int = 0, cls: Any = None, **fields: Any) -> Any:
    from specutils import Spectrum

    options = {
        "flux": batch.flux[row] * u.Unit("erg / (s cm2 AA)"),
        "spectral_axis": batch.wavelength * u.AA,
        "uncertainty": StdDevUncertainty(batch.sigma[row]),
        "mask": batch.mask[row],
    }
    return (cls or Spectrum)(**{**options, **fields})


@pytest.mark.slow
def test_specutils_spectra_give_what_batches_give(infer: Infer) -> None:
    batch = fake_plugin.simulate(TRUTH)
    batch.mask[0, 100:140] = True
    batch.sigma[0, 200] = np.inf
    expected = infer(batch[[0]], rv=0.0, resolving_power=5e3).catalogue
    sigma, wave = batch.sigma[0], batch.wavelength
    with np.errstate(divide="ignore"):
        ivar = 1.0 / sigma**2
    spectra = {
        "plain": specutils_spectrum(batch),
        "variance": specutils_spectrum(batch, uncertainty=VarianceUncertainty(sigma**2)),
        "ivar": specutils_spectrum(batch, uncertainty=InverseVariance(ivar)),
        "nm": specutils_spectrum(batch, spectral_axis=wave * 0.1 * u.nm),
        "integers": specutils_spectrum(batch, mask=batch.mask[0] * 8),
        "other unit": specutils_spectrum(
            batch, uncertainty=StdDevUncertainty(sigma * 10, unit=u.Unit("0.1 erg / (s cm2 AA)"))
        ),
        "GHz": specutils_spectrum(
            batch, spectral_axis=(air_to_vacuum(wave) * u.AA).to(u.GHz, equivalencies=u.spectral())
        ),
    }
    for name, spectrum in spectra.items():
        result = infer(spectrum, rv=0.0, resolving_power=5e3).catalogue
        assert result["teff"].value == pytest.approx(expected["teff"].value, abs=0.5), name
        assert result["teff_std"].value == pytest.approx(expected["teff_std"].value, rel=0.02), name


def test_lists_collections_and_the_old_class(infer: Infer) -> None:
    from astropy.utils.exceptions import AstropyDeprecationWarning
    from specutils import Spectrum1D, SpectrumCollection, SpectrumList

    batch = fake_plugin.simulate(TRUTH)
    expected = infer(batch, rv=0.0, resolving_power=5e3).catalogue["teff"]
    each = [specutils_spectrum(batch, i) for i in range(3)]
    flux, sigma = batch.flux * u.Jy, StdDevUncertainty(batch.sigma)
    whole = specutils_spectrum(batch, flux=flux, uncertainty=sigma, mask=batch.mask)
    with pytest.warns(AstropyDeprecationWarning):
        old = [specutils_spectrum(batch, i, cls=Spectrum1D) for i in range(3)]
    collection = SpectrumCollection.from_spectra(SpectrumList(each))
    for spectra in (each, SpectrumList(each), whole, collection, old, [batch[[0]], each[1], each[2]]):
        result = infer(spectra, rv=0.0, resolving_power=5e3)
        assert result.catalogue["teff"].value == pytest.approx(expected.value, abs=0.01)
        assert result.posterior.samples.shape[0] == 3


def test_specutils_details(infer: Infer) -> None:
    batch = fake_plugin.simulate(TRUTH[:1], rv=30.0)
    spectrum = specutils_spectrum(batch, radial_velocity=30 * u.km / u.s, meta={"header": {"OBJECT": "HD 1"}})
    result = infer(spectrum, resolving_power=5e3).catalogue
    assert result["id"][0] == "HD 1" and result["rv"][0].value == pytest.approx(30) and not result["flags"][0]
    assert api.to_batch(spectrum, "vacuum").medium == "vacuum"
    assert np.isnan(api.to_batch(specutils_spectrum(batch, uncertainty=None)).sigma).all()
    with pytest.raises(ReadError, match="spectral axis is in km"):
        api.to_batch(specutils_spectrum(batch, spectral_axis=np.arange(2000.0) * u.km / u.s))
    with pytest.raises(ReadError, match="linear unit"):
        api.to_batch(specutils_spectrum(batch, flux=u.Magnitude(batch.flux[0]), uncertainty=None))


@pytest.mark.parametrize("given", [[], 3, [object()], np.ones(5)])
def test_what_is_no_spectrum_is_refused(infer: Infer, given: Any) -> None:
    with pytest.raises(ReadError, match=r"empty|expected"):
        infer(given)


def test_paths_in_python(infer: Infer, plugins: Plugins, tmp_path: Path) -> None:
    path = fake_plugin.write_text(tmp_path / "a.txt", fake_plugin.simulate(TRUTH))
    one, mixed = infer(path), infer([str(path), tmp_path / "none.txt"])
    assert len(one.catalogue) == 3 and mixed.catalogue["flag_bad"].tolist() == [False, False, False, True]
    with pytest.raises(ReadError, match="no such file"):
        infer(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="is a folder"):
        infer(tmp_path)
    with pytest.raises(ReadError, match="in one list"):
        infer([path, fake_plugin.simulate(TRUTH)])
    (batch,) = specinn.read(path, plugins=plugins)
    assert len(batch) == 3


def test_loaded_models(infer: Infer, plugins: Plugins) -> None:
    model = specinn.load_model("toy-model", plugins=plugins)
    batch = fake_plugin.simulate(TRUTH)
    by_path = infer(batch, model=fake_plugin.MODELS["toy-model"]).catalogue
    assert (infer(batch, model=model).catalogue["teff"] == by_path["teff"]).all()


def test_models_that_cannot_be_used(plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'toy-model'"):
        models.find(plugins, "toy-modell")
    with pytest.raises(ModelError, match="no such"):
        models.find(plugins, tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="toy-model"):
        models.find(plugins, None, "hermes")  # neither for hermes nor for 4most-hr
    assert models.find(plugins, None, "toy").name == "toy-model"
    content = fake_plugin.MODELS["toy-model"].read_bytes()
    for name, data in (("text", b"hello"), ("cut", content[:200]), ("zeros", bytes(100)), ("empty", b"")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=str(path)):
            models.find(plugins, path)
    with pytest.raises(ModelError, match="device 'cuda:9'"):
        specinn.load_model("toy-model", device="cuda:9", plugins=plugins)
    header = {"format": "specinn model", "version": 2, "estimator": "toy"}
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "new.safetensors", metadata={"specinn": __import__("json").dumps(header)})
    with pytest.raises(ModelError, match="version 2"):
        models.find(plugins, tmp_path / "new.safetensors")


def test_a_flag_of_the_reader_is_kept(infer: Infer) -> None:
    batch = fake_plugin.simulate(TRUTH)
    batch.meta["flags"] = np.array([0, Flag.NO_SIGNAL, 0], np.uint32)
    result = infer(batch).catalogue
    assert result["flag_bad"].tolist() == [False, True, False]
    assert result["teff"].mask.tolist() == [False, True, False]


def sizes_of_batches(job: Any) -> list[int]:
    """The numbers of spectra that go through the pipeline of a run together, filled as it runs."""
    seen: list[int] = []
    job.pipeline.steps = (("spy", lambda batch: (seen.append(len(batch)), batch)[1]), *job.pipeline.steps)
    return seen


@pytest.mark.slow
def test_neighbours_on_one_grid_travel_together(plugins: Plugins, tmp_path: Path) -> None:
    files = []
    for i, n in enumerate([1] * 5 + [2, 60, 70, 1, 1, 1]):
        batch = fake_plugin.simulate(np.repeat(TRUTH[:1], n, axis=0), seed=i)
        batch.meta["id"] = [f"{i}-{j}" for j in range(n)]
        if i == 9:
            batch.resolving_power = 6000.0
        files.append(fake_plugin.write_text(tmp_path / f"{i}.txt", batch))
    files[3].write_text("a letter to a friend\n")
    job = prepare(plugins, instrument="toy", samples=50)
    seen = sizes_of_batches(job)
    done = []
    table = job.catalogue(file_sources(files, plugins), progress=lambda *n: done.append(n))
    # up to a bad file, up to CHUNK, up to another resolving power
    assert seen == [3, CHUNK, CHUNK, CHUNK, CHUNK, 6, 1, 1]
    assert sum(n for n, _ in done) == len(table) == 140 and sum(f for _, f in done) == len(files)
    assert unread(table).nonzero()[0].tolist() == [3] and table["id"][3] == str(files[3])
    ids = [f"{i}-{j}" for i, n in enumerate([1] * 5 + [2, 60, 70, 1, 1, 1]) for j in range(n)]
    assert [name for name in table["id"] if "/" not in name] == [name for name in ids if name != "3-0"]
    for i in (0, 6, 10):  # alone they are what they are among others
        alone = file_sources(files, plugins)[i]
        assert (job.catalogue([alone])["teff_p16"] == table["teff_p16"][table["path"] == str(files[i])]).all()


def test_velocities_of_some_files_do_not_part_them(plugins: Plugins) -> None:
    batches = [fake_plugin.simulate(TRUTH[:1], rv=20.0, seed=i) for i in range(3)]
    batches[1].meta.remove_column("rv")
    job = prepare(plugins, instrument="toy", samples=50)
    seen = sizes_of_batches(job)
    table = job.catalogue([Source(str(i), lambda b=b: [b]) for i, b in enumerate(batches)])
    assert seen == [3] and [names(f) for f in table["flags"]] == [[], ["rv_measured"], []]
    assert table["rv"] == pytest.approx([20, 20, 20], abs=2)
