"""The page of a catalogue: what is in it, and how it behaves in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner, Result

from specinn import catalogue
from specinn.cli import app
from specinn.errors import ConfigError, OutputError
from specinn.flags import Flag
from specinn.inference.run import example_files
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.report.catalogue import embed
from specinn.report.catalogue import page as stars
from specinn.resimulation.simulator import Resimulator

BOUNDS = {
    "teff": (4000.0, 7000.0),
    "logg": (0.0, 5.0),
    "fe_h": (-3.0, 0.5),
    "mg_fe": (-0.4, 0.8),
    "a_li": (-0.5, 3.6),
}
EVIL = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
PATIENCE = 120_000  # ms: the machine may have other work


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def make_table(n: int = 30, labels: tuple[str, ...] = tuple(BOUNDS), seed: int = 0) -> Table:
    """A catalogue with made-up numbers, of which the third row is bad and the fifth has warnings."""
    rng = np.random.default_rng(seed)
    label_set = LabelSet(tuple(make_label(name, BOUNDS[name]) for name in labels))
    fields = catalogue.schema(label_set, ["green", "red"])
    flags = np.zeros(n, np.uint32)
    if n > 4:
        flags[2], flags[4] = Flag.ALL_REJECTED, Flag.AT_BOUNDS | Flag.RV_UNCERTAIN | Flag.RV_MEASURED
    columns: dict[str, Any] = {
        "id": np.array([f"star {i}" for i in range(n)]), "path": np.array(["/nowhere/night.fits"] * n),
        "instrument": np.array(["4most-hr"] * n), "message": np.array([""] * n),
        "model": np.array(["toy 0123456789ab"] * n),
        "snr_green": rng.uniform(20, 300, n), "snr_red": rng.uniform(20, 300, n), "rv": rng.normal(0, 30, n),
        "rejected_fraction": np.zeros(n), "flags": flags, "flag_bad": flags == Flag.ALL_REJECTED,
        "flag_warn": flags > 0,
    }  # fmt: skip
    for name in labels:
        low, high = BOUNDS[name]
        value = rng.uniform(low, high, n)
        value[flags == Flag.ALL_REJECTED] = np.nan
        width = 0.01 * (high - low)
        steps = {"": 0, "_median": 0, "_p2_5": -2, "_p16": -1, "_p84": 1, "_p97_5": 2}
        columns |= {name + end: value + k * width for end, k in steps.items()} | {
            f"{name}_std": 0 * value + width
        }
    return catalogue.build([columns], fields, {"specinn": "0", "seed": 0})


class Page(HTMLParser):
    """The JSON of a page by id, its texts, and all that would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.json: dict[str, Any] = {}
        self.links: list[str] = []
        self.scripts = 0
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        attributes = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self._inside = (attributes.get("id") or "script") if tag == "script" else ""
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        if self._inside not in ("", "script"):
            self.json[self._inside] = json.loads(data)
        elif not self._inside:
            self.text += data
        self._inside = ""


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


# ---- what the page is made of ----


def test_all_stars_are_opened_where_they_are_few() -> None:
    assert stars.choose(make_table(10)) == [0, 1, 3, 4, 5, 6, 7, 8, 9]  # not the bad one
    assert stars.choose(make_table(10), most=0) == []


def test_of_many_stars_flagged_and_diverse_ones_are_opened() -> None:
    table = make_table(500)
    table["flags"][[100, 200, 300]] = [Flag.SNR_LOW, Flag.SNR_LOW | Flag.AT_BOUNDS, Flag.RV_MEASURED]
    chosen = stars.choose(table, most=20)
    assert len(chosen) == 20 and chosen == sorted(set(chosen))
    assert {4, 100, 200} <= set(chosen)
    assert 2 not in chosen
    quarters = {(table["teff"][r] > 5500, table["logg"][r] > 2.5, table["fe_h"][r] > -1.25) for r in chosen}
    assert len(quarters) == 8  # every corner of the box of labels


def test_stars_that_were_named_are_opened() -> None:
    table = make_table(10)
    table["id"][7] = "star 3"  # two spectra of one star
    assert stars.choose(table, ["star 3", "star 2"], most=1) == [2, 3, 7]
    with pytest.raises(ConfigError, match="no star Vega"):
        stars.choose(table, ["Vega", "star 1"])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".parquet", ".h5"])
