"""The report of an evaluation: numbers against known posteriors, files, the page, and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
import specinn_turbospectrum
from astropy.table import Table
from known_grid import Known, make_grid
from typer.testing import CliRunner, Result

from specinn.cli import app
from specinn.errors import OutputError, PluginError
from specinn.evaluation import figures, tables
from specinn.evaluation.comparison import Comparison, compare
from specinn.evaluation.ksoll2026 import PUBLISHED_LEVELS, PUBLISHED_NRMSE, PUBLISHED_STD, published_std
from specinn.evaluation.simulation import Simulation
from specinn.files import replacing_folder
from specinn.grids import Grid
from specinn.plugins import Plugins
from specinn.report.evaluation import folder as report

pytestmark = pytest.mark.slow

SNR = (250.0, 20.0)
META = {"model": "toy & <model>", "split": "test", "samples": 200, "seed": 0}


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins([], {"fake": fake_plugin, "grids": specinn_turbospectrum})


@pytest.fixture(scope="module")
def grid() -> Grid:
    return attrs.evolve(make_grid(700), provenance={"code": "straight <lines>", "parts": ["a", "b"]})


@pytest.fixture(scope="module")
def toy(plugins: Plugins, grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> fake_plugin.Toy:
    """The linear estimator; its posterior is exact for the spectra that the simulation makes of the grid."""
    folder = tmp_path_factory.mktemp("toy")
    toy = fake_plugin.Toy.train({"estimator": {"kind": "toy"}}, folder, lambda state: None)
    rows = grid.split("train")[:150]
    flux = np.concatenate([b.flux for _, _, b in Simulation(toy, grid, plugins).batches(rows, [1e7])])
    t = fake_plugin.to_unit(grid.values[rows, :4])
    solution, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(t)), t]), flux, rcond=None)
    return fake_plugin.Toy({"mean": solution[0], "response": solution[1:]}, toy.header)


@pytest.fixture(scope="module")
def comparison(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> Comparison:
    return compare(toy, grid, snr=SNR, n_samples=200, plugins=plugins, with_ranks=True)


@pytest.fixture(scope="module")
def written(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report with bounds that are what the posterior's widths say."""
    folder = tmp_path_factory.mktemp("written") / "report"
    bounds = np.stack([result.std for result in comparison.summaries], axis=1).clip(min=1e-3)
    heard: list[tuple[int, int]] = []
    rows = report.write(comparison, folder, META, bounds=bounds, progress=lambda *of: heard.append(of))
    assert [done for done, _ in heard] == list(range(1, len(heard) + 1)) and heard[-1][0] == heard[-1][1]
    return folder, rows


def known(toy: fake_plugin.Toy, grid: Grid, offset: float, width: float, plugins: Plugins) -> Comparison:
    options: dict[str, Any] = {"snr": SNR[:1], "n_samples": 200, "plugins": plugins, "with_ranks": True}
    return compare(Known(toy, grid, offset, width), grid, **options)


# What was inferred


def test_ranks_ask_for_the_same_samples_as_without(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins, comparison: Comparison
) -> None:
    plain = compare(toy, grid, snr=SNR, n_samples=200, plugins=plugins)
    assert plain.ranks is None and plain.tarp is None and len(plain) == len(grid.split("test"))
    for one, two in zip(plain.summaries, comparison.summaries, strict=True):
        assert np.array_equal(one.map, two.map) and np.array_equal(one.quantiles, two.quantiles)
    assert plain.metrics() == comparison.metrics()


