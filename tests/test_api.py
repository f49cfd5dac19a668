"""Python in scripts and notebooks: what results show, plot and give away, and specutils both ways."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import oracle as known_stars
import pytest
from astropy import units as u
from astropy.table import Table

import specinn
from specinn import api, models
from specinn.errors import ConfigError, ModelError, PluginError, ReadError, SpecinnError
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.plugins.interfaces import Correction
from specinn.posterior import Posterior
from specinn.posterior.display import FEW, ROWS
from specinn.spectra import SpectrumBatch
from specinn.spectra.specutils import to_batch, to_spectra

DOCS = Path(__file__).resolve().parents[1] / "docs"
PNG = b"\x89PNG\r\n"
TRUTH = np.array([[5772.0, 4.44, 0.0, 2.05], [4500.0, 2.0, -1.2, 2.0], [6500.0, 4.0, -0.5, 2.6]])
LABELS = LabelSet(
    tuple(make_label(name, bounds) for name, bounds in
          {"teff": (4000, 7000), "logg": (0, 5), "fe_h": (-3, 0.5), "a_li": (-0.5, 3.6)}.items())
)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    fake_plugin.Toy.train({"estimator": {"kind": "toy"}}, path.parent, lambda state: None).save(path)
    fake_plugin.MODELS["toy-model"] = path
    return Plugins(entry=[], extra={"fake": fake_plugin})


def infer(spectra: Any, plugins: Plugins, **options: Any) -> api.Inference:
    return specinn.infer(spectra, **{"instrument": "toy", "plugins": plugins, "samples": 400, **options})


def make(n: int = 2, ids: Any = ("sun", "<b>giant</b>"), n_samples: int = 600) -> Posterior:
    """Stars with a tenth of the samples rejected; the second one has no lithium."""
    rng = np.random.default_rng(0)
    samples = rng.normal([5772.0, 4.44, 0.0, 2.0], [30.0, 0.05, 0.02, 0.1], (n, n_samples, 4))
    samples[1:, :, 3] = -0.5 + np.abs(rng.normal(size=(max(n - 1, 0), n_samples)))
    samples[:, : n_samples // 10, 1] = 5.5
    log_prob = rng.normal(size=(n, n_samples))
    log_prob[:, 0] = 99.0  # of a rejected sample, which never counts
    return Posterior(LABELS, samples, log_prob, ids=ids if len(ids or ()) == n else None)


def rejected(n: int = 2) -> Posterior:
    posterior = make(n)
    return attrs.evolve(posterior, inside=np.zeros_like(posterior.inside))


# What is at hand


def test_every_public_name_is_there_and_completed() -> None:
    for name in specinn.__all__:
        assert getattr(specinn, name) is not None and name in dir(specinn)
    with pytest.raises(AttributeError, match="no attribute 'infers'"):
        specinn.infers  # noqa: B018


# One star of many


def test_stars_by_number_and_by_name() -> None:
    posterior = make()
    assert [posterior.row(star) for star in (0, -1, "sun", np.int64(1))] == [0, 1, 0, 1]
    assert posterior["sun"].ids == ("sun",) and posterior[[1]].name() == "<b>giant</b>"
    assert (posterior["sun"].samples == posterior.samples[:1]).all()
    assert make(ids=None).name(1) == "spectrum 1"
    with pytest.raises(ConfigError, match="no spectrum is called 'moon'; there are sun, <b>giant</b>"):
        posterior.row("moon")
    with pytest.raises(ConfigError, match="no spectrum is called 'sun'; give its number"):
        make(ids=None).row("sun")
    with pytest.raises(ConfigError, match="2 spectra are called 'sun': give one of the numbers"):
        make(ids=("sun", "sun")).row("sun")
    for star in (2, -3):
        with pytest.raises(ConfigError, match=f"no spectrum {star}: they are numbered from 0 to 1"):
            posterior.row(star)


def test_names_travel_with_their_stars() -> None:
    posterior = make()
    assert Posterior.join([posterior, posterior[[0]]]).ids == ("sun", "<b>giant</b>", "sun")
    assert Posterior.join([posterior, make(ids=None)]).ids is None
    with pytest.raises(ModelError, match="1 ids for the posteriors of 2 stars"):
        attrs.evolve(posterior, ids=["sun"])


def test_accepted_samples_and_derived_lithium() -> None:
    posterior = make()
    kept = posterior.accepted("sun")
    assert kept.shape == (540, 4) and (kept == posterior.samples[0, 60:]).all()
    li_fe, teff = posterior.accepted(0, ["li_fe", "teff"]).T
    assert li_fe == pytest.approx(kept[:, 3] - 1.05 - kept[:, 2]) and (teff == kept[:, 0]).all()
    assert (posterior.accepted(0, "logg")[:, 0] == kept[:, 1]).all()
    assert rejected().accepted(0).shape == (0, 4)
    with pytest.raises(ConfigError, match="no label 'mass'; there are teff, logg, fe_h, a_li, li_fe"):
        posterior.accepted(0, ["mass"])


# What results show


def test_the_table_of_a_star() -> None:
    posterior = make()
    text = repr(posterior)
    assert "Posterior of sun: 540 of 600 samples accepted" in text
    quantiles = posterior.quantiles([0.16, 0.5, 0.84])[:, 0, 0]
    row = next(line for line in text.splitlines() if line.startswith("teff")).split()
    assert row == ["teff", "K", f"{posterior.map[0, 0]:.0f}", f"{quantiles[1]:.0f}",
                   f"{quantiles[0]:.0f}", "to", f"{quantiles[2]:.0f}"]  # fmt: skip
    first, second = text.split("\n\n")
    assert "< " not in first and "< " in next(x for x in second.splitlines() if x.startswith("a_li"))
    page = posterior._repr_html_()
    assert (
        page.count("<table>") == 2 and "<td" in page and "&lt;b&gt;giant" in page and "<b>giant" not in page
    )


def test_many_stars_are_counted_and_none_accepted_is_said() -> None:
    posterior = make(FEW + 1, ids=None)
    posterior.inside[1] = False
    text = repr(posterior)
    assert f"Posterior of {FEW + 1} spectra" in text and "1 of them have no accepted sample" in text
    assert "median 540, lowest 0" in text and "<table>" not in posterior._repr_html_()
    text = repr(rejected(1))
    assert "0 of 600 samples accepted" in text and "no values" in text and "nan" not in text
    assert repr(Posterior.empty(LABELS, 0, 10)).startswith("Posterior of 0 spectra")
    assert "nan" not in repr(Posterior.empty(LABELS, 1, 10))


def test_the_result_shows_its_flags(toy: Plugins, tmp_path: Path) -> None:
    batch = fake_plugin.simulate(TRUTH, snr=100.0)
    batch.meta["id"] = ["sun", "<i>two", "blind"]
    batch.mask[2] = True
    result = infer(batch, toy, rv=0.0)
    text = repr(result)
    assert text.startswith("Inference by toy-model: 3 spectra, 2 without warnings, 0 to look at, 1 without")
    lines = {line.split()[1]: line for line in text.splitlines() if line[0].isdigit()}
    assert re.search(r"none +0\.0 +5\d\d\d -\d+ \+\d+", lines["sun"])
    assert "no_overlap" in lines["blind"] and lines["blind"].count(" -") == 3
    assert "no values for blind: no arm of the model is covered" in text and "nan" not in text.lower()
    page = result._repr_html_()
    assert "<table>" in page and "&lt;i&gt;two" in page and "no_overlap" in page
    result.catalogue.sort("teff", reverse=True)  # the user's own copy
    assert repr(result) == text and len(result) == 3
    assert "blind" in repr(api.Inference(result.catalogue, result.posterior))


def test_of_a_long_catalogue_the_first_rows(toy: Plugins) -> None:
    result = infer(fake_plugin.simulate(np.repeat(TRUTH, 5, axis=0)), toy, samples=50)
    assert "and 5 more" in repr(result) and len(re.findall("star-", repr(result))) == ROWS


# Figures


@pytest.mark.slow
def test_histograms_of_a_posterior() -> None:
    posterior = make()
    figure = posterior.plot("sun", ["teff", "li_fe"])
    assert [axes.get_xlabel() for axes in figure.axes] == [r"$T_\mathrm{eff}$ (K)", "[Li/Fe]"]
    counts = sum(bar.get_height() for bar in figure.axes[0].patches[:36])
    assert counts == pytest.approx(540, abs=6)  # but for those beyond the ends
    assert figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(posterior.map[0, 0])
    assert figure._repr_png_().startswith(PNG)
    assert posterior.plot(1, "a_li").axes[0].get_title().startswith("< ")
    assert len(posterior.plot(0).axes) == 4


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[notebook]'")


@pytest.mark.slow
def test_a_figure_of_the_user_is_drawn_in() -> None:
    needs("corner")
    from matplotlib.figure import Figure

    for draw in (make().plot, make().corner):
        own_figure = Figure()
        assert draw(0, ["teff", "logg"], figure=own_figure) is own_figure and len(own_figure.axes) in (2, 4)


@pytest.mark.slow
def test_a_corner_plot() -> None:
    needs("corner")
    posterior = make()
    truths = {"teff": 6300.0, "a_li": 2.0}
    figure = posterior.corner("sun", ["teff", "logg"], truths=truths)
    first, _, pair, _ = figure.axes
    low, high = first.get_xlim()
    assert low < 5700 and high > 6300  # a truth far off is in the picture
    at = [line.get_xdata()[0] for line in first.lines]
    assert at == pytest.approx([6300.0, posterior.map[0, 0]])
    assert (pair.get_xlabel(), pair.get_ylabel()) == (r"$T_\mathrm{eff}$ (K)", r"$\log\,g$")
    assert figure._repr_png_().startswith(PNG)
    inside = make().corner(0, ["teff", "logg"], truths=[5772.0, 4.44])
    assert inside.axes[3].lines[0].get_xdata()[0] == pytest.approx(4.44)


def test_figures_that_cannot_be_drawn_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("corner", "xarray", "arviz"):
        needs(package)
    posterior = make()
    for draw in (rejected().plot, rejected().corner, rejected().to_arviz):
        with pytest.raises(ModelError, match="sun has no posterior to show: none of its 600 samples was acc"):
            draw("sun")
    with pytest.raises(ModelError, match="only 36 samples of sun were accepted, but a corner plot needs 50"):
        make(n_samples=40).corner()
    with pytest.raises(ConfigError, match="no label 'mas'"):
        posterior.corner(truths={"mas": 1.0})
    with pytest.raises(
        ConfigError, match=r"truths have shape \(3,\): expected one value for each of teff, logg"
    ):
        posterior.corner(0, ["teff", "logg"], truths=[1, 2, 3])
    with pytest.raises(ConfigError, match="labels is empty: choose from teff"):
        posterior.plot(0, [])
    for package, method in (("corner", "corner"), ("xarray", "to_xarray"), ("arviz", "to_arviz")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=rf"needs {package} .*: pip install 'specinn\[notebook\]'"):
            getattr(posterior, method)()


# Export


def test_a_dataset_of_all_stars() -> None:
    needs("xarray")
    posterior = make()
    result = posterior.to_xarray()
    assert dict(result.sizes) == {"star": 2, "draw": 600} and result["star"].values.tolist() == list(
        posterior.ids
    )
    assert result["teff"].attrs == {"units": "K", "long_name": "Effective temperature"}
    kept = result["teff"].sel(star="sun").values
    assert np.isnan(kept[:60]).all() and (kept[60:] == posterior.samples[0, 60:, 0]).all()
    assert (result["accepted"].values == posterior.inside).all()
    assert (result["log_prob"].values == posterior.log_prob).all()
    assert make(ids=None).to_xarray()["star"].values.tolist() == [0, 1]


def test_what_arviz_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("arviz")
    posterior = make()
    result = posterior.to_arviz("sun")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    summary = arviz.summary(result.posterior, kind="stats", round_to="none")
    assert summary["mean"].to_numpy() == pytest.approx(posterior.mean[0])
    assert result.posterior["teff"].shape == (1, 540)
    assert (result.sample_stats["lp"].values[0] == posterior.log_prob[0, 60:]).all()
    monkeypatch.setattr("specinn.posterior.export.metadata.version", lambda name: "1.3.0")
    tree = posterior.to_arviz("sun")
    assert (tree["posterior"]["teff"].values == result.posterior["teff"].values).all()
    assert tree["posterior"].attrs["star"] == "sun" and "lp" in tree["sample_stats"]


# To and from specutils


def test_what_goes_to_specutils_comes_back() -> None:
    batch = fake_plugin.simulate(TRUTH[:2], rv=30.0)
    batch.mask[0, 5:9] = True
    batch.sigma[1] = np.nan
    batch.meta["rv"] = [30.0, np.nan]
    batch.meta["object"] = np.ma.masked_array(["HD 1", ""], [False, True])
    power = np.linspace(4000.0, 5000.0, batch.wavelength.size)
    for resolving in (None, 5000.0, power):
        for arms in ({"all": slice(0, 2000)}, {"green": slice(0, 1000), "red": slice(1000, 2000)}):
            there = attrs.evolve(batch, resolving_power=resolving, arms=arms, medium="vacuum")
            spectra = to_spectra(there)
            assert [s.meta["medium"] for s in spectra] == ["vacuum"] * 2
            assert spectra[0].radial_velocity == 30 * u.km / u.s and spectra[1].uncertainty is None
            assert spectra[0].meta["object"] == "HD 1" and "object" not in spectra[1].meta
            for i, spectrum in enumerate(spectra):
                back = to_batch(spectrum)
                for name in ("flux", "sigma", "mask"):
                    assert np.array_equal(
                        getattr(back, name)[0], getattr(there, name)[i], equal_nan=name != "mask"
                    )
                assert back.medium == "vacuum" and dict(back.arms) == arms
                assert np.array_equal(back.wavelength, there.wavelength)
                assert np.array_equal(back.resolving_power, resolving)  # type: ignore[arg-type]
                assert back.meta["id"][0] == there.meta["id"][i]
                assert np.array_equal(back.meta["rv"], there.meta["rv"][[i]], equal_nan=True)


def test_what_a_spectrum_states_and_what_overrides_it() -> None:
    batch = fake_plugin.simulate(TRUTH[:1])
    at_rest = to_spectra(batch)[0]
    assert to_batch(at_rest).meta["rv"][0] == 0.0  # known to be at rest, not unknown
    del at_rest.meta["rv"]
    assert np.isnan(to_batch(at_rest).meta["rv"][0])
    assert to_batch(at_rest, "vacuum").medium == "vacuum"
    at_rest.meta["medium"] = "water"
    with pytest.raises(ReadError, match="medium is 'water': expected 'air' or 'vacuum'"):
        to_batch(at_rest, otherwise="vacuum")
    del at_rest.meta["medium"]
    assert to_batch(at_rest, otherwise="vacuum").medium == "vacuum"
    at_rest.meta["resolving_power"] = np.full(7, 5000.0)
    with pytest.raises(
        ReadError, match=r"has shape \(7,\): expected a number above 1, or one for each of its"
    ):
        to_batch(at_rest)
    at_rest.meta["resolving_power"] = 0.5
    with pytest.raises(ReadError, match="expected a number above 1"):
        to_batch(at_rest)
    at_rest.meta |= {"resolving_power": 5000.0, "arms": {"green": (0, 1000), "red": (1000, 1500)}}
    assert list(to_batch(at_rest).arms) == ["all"]  # it was cut since


def test_metadata_of_a_collection_are_a_list(toy: Plugins) -> None:
    from specutils import SpectrumCollection

    batch = fake_plugin.simulate(TRUTH)
    collection = SpectrumCollection.from_spectra(to_spectra(batch))
    result, expected = infer(collection, toy), infer(batch, toy)
    assert result.catalogue["id"].tolist() == expected.catalogue["id"].tolist()
    assert result.catalogue["teff"].value == pytest.approx(expected.catalogue["teff"].value, abs=0.01)


@pytest.mark.slow
def test_our_readers_in_specutils(toy: Plugins, tmp_path: Path) -> None:
    from specutils import Spectrum, SpectrumList

    one = fake_plugin.write_text(tmp_path / "one.txt", fake_plugin.simulate(TRUTH[:1], rv=12.0))
    three = fake_plugin.write_text(tmp_path / "three.txt", fake_plugin.simulate(TRUTH, rv=12.0))
    assert specinn.register_loaders(toy) == ["specinn", "specinn-toy-text"] == specinn.register_loaders(toy)
    expected = infer(one, toy).catalogue
    for name in ("specinn", "specinn-toy-text"):
        spectrum = Spectrum.read(one, format=name)
        result = infer(spectrum, toy).catalogue
        for column in ("id", "path", "rv", "teff", "teff_p16", "flags"):
            assert (result[column] == expected[column]).all(), column
        assert spectrum.meta["medium"] == "air" and spectrum.radial_velocity.to_value("km/s") == 12.0
        several = SpectrumList.read(str(three), format=name)
        assert [s.meta["id"] for s in several] == ["star-0", "star-1", "star-2"]
        assert (infer(several, toy).catalogue["teff"] == infer(three, toy).catalogue["teff"]).all()
        with pytest.raises(ReadError, match=r"three.txt: holds 3 spectra: read it by SpectrumList.read"):
            Spectrum.read(three, format=name)
        with pytest.raises(ReadError, match="no such file"):
            Spectrum.read(tmp_path / "none.txt", format=name)
    with open(one, "rb") as file, pytest.raises(ReadError, match="expected the path of a file"):
        Spectrum.read(file, format="specinn")


def test_specutils_never_chooses_our_readers_of_itself(toy: Plugins, tmp_path: Path) -> None:
    from specutils.io.registers import identify_spectrum_format

    path = fake_plugin.write_text(tmp_path / "one.txt", fake_plugin.simulate(TRUTH[:1]))
    before = identify_spectrum_format(str(path))
    specinn.register_loaders(toy)
    assert identify_spectrum_format(str(path)) == before


def test_orders_that_overlap_are_spectra_of_their_own(toy: Plugins, tmp_path: Path) -> None:
    from specutils import Spectrum, SpectrumList

    class Echelle:
        def recognises(self, path: Path) -> bool:
            return True

        def read(self, path: Path) -> Any:
            wavelength = np.concatenate([np.linspace(5000, 5100, 50), np.linspace(5090, 5200, 60)])
            arms = {"1": slice(0, 50), "2": slice(50, 110)}
            yield SpectrumBatch.from_arrays(wavelength, np.ones(110), ids=["x"], arms=arms)

    from specinn.plugins.hookspecs import ReaderRecord, hookimpl

    class Plugin:
        @hookimpl
        def specinn_instruments(self) -> list[Any]:
            return [ReaderRecord(name="echelle", summary="", factory=f"{__name__}:Echelle")]

    globals()["Echelle"] = Echelle
    path = tmp_path / "orders"
    path.write_text("x")
    specinn.register_loaders(Plugins(entry=[], extra={"mine": Plugin()}))
    orders = SpectrumList.read(path, format="specinn-echelle")
    assert [(s.meta["arm"], s.spectral_axis.size) for s in orders] == [("1", 50), ("2", 60)]
    with pytest.raises(ReadError, match="holds 2 orders that overlap"):
        Spectrum.read(path, format="specinn-echelle")


# The spectra of what was inferred


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    return known_stars.plugins_in(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(scope="module")
def known(oracle: Plugins, tmp_path_factory: pytest.TempPathFactory) -> api.Inference:
    """Stars whose labels are known, from two files, with one between them that is lost."""
    folder = tmp_path_factory.mktemp("known")
    files = [
        known_stars.observe(folder / "two.txt", ["dwarf", "giant"], 120.0),
        folder / "lost.txt",
        known_stars.observe(folder / "one.txt", ["warm"], 120.0),
    ]
    return specinn.infer(files, instrument="tiny", plugins=oracle, samples=500, seed=3)


@pytest.mark.slow
def test_the_model_spectrum_lies_over_the_observed_one(known: api.Inference) -> None:
    for star in ("dwarf", "giant", "warm"):
        model, observed, bands = (
            known.spectrum(star, what, synthesizer="analytic", draws=100)  # type: ignore[arg-type]
            for what in ("model", "observed", "bands")
        )
        assert [s.meta["arm"] for s in model] == ["green", "red"]
        for fit, seen, around in zip(model, observed, bands, strict=True):
            assert fit.flux.unit == u.one and fit.spectral_axis.unit == u.AA
            assert (fit.spectral_axis == seen.spectral_axis).all() and fit.radial_velocity == 0 * u.km / u.s
            off = (seen.flux - fit.flux).value[~(fit.mask | seen.mask)]
            assert off.size > 300 and np.abs(off).mean() < 0.02
            assert seen.uncertainty is not None and fit.uncertainty is None
            assert around.flux.shape == (4, fit.flux.size) and around.meta["levels"][0] == 0.025
            assert (np.diff(around.flux.value, axis=0)[:, ~fit.mask] >= 0).all()
            assert (np.isnan(fit.flux.value) == fit.mask).all()
        meta = model[0].meta
        assert meta["id"] == star and meta["medium"] == "air" and meta["rv"] == 0.0
        assert meta["rv_removed"] == pytest.approx(known_stars.VELOCITY, abs=0.5)
        assert meta["labels"]["teff"] == pytest.approx(
            float(known.catalogue["teff"][known.posterior.row(star)].value)
        )


def test_the_observed_spectrum_is_what_the_network_was_given(known: api.Inference) -> None:
    origin = known._begun
    row = known.posterior.row("warm")
    prepared = origin.run.pipeline.preprocess(origin.spectrum(row))
    seen = known.spectrum("warm", "observed", synthesizer="analytic")
    flux = np.concatenate([s.flux.value for s in seen])
    assert flux[~prepared.mask[0]] == pytest.approx(prepared.flux[0, ~prepared.mask[0]])
    assert (np.concatenate([s.mask for s in seen]) == prepared.mask[0]).all()


@pytest.mark.slow
def test_figures_of_a_spectrum(known: api.Inference) -> None:
    whole = known.plot("dwarf", synthesizer="analytic", draws=20)
    assert whole._repr_png_().startswith(PNG)
    lines = known.plot("dwarf", lines=True, synthesizer="analytic", draws=20)
    assert any("Fe I" in axes.get_title() for axes in lines.axes)
    numbers = known.resimulate("dwarf", synthesizer="analytic", draws=20).numbers()
    assert 0.1 < numbers["chi2"] < 1.5


def test_spectra_that_were_in_memory(known: api.Inference, oracle: Plugins) -> None:
    path = Path(str(known.catalogue["path"][0]))
    batches = specinn.read(path, plugins=oracle)
    spectra = [s for batch in batches for s in to_spectra(batch)]
    options: dict[str, Any] = {"instrument": "tiny", "plugins": oracle, "samples": 500, "seed": 3}
    expected = known.spectrum("giant", synthesizer="analytic")[1].flux.value
    for spectra_in in (batches, spectra):
        result = specinn.infer(spectra_in, **options).spectrum("giant", synthesizer="analytic")[1]
        assert result.flux.value == pytest.approx(expected, abs=1e-3, nan_ok=True)


def test_corrected_samples_make_the_bands(known: api.Inference, oracle: Plugins) -> None:
    class Shift(Correction):
        @classmethod
        def load(cls, path: Path) -> Shift:
            return cls()

        def apply(self, posterior: Posterior) -> tuple[Posterior, np.ndarray]:
            moved = posterior.samples.copy()
            moved[..., posterior.labels.index("mg_fe")] += 0.2
            shifted = Posterior(posterior.labels, moved, posterior.log_prob, posterior.inside)
            return shifted, np.ones(len(posterior), bool)

    path = Path(str(known.catalogue["path"][0]))
    options: dict[str, Any] = {"samples": 500, "seed": 3, "corrections": [Shift()]}
    result = specinn.infer(path, instrument="tiny", plugins=oracle, **options)
    star = result.resimulate("dwarf", synthesizer="analytic", draws=100)
    assert star.labels["mg_fe"] == pytest.approx(float(result.catalogue["mg_fe"][0].value))
    inside = (star.bands[0] <= star.model) & (star.model <= star.bands[3])
    assert inside[star.good].mean() > 0.9


def test_spectra_that_are_not_to_be_had(known: api.Inference, oracle: Plugins, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lost.txt has no values, so no model spectrum: .*no such file"):
        known.spectrum(2)
    with pytest.raises(ConfigError, match="what 'modell': expected 'model', 'observed' or 'bands'"):
        known.spectrum(0, "modell")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="draws 0: bands need some"):
        known.spectrum(0, "bands", draws=0)
    with pytest.raises(PluginError, match="no synthesizer is called 'marcs'"):
        known.spectrum(0, synthesizer="marcs")
    with pytest.raises(ConfigError, match="no spectrum is called 'pluto'"):
        known.plot("pluto")
    with pytest.raises(ConfigError, match="not linked to their spectra"):
        api.Inference(known.catalogue, known.posterior).spectrum(0)
    path = known_stars.observe(tmp_path / "gone.txt", ["dwarf"], 120.0)
    result = specinn.infer(path, instrument="tiny", plugins=oracle, samples=50)
    path.unlink()
    with pytest.raises(ReadError, match=r"gone.txt: no such file"):
        result.spectrum(0, synthesizer="analytic")


def test_results_go_to_other_processes(known: api.Inference) -> None:
    import pickle

    back = pickle.loads(pickle.dumps(known))
    assert (back.catalogue["id"] == known.catalogue["id"]).all() and back.posterior.ids == known.posterior.ids
    with pytest.raises(ConfigError, match="not linked to their spectra"):
        back.spectrum(0)


# The page


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Every block of docs/python.md, one after the other, with the bundled model and the example spectra."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 9
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    result, spectrum = names["result"], names["spectrum"]
    assert len(names["good"]) == 5 and len(names["teff_and_logg"]) > 3500
    assert {p.name for p in tmp_path.iterdir()} == {"stars.fits", "corner.pdf", "spectrum.pdf"}
    assert np.nanmean(np.abs(names["residual"].value)) < 0.02
    first = specinn.infer(specinn.example_files()[0], model=names["model"]).catalogue
    by_specutils = specinn.infer(spectrum, model=names["model"]).catalogue
    for column in ("id", "rv", "teff", "vbroad_p97_5", "flags"):
        assert (first[column] == by_specutils[column]).all(), column
    assert first["teff"][0] == result.catalogue["teff"][0]
    assert issubclass(ConfigError, SpecinnError)
    assert models.find(Plugins(), None).name in repr(result)
    assert isinstance(Table(result.catalogue), Table) and len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("spectra", "words"),
    [
        (None, "spectra: expected spectra or file names, found NoneType"),
        (5, "found int"),
        (b"a.fits", "found bytes"),
        ({"a": 1}, "found dict"),
        (SpectrumBatch, "found the class SpectrumBatch"),
        (
            (np.ones(3), np.ones(3)),
            "found arrays of numbers: make a spectrum of them by SpectrumBatch.from_arrays",
        ),
        (
            Table({"wave": [1.0], "flux": [2.0]}),
            "expected a column path, found wave, flux; one that is a spectrum",
        ),
    ],
)
def test_B10_what_are_no_spectra(toy, spectra, words):
    with pytest.raises(SpecinnError) as error:
        specinn.infer(spectra, instrument="toy", plugins=toy)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: specinn.infer("a", group_by=5), "group_by 5: expected a keyword"),
        (lambda: specinn.infer("a", recursive="yes"), "recursive 'yes': expected True or False"),
        (lambda: specinn.infer("a", plugins="mine"), "plugins 'mine': expected specinn.plugins.Plugins"),
        (lambda: specinn.read(None), "path None: expected the name of a file"),
        (lambda: specinn.read("a", format=None), "format None: expected the name of a reader"),
        (lambda: specinn.load_model(3), "name 3: expected the name or file of a model"),
    ],
)
def test_B10_other_functions_name_the_argument(call, words):
    with pytest.raises(ConfigError) as error:
        call()
    assert words in str(error.value)


def test_B10_results_name_the_argument(toy):
    result = specinn.infer(fake_plugin.simulate(TRUTH[:1]), instrument="toy", plugins=toy, samples=60)
    for call, words in (
        (lambda: result.spectrum(None), "star None: expected its number, from 0, or its id"),
        (lambda: result.spectrum(0.5), "star 0.5: expected its number"),
        (lambda: result.spectrum(0, "bands", draws="x"), "draws 'x': expected a whole number"),
        (lambda: result.resimulate(0, draws=-3), "draws -3: expected a whole number"),
        (lambda: result.resimulate(0, synthesizer=None), "synthesizer None: expected the name"),
        (lambda: result.write(None), "path None: expected the name of a file"),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert words in str(error.value)
    with pytest.raises(ConfigError, match="rv has 2 values, but there is 1 spectrum: "):
        specinn.infer(fake_plugin.simulate(TRUTH[:1]), instrument="toy", plugins=toy, rv=[1, 2])