def test_every_format_gives_the_same_numbers(suffix: str, tmp_path: Path) -> None:
    table = make_table(7)
    catalogue.write(table, tmp_path / f"c{suffix}")
    first, again = (stars.data(t, [1], {}) for t in (table, catalogue.read(tmp_path / f"c{suffix}")))
    assert again == first
    assert np.isnan(floats(first["columns"]["teff"])[2])
    np.testing.assert_array_equal(
        floats(first["columns"]["mg_fe_p84"])[3:], np.asarray(table["mg_fe_p84"])[3:]
    )
    shown = {column["name"]: column for column in first["shown"]}
    assert shown["teff"]["unit"] == "K" and shown["mg_fe"]["html"] == "[Mg/Fe]" and "snr_red" in shown


def test_upper_limits_are_shown() -> None:
    table = make_table(6)
    assert "a_li_upper" not in stars.data(table, [], {})["columns"]  # none in this catalogue
    table["a_li_upper"] = np.array([np.nan] * 5 + [1.25], np.float32)
    assert floats(stars.data(table, [], {})["columns"]["a_li_upper"])[5] == 1.25


def test_what_is_not_determined_is_named_in_short() -> None:
    table = make_table(6)
    table["undetermined"] = ["", "a_li mg_fe", "", "", "", "a_li mg_fe"]
    data = stars.data(table, [], {})
    assert data["texts"]["undetermined"]["values"] == ["", "a_li mg_fe"]
    assert {c["name"]: c["short"] for c in data["shown"] if c["label"]} == {
        "teff": "teff", "logg": "logg", "fe_h": "fe_h", "mg_fe": "Mg", "a_li": "Li", "li_fe": "Li"
    }  # fmt: skip


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-5, 5) | st.just(np.nan)))
@settings(max_examples=50)
def test_fluxes_survive_packing(values: np.ndarray) -> None:
    result = embed.packed(values)
    numbers = np.frombuffer(base64.b64decode(result["data"]), "<u2").astype(float)
    back = np.where(numbers == 65535, np.nan, result["low"] + result["step"] * numbers)
    np.testing.assert_allclose(back, values, atol=0.51 * max(result["step"], 1e-12))
    assert result["step"] <= 1 or np.ptp(values[np.isfinite(values)]) == 0


def test_shades_of_the_corner_plot_hold_what_they_claim() -> None:
    rng = np.random.default_rng(3)
    covariance = np.array([[1.0, 0.7, 0.0], [0.7, 1.0, 0.0], [0.0, 0.0, 4.0]])
    samples = rng.multivariate_normal([0.0, 5.0, -1.0], covariance, 20_000)
    result = embed.corner(samples, [0.0, 5.0, 9.0])
    assert result is not None and result["high"][2] > 9  # the MAP is on the plot, wherever it is
    low, high = np.array(result["low"]), np.array(result["high"])
    four = np.frombuffer(base64.b64decode(result["pairs"]), np.uint8)
    shades = ((four[:, None] >> np.array([0, 2, 4, 6])) & 3).reshape(3, embed.BINS, embed.BINS)
    position = ((samples - low) / (high - low) * embed.BINS).astype(int)
    kept = ((position >= 0) & (position < embed.BINS)).all(axis=1)
    for k, (i, j) in enumerate([(1, 0), (2, 0), (2, 1)]):
        shade = shades[k][position[kept, i], position[kept, j]]
        inside = [(shade >= 1 + level).mean() for level in range(3)]
        assert inside == pytest.approx(embed.LEVELS, abs=0.04)
    np.testing.assert_allclose(floats(result["together"]).reshape(3, 3)[1, 0], 0.7, atol=0.02)
    assert embed.corner(samples[:50], [0, 0, 0]) is None


def test_constant_labels_have_a_corner_plot() -> None:
    samples = np.random.default_rng(0).normal(size=(500, 2))
    samples[:, 1] = 3.0
    result = embed.corner(samples, [0.0, 3.0])
    assert result is not None and result["low"][1] < 3 < result["high"][1]
    json.dumps(result, allow_nan=False)


def test_ids_do_no_harm_and_nothing_is_fetched(tmp_path: Path) -> None:
    table = make_table(5)
    table["id"] = np.array([EVIL, "<!--", "a&b", "\u2028", "ok"])
    stars.write(table, tmp_path / "p.html", f"{EVIL}.ecsv")
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.json["data"]["ids"] == list(table["id"])
    assert page.scripts == 3 and page.links == []
    assert text.count("</script") == 3
    assert "default-src 'none'" in text