def test_ranks_are_where_the_truth_is(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    for offset, expected in ((0.0, 0.5), (0.3, 0.0), (-0.3, 1.0)):
        result = known(toy, grid, offset, 0.04, plugins)
        assert result.ranks is not None and result.ranks.shape == (1, len(result), 5)
        assert result.ranks[0, :, :4] == pytest.approx(expected, abs=0.13 if offset == 0 else 0.01)
        li_fe = result.ranks[0, :, 4]  # of a difference whose parts are off alike, but not by as much
        assert np.isfinite(li_fe).all()


def test_stars_that_are_lost_have_no_rank(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    estimator, test = Known(toy, grid, 0.0, 0.04), grid.split("test")
    estimator.lost = set(test[:4].tolist())
    result = compare(estimator, grid, n_samples=50, plugins=plugins, with_ranks=True)
    assert result.ranks is not None and result.tarp is not None
    assert np.isnan(result.ranks[0, :4]).all() and np.isnan(result.tarp[0, :4]).all()
    assert np.isfinite(result.ranks[0, 4:]).all() and np.isfinite(result.tarp[0, 4:]).all()
    n = len(test)
    assert {row["n"] for row in tables.uniformity(result)} == {n - 4}
    assert tables.coverage(result)[0]["n"] == tables.widths(result)[0]["n"] == n - 4


# The tables


def test_thirds_share_the_stars_out(comparison: Comparison) -> None:
    rows = tables.thirds(comparison)
    assert len(rows) == len(SNR) * 5 * 3
    of = [row for row in rows if row["label"] == "teff" and row["snr"] == 250]
    assert [row["scope"] for row in of] == ["lower", "middle", "upper"]
    assert [row["low"] for row in of] == [4000, 5000, 6000] and of[2]["high"] == 7000
    assert sum(row["n"] for row in of) == len(comparison)
    teff = comparison.truth[:, 0]
    middle = (teff >= 5000) & (teff < 6000)
    residual = comparison.summaries[0].map[middle, 0] - teff[middle]
    assert of[1]["mean_residual"] == pytest.approx(residual.mean()) and of[1]["n"] == middle.sum()
    assert of[1]["std"] == pytest.approx(residual.std())


def test_a_truth_outside_the_bounds_is_in_the_next_third(comparison: Comparison) -> None:
    truth = comparison.truth.copy()
    truth[:3, 0] = (3000.0, 7000.0, 9000.0)
    rows = tables.thirds(attrs.evolve(comparison, truth=truth))
    assert sum(row["n"] for row in rows if row["label"] == "teff" and row["snr"] == 250) == len(comparison)


def test_widths_and_coverage_of_a_known_posterior(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    result = known(toy, grid, 0.06, 0.04, plugins)  # off by 1.5 of its standard deviations
    widths = {(row["label"], row["fe_h_low"]): row for row in tables.widths(result)}
    assert widths["logg", None]["width"] == pytest.approx(2 * 0.994 * 0.04 * 5, rel=0.1)
    assert (
        widths["logg", None]["width_p25"]
        <= widths["logg", None]["width"]
        <= widths["logg", None]["width_p75"]
    )
    fe_h = result.truth[:, 2]
    for low in (-2.5, -1.0, 0.0):
        assert widths["logg", low]["n"] == ((fe_h >= low) & (fe_h < low + 0.5)).sum() > 0
    coverage = {(row["label"], row["level"], row["fe_h_low"]): row for row in tables.coverage(result)}
    for low in (None, -1.0):
        assert coverage["logg", 0.68, low]["inside"] == 0.0 and coverage["logg", 0.95, low]["inside"] == 1.0
    n = len(result)
    assert coverage["logg", 0.68, None]["inside_low"] == 0.0
    assert coverage["logg", 0.68, None]["inside_high"] == pytest.approx(1 / (n + 1))


def test_exact_posteriors_are_acquitted_and_wrong_ones_found_guilty(
    comparison: Comparison, toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    p = {(row["snr"], row["label"]): row["p_value"] for row in tables.uniformity(comparison)}
    assert len(p) == len(SNR) * 6
    assert min(p[250.0, name] for name in (*comparison.labels.names, tables.TARP)) > 0.002

    class Narrow(fake_plugin.Toy):
        def _gaussian(self, batch: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
            mean, covariance = super()._gaussian(batch, i)
            return mean, 0.3 * covariance

    class Shifted(fake_plugin.Toy):
        def _gaussian(self, batch: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
            mean, covariance = super()._gaussian(batch, i)
            return mean + 0.6 * np.sqrt(np.diag(covariance)), covariance

    weights = {"mean": toy.mean, "response": toy.response}
    for wrong, sign in ((Narrow, 0), (Shifted, 1)):
        result = compare(wrong(weights, toy.header), grid, n_samples=200, plugins=plugins, with_ranks=True)
        rows = {row["label"]: row for row in tables.uniformity(result)}
        for name in ("teff", "logg", "fe_h"):
            assert rows[name]["p_value"] < 1e-3
            assert sign == 0 or rows[name]["largest"] > 0.1  # the posterior lies too high
        if wrong is Narrow:
            assert rows[tables.TARP]["p_value"] < 1e-6 and rows[tables.TARP]["largest"] < -0.1


def test_ratios_to_a_bound(comparison: Comparison) -> None:
    bounds = np.empty((len(comparison), len(SNR), 5))
    for i, result in enumerate(comparison.summaries):
        bounds[:, i] = np.abs(result.map - comparison.truth) / 1.349  # every error is twice 0.6745 bounds
    rows = tables.information(comparison, bounds)
    assert {row["scope"] for row in rows} == {"all", "[Fe/H] > -1.5"}  # nothing rotates here
    assert {round(row["ratio"], 3) for row in rows} == {2.0}
    logg = next(row for row in rows if row["label"] == "logg")
    residual = np.abs(comparison.summaries[0].map[:, 1] - comparison.truth[:, 1])
    assert logg["error"] == pytest.approx(np.median(residual) / 0.6745)
    assert logg["bound"] == pytest.approx(np.median(bounds[:, 0, 1]))


def test_slow_rotators_are_looked_at_by_themselves(comparison: Comparison) -> None:
    vbroad = np.linspace(1.0, 100.0, len(comparison.simulation.grid))
    rotating = attrs.evolve(comparison, simulation=_with_vbroad(comparison.simulation, vbroad))
    rows = tables.information(rotating, np.ones((len(comparison), len(SNR), 5)))
    scope = rows[-1]["scope"]
    assert scope == "[Fe/H] > -1.5, vbroad < 15 km/s"
    chosen = (vbroad[comparison.rows] < 15) & (comparison.truth[:, 2] > -1.5)
    assert {row["n"] for row in rows if row["scope"] == scope} == {int(chosen.sum())} and chosen.any()


def _with_vbroad(simulation: Simulation, vbroad: np.ndarray) -> Simulation:
    other = object.__new__(Simulation)
    other.__dict__.update(simulation.__dict__, vbroad=vbroad)
    return other


def test_without_an_emulator_there_is_a_reason(comparison: Comparison, plugins: Plugins) -> None:
    bounds, why = tables.limits(comparison, plugins)
    assert bounds is None
    with pytest.raises(PluginError, match=re.escape(why)):
        plugins.load("synthesizer", "emulator")


def test_levels_that_are_shown() -> None:
    assert tables.some_levels(PUBLISHED_LEVELS) == [20, 50, 100, 250]
    assert tables.some_levels([300.0]) == [300]
    assert tables.some_levels([5.0, 7.0, 9.0, 11.0, 13.0, 15.0]) == [5, 9, 11, 15]
    assert tables.some_levels([250.0, 30.0]) == [30, 250]
    assert tables.reference_level([100.0, 260.0]) == 260 and tables.histogram_levels([40.0]) == [40]


def test_published_figures() -> None:
    assert len(PUBLISHED_LEVELS) == 19 and {len(row) for row in PUBLISHED_NRMSE.values()} == {8}
    assert published_std("logg", 250.0) == 0.16 and published_std("c_fe", 250.0) is None
    assert published_std("logg", 20.0) == pytest.approx(0.16 * 0.086 / 0.031)
    assert published_std("logg", 21.0) is None
    columns = np.array(list(PUBLISHED_NRMSE.values()))
    assert (np.diff(columns, axis=0) <= 0).all() and list(PUBLISHED_LEVELS) == sorted(PUBLISHED_LEVELS)
    assert len(PUBLISHED_STD) == 8


# The folder


def test_the_files_of_a_report(written: tuple[Path, dict[str, Any]], comparison: Comparison) -> None:
    folder, rows = written
    assert {each.name for each in folder.iterdir()} == {"index.html", "tables", "figures"}
    assert list(folder.parent.iterdir()) == [folder]
    for name, of in rows.items():
        table = Table.read(folder / "tables" / f"{name}.ecsv")
        assert len(table) == len(of) and table.meta["model"] == META["model"]
        assert all(table[column].description for column in table.colnames), name
        assert set(table.colnames) <= set(of[0])
    drawn = {each.name for each in (folder / "figures").iterdir()}
    stems = {Path(name).stem for name in drawn}
    assert drawn == {f"{stem}{end}" for stem in stems for end in (".pdf", ".png")}
    assert {"std_against_snr", "histograms_snr_250", "histograms_snr_20", "ranks", "tarp",
            "coverage_against_snr", "coverage_against_fe_h", "ratio_to_bound"} <= stems  # fmt: skip
    for path in (folder / "figures").iterdir():
        head = path.read_bytes()[:8]
        assert head.startswith(b"%PDF") if path.suffix == ".pdf" else head == b"\x89PNG\r\n\x1a\n"
    stars = Table.read(folder / "tables" / "predictions.ecsv")
    assert len(stars) == len(comparison) * len(SNR) and stars["teff_map"].unit == "K"
    assert all(stars[column].description for column in stars.colnames)
    poor = stars[stars["snr"] == 20.0]
    assert poor["logg_p84"] == pytest.approx(comparison.summaries[1].quantiles[3, :, 1], rel=1e-5)
    assert comparison.ranks is not None
    assert poor["logg_rank"] == pytest.approx(comparison.ranks[1, :, 1], abs=1e-5)
    assert poor["logg_true"] == pytest.approx(comparison.truth[:, 1], rel=1e-5)


class Page(HTMLParser):
    """Tags that are open, every id, and everything that points somewhere."""

    VOID = ("meta", "br", "img", "link", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src", "xlink:href"):
                self.targets.append(value)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_on_its_own(written: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = written
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    assert not re.search(r"@import|<script|<link|url\((?!#)", text)
    for target in page.targets:
        if target.startswith("#"):
            assert target[1:] in page.ids, target
        elif not target.startswith("data:image/png;base64,"):
            assert (folder / target).is_file(), target
    assert all(
        target in page.targets for target in ("#glance", "#ranks", "tables/metrics.ecsv", "figures/tarp.pdf")
    )
    assert "prefers-color-scheme: dark" in text and text.count("<svg") == len(
        list(folder.glob("figures/*.pdf"))
    )
    assert "var(--blue)" in text and "#0072b2" in text  # figures follow the page, whose palette it is
    assert not re.search(r"(fill|stroke): ?#(0072b2|1c2024)", text)
    assert "How good is toy & <model>?" in page.text and "straight <lines>" in page.text
    assert (
        "nan" not in page.text.lower().split() and "None" not in page.text and "inf" not in page.text.split()
    )


def test_the_page_says_what_the_tables_say(written: tuple[Path, dict[str, Any]]) -> None:
    folder, rows = written
    text = Page((folder / "index.html").read_text(encoding="utf-8")).text
    for row in rows["metrics"]:
        if row["label"] == "logg" and row["scope"] == "all":
            assert f"{row['std']:.3f}" in text and f"{row['nrmse']:.3f}" in text
    better = [row for row in rows["metrics"] if row["snr"] == 250 and row["scope"] == "all"
              and row["published_std"] and row["std"] < row["published_std"]]  # fmt: skip
    assert f"{len(better)} of 4 labels" in text
    assert "S/N 20, 250" in text and "the Cramér–Rao bound" in text
    assert "by random reference points" not in text  # of the tables
    assert "[Li/Fe]" in text and "log g" in text.replace("\xa0", " ")


def test_a_page_without_bounds_says_why(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = figures.plan
    monkeypatch.setattr(
        figures, "plan", lambda *given: {"tarp": plan(*given)["tarp"]}
    )  # the others take long
    one = attrs.evolve(comparison, snr=SNR[:1], summaries=comparison.summaries[:1],
                       ranks=_first(comparison.ranks), tarp=_first(comparison.tarp))  # fmt: skip
    rows = report.write(one, tmp_path / "r", META, why_no_bounds="no synthesizer is called 'emulator'")
    assert "information" not in rows and not (tmp_path / "r/figures/ratio_to_bound.pdf").exists()
    page = Page((tmp_path / "r/index.html").read_text(encoding="utf-8"))
    assert "no information limit for this evaluation: no synthesizer is called 'emulator'." in page.text
    assert page.open == [] and not (tmp_path / "r/tables/information.ecsv").exists()


def _first(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return values[:1]


def test_a_report_replaces_only_a_report(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = written
    with pytest.raises(OutputError, match="exists: give another name, or --overwrite"):
        report.check(folder)
    assert report.check(folder, overwrite=True) == folder
    with pytest.raises(OutputError, match="there is no folder"):
        report.check(tmp_path / "none" / "r")
    home = tmp_path / "home"
    home.mkdir()
    report.check(home, overwrite=True)  # an empty folder
    (home / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match=r"is not a report \(it holds thesis.tex\), so it is not replaced"):
        report.check(home, overwrite=True)
    with pytest.raises(OutputError, match="is a file, but a report is a folder"):
        report.check(home / "thesis.tex", overwrite=True)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    for content in ("old", "new"):
        with replacing_folder(folder) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "file").write_text(content)
            assert not folder.exists() or (folder / "deep" / "file").read_text() == "old"
        assert (folder / "deep" / "file").read_text() == content
    with pytest.raises(KeyError), replacing_folder(folder) as temporary:
        (temporary / "file").write_text("half")
        raise KeyError
    with pytest.raises(OutputError, match="r could not be written"), replacing_folder(folder):
        raise OSError(28, "No space left on device")
    assert (folder / "deep" / "file").read_text() == "new" and list(tmp_path.iterdir()) == [folder]


# The command

Command = Callable[..., Result]


@pytest.fixture
def specinn(
    toy: fake_plugin.Toy, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    monkeypatch.chdir(tmp_path)
    toy.save(tmp_path / "toy.safetensors")
    make_grid(80).save(tmp_path / "grid.h5")
    first = ("grid", "toy.safetensors", "grid.h5", "--samples", 30)

    def call(*arguments: Any) -> Result:
        return CliRunner().invoke(app, ["evaluate", *map(str, (*first, *arguments))], obj=plugins)

    yield call


def test_command(specinn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def write(comparison: Comparison, folder: Path, meta: Any, **options: Any) -> dict[str, Any]:
        asked.append((comparison, folder, meta, options))
        return {"metrics": comparison.metrics(), "thirds": tables.thirds(comparison)}

    monkeypatch.setattr(report, "write", write)  # the real one is tested above, and is slow
    result = specinn("-o", "report")
    assert result.exit_code == 0 and result.stderr == "", result.output
    comparison, folder, meta, options = asked[0]
    assert comparison.snr == PUBLISHED_LEVELS and comparison.ranks is not None and folder == Path("report")
    assert meta["split"] == "test" and "no synthesizer" in options["why_no_bounds"]
    assert result.stdout.count("S/N 250 per Angstrom") == 2 and "S/N 50 per" not in result.stdout
    assert "no information limit: no synthesizer" in result.stdout
    assert result.stdout.splitlines()[-1] == "report/index.html"
    printed = json.loads(specinn("-o", "results.v1/", "--snr", 40, "--json").stdout)
    assert asked[1][0].snr == (40.0,) and asked[1][1] == Path("results.v1")
    assert {row["scope"] for row in printed["thirds"]} == {"lower", "middle", "upper"}


def test_command_that_fails_early(specinn: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")
    for arguments, words in (
        (("-o", "mine"), "mine exists"),
        (("-o", "mine/", "--overwrite"), "mine is not a report (it holds notes)"),
        (("-o", "m.csv"), "'.csv' is not a known format; use one of .ecsv"),
        (("-o", "none/report"), "there is no folder none"),
    ):
        result = specinn(*arguments)
        assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1 and words in result.stderr
    assert (tmp_path / "mine" / "notes").exists()