def test_D8_absent_labels_cost_a_diagram_and_the_page_says_so(tmp_path: Path) -> None:
    for labels, sentences in {
        ("teff", "fe_h"): [
            "no Kiel diagram: the catalogue has no logg",
            "no [Mg/Fe] against [Fe/H]: the catalogue has no mg_fe",
        ],
        ("a_li",): ["no Kiel diagram: the catalogue has no teff and no logg"],
        ("teff", "logg", "fe_h", "mg_fe"): [],
    }.items():
        stars.write(make_table(6, labels), tmp_path / "p.html", "c.ecsv", overwrite=True)
        page = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
        assert page.text.count("There is no") == (2 - len(page.json["data"]["plots"]))
        assert all(sentence in page.text for sentence in sentences)


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no rows"):
        stars.write(make_table(5)[:0], tmp_path / "p.html", "c.ecsv")
    with pytest.raises(OutputError, match="suffix"):
        stars.write(make_table(5), tmp_path / "p.pdf", "c.ecsv")
    assert list(tmp_path.iterdir()) == []


# ---- the command ----


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the catalogue of three example spectra, as a folder, their samples, and their page."""
    folder = tmp_path_factory.mktemp("real")
    files = example_files()[:3]
    run = call(
        "run", *files, "-o", folder / "stars", "--save-samples", folder / "s.h5", "--samples", 1000, "-q"
    )
    assert run.exit_code == 0, run.output
    made = call("report", folder / "stars", "--samples", folder / "s.h5", "-o", folder / "page.html", *files)
    assert made.exit_code == 0, made.output
    assert "3 stars, 3 with spectra" in made.output
    return folder


@pytest.mark.slow
def test_a_page_has_the_spectra_of_its_stars(real: Path) -> None:
    text = (real / "page.html").read_text(encoding="utf-8")
    assert len(text) < 6.5e6
    page = Page(text)
    data, star = page.json["data"], page.json["star-1"]
    assert data["opened"] == [0, 1, 2] and [arm[0] for arm in data["arms"]] == ["blue", "green", "red"]
    wave = floats(data["wavelength"])
    assert all(star[name]["data"] for name in ("flux", "model")) and len(star["bands"]) == 4
    assert len(base64.b64decode(star["flux"]["data"])) == 2 * wave.size
    assert {"Fe", "Mg", "Ca"} <= {window[0] for window in star["windows"]}
    table = catalogue.read(real / "stars")
    assert star["numbers"][0][0] == pytest.approx(table["teff"][1], rel=1e-6)
    assert star["corner"]["best"][0] == pytest.approx(table["teff"][1], rel=1e-6)
    assert 0 < star["off"][0] < 10


@pytest.fixture(scope="module")
def informed(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of one star whose Teff is known from elsewhere."""
    folder, file = tmp_path_factory.mktemp("informed"), example_files()[0]
    star = catalogue.read(real / "stars")["id"][0]
    (folder / "prior.csv").write_text(f"id,teff,teff_err\n{star},5700,80\n")
    known = ("--prior", folder / "prior.csv")
    run = call("run", file, *known, "-o", folder / "stars.ecsv", "--save-samples", folder / "s.h5", "-q")
    assert run.exit_code == 0, run.output
    page = folder / "page.html"
    made = call("report", folder / "stars.ecsv", "--samples", folder / "s.h5", "-o", page, file)
    assert made.exit_code == 0, made.output
    return folder


@pytest.mark.slow
def test_the_page_says_which_labels_the_samples_have(informed: Path) -> None:
    data = Page((informed / "page.html").read_text(encoding="utf-8")).json["data"]
    shown = [column["name"] for column in data["shown"] if column["label"]]
    assert shown[:4] == ["teff", "teff_informed", "logg", "logg_informed"]
    assert data["sampled"][:2] == ["teff", "logg"] and not [n for n in data["sampled"] if "informed" in n]


@pytest.mark.slow
def test_samples_are_drawn_again_where_none_were_kept(real: Path) -> None:
    made = call("report", real / "stars", "-o", real / "again.html", "--stars", "dwarf-g", "--overwrite")
    assert made.exit_code == 0, made.output
    first, again = (
        Page((real / n).read_text(encoding="utf-8")).json["star-0"] for n in ("page.html", "again.html")
    )
    assert again["corner"]["low"] == pytest.approx(first["corner"]["low"], rel=1e-3)
    assert "note" in again and not again["note"]


@pytest.mark.slow
def test_samples_of_one_spectrum_are_not_shown_for_several(real: Path) -> None:
    table = catalogue.read(real / "stars")
    table["n_epochs"] = [1, 3, 1]
    table.meta |= {"seed": 0, "samples": 200}
    result = embed.open_stars(Resimulator(table, plugins=Plugins(), draws=20), [0, 1])
    assert result[0]["bands"] and result[0]["corner"] and "One of" not in result[0]["note"]
    assert result[1]["flux"] and not result[1]["bands"] and result[1]["corner"] is None
    assert result[1]["note"].startswith("One of 3 spectra")


@pytest.mark.slow
def test_D8_a_page_without_spectra_says_why(tmp_path: Path) -> None:
    catalogue.write(make_table(6), tmp_path / "c.ecsv")
    made = call("report", tmp_path / "c.ecsv", "-o", tmp_path / "p.html")
    assert made.exit_code == 0, made.output
    assert "No spectra are shown: " in Page((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert "6 stars, 0 with spectra" in made.output and "toy" in made.output


@pytest.mark.slow
def test_errors_are_one_sentence(tmp_path: Path) -> None:
    catalogue.write(make_table(6), tmp_path / "c.ecsv")
    (tmp_path / "there.html").touch()
    for words, arguments in {
        "there.html exists": ["-o", tmp_path / "there.html"],
        "no star Vega": ["-o", tmp_path / "p.html", "--stars", "Vega"],
        "toy": [
            "-o",
            tmp_path / "p.html",
            "--stars",
            "star 1",
        ],  # asked for a spectrum, and the model is not there
    }.items():
        failed = call("report", tmp_path / "c.ecsv", *arguments)
        assert failed.exit_code == 1 and words in failed.output and "Traceback" not in failed.output
    assert not (tmp_path / "p.html").exists()


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    play = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    result = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if result is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    with play.sync_playwright() as running:
        started = running.chromium.launch(
            executable_path=result, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )
        yield started
        started.close()


class Visitor:
    """Opens pages, each once, and hears all that they complain of or want from elsewhere."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._pages: dict[Path, Any] = {}
        self.complaints: list[str] = []

    def hear(self, text: str, matters: bool = True) -> None:
        self.complaints += [text] if matters else []

    def __call__(self, file: Path, **options: Any) -> Any:
        if file in self._pages:
            self._pages[file].click("#reset")
            return self._pages[file]
        page = self._browser.new_page(**({"viewport": {"width": 1300, "height": 900}} | options))
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: self.hear(m.text, m.type in ("error", "warning")))
        page.on("pageerror", lambda e: self.hear(str(e)))
        page.on("request", lambda r: self.hear(r.url, not r.url.startswith(("file:", "data:", "blob:"))))
        page.goto(file.as_uri())
        page.wait_for_selector("#table tbody tr")
        self._pages[file] = page
        return page


@pytest.fixture(scope="module")
def visitor(browser: Any) -> Visitor:
    return Visitor(browser)


@pytest.fixture
def visit(visitor: Visitor) -> Iterator[Visitor]:
    yield visitor
    assert visitor.complaints == []


def ids(page: Any) -> list[str]:
    return [text.removesuffix(" ●") for text in page.locator("#table tbody button").all_inner_texts()]


def count(page: Any, n: int) -> None:
    """Waits until so many stars are left."""
    page.locator("#count", has_text=re.compile(f"^{n} of ")).wait_for()


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    table = make_table(120)
    names = [str(name) for name in table["id"]]
    names[7] = EVIL
    table["id"] = np.array(names)
    path = tmp_path_factory.mktemp("page") / "page.html"
    stars.write(table, path, "c.ecsv")
    return path, table


@pytest.mark.browser
@pytest.mark.slow
def test_the_table_filters_and_sorts(visit: Visitor, made_up: tuple[Path, Table]) -> None:
    page, table = visit(made_up[0]), made_up[1]
    count(page, 120)
    assert page.locator("#table tbody tr").count() == 50
    page.click("#on")
    assert ids(page)[0] == "star 50"
    teff = np.ma.filled(table["teff"], np.nan)
    with np.errstate(invalid="ignore"):
        wanted = np.flatnonzero((teff > 5500) & (np.ma.filled(table["fe_h"], np.nan) < -1.5))
    page.fill("#filter", "teff>5500 fe_h<-1.5")
    count(page, len(wanted))
    assert ids(page) == [table["id"][row] for row in wanted]
    page.click("th[data-column=teff] button")
    assert ids(page) == [table["id"][row] for row in wanted[np.argsort(teff[wanted])]]
    assert page.get_attribute("th[data-column=teff]", "aria-sort") == "ascending"
    page.click("th[data-column=teff] button")
    assert ids(page) == [table["id"][row] for row in wanted[np.argsort(-teff[wanted])]]
    page.fill("#filter", "star 11")
    count(page, 11)  # 11, and 110 to 119
    page.fill("#filter", "nonsense>3")
    page.wait_for_selector("#said:has-text('There is no column nonsense')")
    page.click("#reset")
    count(page, 120)
    page.click("th[data-column=teff] button")  # the star without a value is the last one, whatever the order
    page.click("#on")
    page.click("#on")
    assert ids(page)[-1] == "star 2"


@pytest.mark.browser
def test_flags_and_states_filter(visit: Visitor, made_up: tuple[Path, Table]) -> None:
    page = visit(made_up[0])
    page.click("#flags button:has-text('at bounds')")
    count(page, 1)
    assert ids(page) == ["star 4"]
    assert page.get_attribute("#flags button:has-text('at bounds')", "aria-pressed") == "true"
    page.click("#flags button:has-text('at bounds')")
    page.select_option("#status", "bad")
    count(page, 1)
    assert ids(page) == ["star 2"]
    page.select_option("#status", "clean")
    count(page, 118)


@pytest.mark.browser
def test_what_is_not_determined_is_a_line_and_no_row(visit: Visitor, tmp_path: Path) -> None:
    table = make_table(4)
    table["undetermined"] = ["", "a_li mg_fe", "", ""]
    for name in ("a_li", "a_li_median", "mg_fe", "mg_fe_median"):
        table[name] = np.ma.array(table[name], mask=[False, True, False, False])
    stars.write(table, tmp_path / "page.html", "c.ecsv")
    page = visit(tmp_path / "page.html")
    for row, n in ((0, 2), (1, 0)):
        page.click(f"tr[data-row='{row}'] button")
        names = page.locator("#values tbody th").all_inner_texts()
        assert sum(name in ("[Mg/Fe]", "A(Li)") for name in names) == n
        assert ("Not determined by the spectrum: Li, Mg" in page.inner_text("#star-note")) is (n == 0)
        page.click("#close")


@pytest.mark.browser
def test_ids_are_text_and_never_markup(visit: Visitor, made_up: tuple[Path, Table]) -> None:
    page = visit(made_up[0])
    page.fill("#filter", "hacked")
    count(page, 1)
    assert ids(page) == [EVIL]
    page.click("tr[data-row='7'] button")
    assert page.inner_text("#star-name") == EVIL
    assert page.title() == "Stars of c.ecsv"
    assert page.locator("img").count() == 0
    page.keyboard.press("Escape")


def position(page: Any, plot: int, row: int) -> tuple[float, float]:
    """Where on the screen a diagram has a star."""
    page.locator(f"#plot-{plot}").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """([plot, row]) => {
            const node = document.getElementById(`plot-${plot}`), points = node.data[1];
            const i = points.customdata.indexOf(row), {x, y} = node.getBoundingClientRect();
            const {xaxis: h, yaxis: v} = node._fullLayout;
            return [x + h._offset + h.d2p(points.x[i]), y + v._offset + v.d2p(points.y[i])];
        }""",
        [plot, row],
    )
    return x, y


@pytest.mark.browser
def test_diagrams_and_table_go_together(visit: Visitor, made_up: tuple[Path, Table]) -> None:
    page, table = visit(made_up[0]), made_up[1]
    page.mouse.click(*position(page, 0, 11))
    page.wait_for_selector("dialog[open]")
    assert page.inner_text("#star-name") == "star 11"
    assert page.is_hidden("#with-spectrum")
    page.keyboard.press("Escape")
    x, y = position(page, 1, 20)
    page.mouse.move(x - 60, y - 60)
    page.mouse.down()
    page.mouse.move(x + 60, y + 60, steps=5)
    page.mouse.up()
    page.wait_for_selector("#count:has-text('selected in a diagram')")
    chosen = ids(page)
    assert "star 20" in chosen and len(chosen) < 60
    fe_h = [
        abs(float(table["fe_h"][int(name.split()[1])] - table["fe_h"][20])) for name in chosen if name != EVIL
    ]
    assert max(fe_h) < 1.5
    faint = page.evaluate("document.getElementById('plot-0').data[1].selectedpoints.length")
    assert faint == len(chosen)
    page.click("#reset")
    count(page, 120)


@pytest.mark.browser
@pytest.mark.slow
def test_the_corner_plot_has_the_labels_of_the_samples(visit: Visitor, informed: Path) -> None:
    page = visit(informed / "page.html")
    page.click("#table tbody tr:first-child td:nth-child(4)")
    page.wait_for_selector("#corner .main-svg")
    page.click("#all-labels")
    texts = page.evaluate("document.getElementById('corner').layout.annotations.map((a) => a.text)")
    names = [text for text in texts if not re.fullmatch(r"[−-]?\d*\.?\d+", text)]
    data = Page((informed / "page.html").read_text(encoding="utf-8")).json["data"]
    html = {column["name"]: column["html"] for column in data["shown"]}
    assert names == [html[name] for name in data["sampled"]] and len(names) == 26
    assert not [name for name in names if "informed" in name]


@pytest.mark.browser
@pytest.mark.slow
def test_a_star_opens_by_mouse(visit: Visitor, real: Path) -> None:
    page = visit(real / "page.html")
    page.click("#table tbody tr:nth-child(2) td:nth-child(4)")
    page.wait_for_selector("#spectrum .main-svg")
    assert page.inner_text("#star-name") == catalogue.read(real / "stars")["id"][1]
    assert "radial velocity was measured" in page.inner_text("#star-flags")
    assert page.locator("#corner .main-svg").count() > 0
    whole = page.evaluate("document.getElementById('spectrum')._fullLayout.xaxis.range")
    line = next(o for o in page.locator("#window option").all_inner_texts() if o.startswith("Mg I"))
    page.select_option("#window", label=line)
    low, high = page.evaluate("document.getElementById('spectrum')._fullLayout.xaxis.range")
    assert low < float(line.split()[-1]) < high and high - low < 0.01 * (whole[1] - whole[0])
    page.click("#after")  # the next star, at the same line
    assert page.inner_text("#star-name") == catalogue.read(real / "stars")["id"][2]
    assert page.evaluate("document.getElementById('spectrum')._fullLayout.xaxis.range[0]") == pytest.approx(
        low, abs=1
    )
    panels = page.evaluate("document.getElementById('corner').data.length")
    page.click("#all-labels")
    assert page.evaluate("document.getElementById('corner').data.length") > panels
    assert re.match(r"[\d−]", page.inner_text("#values tbody tr:first-child td:nth-child(2)"))
    page.click("#close")
    assert page.locator("dialog[open]").count() == 0


@pytest.mark.browser
@pytest.mark.slow
def test_a_star_opens_by_keyboard(visit: Visitor, real: Path) -> None:
    names = [str(name) for name in catalogue.read(real / "stars")["id"]]
    page = visit(real / "page.html")
    page.emulate_media(color_scheme="dark")

    def focused() -> str:
        return str(page.evaluate("document.activeElement.innerText"))

    page.keyboard.press("/")
    page.keyboard.type("dwarf")
    count(page, sum("dwarf" in name for name in names))
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    count(page, 3)
    for _ in range(80):  # everything on the way can be left again
        page.keyboard.press("Tab")
        if focused() == names[0]:
            break
    assert focused() == names[0]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline not in ("none", "")
    page.keyboard.press("ArrowDown")
    assert focused() == names[1]
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] #spectrum .main-svg")
    assert page.inner_text("#star-name") == names[1]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#star-name") == names[2]
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    # where one was, once the browser has told the page that the dialog closed
    page.wait_for_function("name => document.activeElement.innerText === name", arg=names[2])
    page.keyboard.press("ArrowUp")
    assert focused() == names[1]


@pytest.mark.browser
@pytest.mark.slow
def test_one_star_and_ten_thousand(visit: Visitor, tmp_path: Path) -> None:
    for n, labels in ((1, ("teff", "logg")), (10_000, tuple(BOUNDS))):
        file = tmp_path / f"{n}.html"
        stars.write(make_table(n, labels), file, "c.ecsv")
        page = visit(file, viewport={"width": 390, "height": 800})
        count(page, n)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.fill("#filter", "teff<4100")
    page.locator("#count", has_text=re.compile(r"^\d{2,3} of 10000")).wait_for()
    assert file.stat().st_size < 8e6
