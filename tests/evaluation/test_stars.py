"""specinn evaluate stars: its folder with the figure, and corrections."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import fake_plugin
import numpy as np
import pytest
from astropy.table import Table
from commands import Command, sentence
from offset_plugin import Offset, ThirdParty

from specinn import models
from specinn.evaluation import star_figures as report
from specinn.evaluation import stars as evaluated
from specinn.evaluation.stars import read_benchmarks, star_metrics, star_summary, with_literature
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins

pytestmark = pytest.mark.slow

HEAD = "file,star,instrument,resolving_power,teff,logg,fe_h,e_logg,in_range,role\n"
TRUTH = np.array([[5772.0, 4.44, 0.0, 1.05], [4500.0, 2.0, -1.2, 2.0], [6300.0, 4.0, -0.3, 2.0]])


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    fake_plugin.Toy.train({}, path.parent, lambda state: None).save(path)
    fake_plugin.MODELS["toy-model"] = path
    return Plugins(entry=[], extra={"fake": fake_plugin, "third_party": ThirdParty()})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Literature that is 0.2 below what is inferred of logg; one star without [Fe/H]."""
    rows = []
    for i, (teff, logg, fe_h, _) in enumerate(TRUTH):
        fake_plugin.write_text(tmp_path / f"{i}.txt", fake_plugin.simulate(TRUTH[i : i + 1], snr=1000.0))
        rest = f"{fe_h},0.03,1," if i else ",,1,reference"
        rows.append(f"{i}.txt,Star {i},toy,,{teff},{logg - 0.2:.3f},{rest}\n")
    path = tmp_path / "stars.csv"
    path.write_text(HEAD + "".join(rows))
    return path


@pytest.fixture
def options(table: Path) -> tuple[Any, ...]:
    return ("evaluate", "stars", "toy-model", table, "--samples", 200, "--seeds", 2)


def test_a_folder_with_table_and_figure(specinn: Command, options: tuple[Any, ...]) -> None:
    result = specinn(*options, "-o", "out")
    assert result.exit_code == 0 and result.stderr == "", result.output
    assert result.stdout.splitlines()[-1] == "out"
    files = sorted(str(path) for path in Path("out").rglob("*.*"))
    assert files == ["out/figures/stars.pdf", "out/figures/stars.png", "out/tables/stars.ecsv"]
    assert Path(files[0]).read_bytes().startswith(b"%PDF") and Path(files[1]).stat().st_size > 20_000
    stars_table = Table.read(files[2])
    assert stars_table["logg_literature_error"].tolist() == [None, 0.03, 0.03]
    assert "teff_literature_error" not in stars_table.colnames and "logg_raw" not in stars_table.colnames
    assert stars_table.meta["stars"] == "stars.csv" and stars_table.meta["seeds"] == 2
    sentence(specinn(*options, "-o", "out"), "out exists", "--overwrite")
    assert specinn(*options, "-o", "out", "--overwrite").exit_code == 0
    assert specinn(*options, "-o", "stars.ecsv").exit_code == 0 and Path("stars.ecsv").is_file()


def test_raw_corrected_and_literature(specinn: Command, options: tuple[Any, ...]) -> None:
    Path("by.txt").write_text("0.2")
    plain = json.loads(specinn(*options, "--json").stdout)
    options += ("--correction", "offset:by.txt")
    result = specinn(*options, "-o", "out")
    assert result.exit_code == 0 and result.stderr == "", result.output
    row = next(line for line in result.stdout.splitlines() if re.match(r"validation +logg", line))
    raw, corrected, _, literature, before, after = map(float, re.findall(r"[-+]?\d+\.\d+", row))
    assert corrected == pytest.approx(raw - 0.2, abs=0.011)
    assert before == pytest.approx(raw - literature, abs=0.011)
    assert after == pytest.approx(corrected - literature, abs=0.011)
    for words in ("raw diff", "raw median", "raw maximum"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100 and "…" not in result.stdout

    stars_table = Table.read("out/tables/stars.ecsv")
    for star, was in zip(stars_table, plain["stars"], strict=True):
        assert star["logg_raw"] == pytest.approx(was["logg"])
        assert star["logg"] == pytest.approx(was["logg"] - 0.2, abs=1e-6)
        assert star["logg_raw_difference"] == pytest.approx(was["logg_difference"])
        assert star["logg_difference"] == pytest.approx(was["logg_difference"] - 0.2, abs=1e-6)
        assert star["teff"] == star["teff_raw"] == pytest.approx(was["teff"])
    summary = json.loads(specinn(*options, "--json").stdout)["summary"]["logg"]
    assert summary["raw"] == plain["summary"]["logg"] and "raw" not in plain["summary"]["logg"]
    assert summary["median"] < 0.1 < summary["raw"]["median"] and summary["n"] == 2


@pytest.mark.parametrize("what", ["stars", "robustness"])
def test_D5_names_and_messages_of_stars_are_shown_without_escapes(
    specinn: Command, table: Path, what: str
) -> None:
    text = "".join(table.read_text().splitlines(keepends=True)[:2]).replace("Star 0", "St\x1b[31mar")
    (table.parent / "esc.csv").write_text(text + "lost\x1b[2J.txt,Lo\x9bst,toy,,5000,4,0,,1,\n")
    more = ("--seeds", 1) if what == "stars" else ()
    result = specinn("evaluate", what, "toy-model", table.parent / "esc.csv", "--samples", 20, *more, "-o",
                     "o\x1b[3m.ecsv")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert not set("\x1b\x9b") & set(result.output)
    for words in ("St\\x1b[31mar", "Lo\\x9bst: ", "lost\\x1b[2J.txt", "o\\x1b[3m.ecsv"):
        assert words in result.stdout, words


def test_wrong_corrections(specinn: Command, options: tuple[Any, ...]) -> None:
    sentence(specinn(*options, "--correction", "by.txt"), "by.txt: no such file")
    sentence(
        specinn("evaluate", "grid", "toy-model", "g.h5", "--correction", "x"),
        "no option --correction",
        status=2,
    )


def test_a_correction_for_another_model_is_refused(
    specinn: Command, options: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Offset, "load", classmethod(lambda cls, path: cls(0.2, "f" * 64)))
    Path("by.txt").touch()
    sentence(specinn(*options, "--correction", "offset:by.txt"), "was fitted for the model ffffffffffff")


@pytest.fixture
def rows(plugins: Plugins, table: Path) -> list[dict[str, Any]]:
    toy = models.load(plugins, models.find(plugins, "toy-model"))
    return star_metrics(
        toy, read_benchmarks(table, toy.labels), seeds=1, n_samples=100, corrections=[Offset(0.2)],
        plugins=plugins,
    )  # fmt: skip


def drawn(axes: Any) -> set[tuple[float, float]]:
    """Points of the error bars of a panel."""
    return {(float(bar[0].get_xdata()[0]), float(bar[0].get_ydata()[0])) for bar in axes.containers}


def test_what_the_figure_shows(rows: list[dict[str, Any]]) -> None:
    figure = report.against_literature(rows, fake_plugin.LABELS)
    assert len(figure.axes) == 2 * 3
    above, below = next(
        pair for pair in zip(*[iter(figure.axes)] * 2, strict=True) if "log" in pair[0].get_title()
    )
    with_logg = [(row["logg_literature"], row) for row in rows]
    assert drawn(above) == {(x, row[key]) for x, row in with_logg for key in ("logg", "logg_raw")}
    keys = ("logg_difference", "logg_raw_difference")
    assert drawn(below) == {(x, row[key]) for x, row in with_logg for key in keys}
    faces = {
        float(bar[0].get_xdata()[0]): bar[0].get_markerfacecolor() for bar in above.containers
    }  # by literature value
    assert faces[rows[0]["logg_literature"]] == "white"  # the reference star
    assert "white" not in [faces[row["logg_literature"]] for row in rows[1:]]
    iron = next(axes for axes in figure.axes if "[Fe/H]" in axes.get_title())
    assert len(drawn(iron)) == 2
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["Star 0 (reference star)", "Star 1", "Star 2", "before correction"]


def test_many_stars_are_not_named(rows: list[dict[str, Any]]) -> None:
    figure = report.against_literature(
        [{**row, "star": f"{i}"} for i in range(5) for row in rows], fake_plugin.LABELS
    )
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["reference star of the training", "validation", "before correction"]


def test_a_star_without_values(rows: list[dict[str, Any]]) -> None:
    for name in ("logg", "logg_raw", "logg_std", "logg_difference", "logg_raw_difference"):
        rows[1][name] = None
    figure = report.against_literature(rows, fake_plugin.LABELS)
    axes = next(axes for axes in figure.axes if "log" in axes.get_title())
    assert len(drawn(axes)) == 4
    assert star_summary(rows)["logg"]["raw"]["failed"] == ["Star 1"]


def test_a_label_that_not_every_draw_of_the_noise_determines_has_no_value(
    table: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of the draws that happen to determine it would be one of selected noise."""
    model = models.load(plugins, models.find(plugins, "toy-model"))
    stars = read_benchmarks(table, model.labels)
    plain = star_metrics(model, stars, n_samples=200, seeds=2, plugins=plugins)
    whole, draws = evaluated.summarise, iter(range(6))

    def sometimes(result: Any, **options: Any) -> dict[str, np.ndarray]:
        wide = np.array([[False, next(draws) == 3, False, False, False]])  # logg of the second star, once
        return whole(result, undetermined=wide, **options)

    monkeypatch.setattr(evaluated, "summarise", sometimes)
    rows = star_metrics(model, stars, n_samples=200, seeds=2, plugins=plugins)
    assert [row["logg"] is None for row in rows] == [False, True, False]
    assert rows[1]["logg_difference"] is None and rows[1]["logg_std"] == plain[1]["logg_std"]
    assert [row["teff"] for row in rows] == [row["teff"] for row in plain]
    assert star_summary(rows)["logg"]["failed"] == ["Star 1"]


def test_abundances_over_iron_and_over_hydrogen(tmp_path: Path) -> None:
    labels = LabelSet(
        make_label(name, (0.1, 9000.0)) for name in ("teff", "logg", "fe_h", "mg_fe", "ca_fe", "a_li")
    )
    head = "file,star,instrument,resolving_power,teff,logg,fe_h"
    (tmp_path / "stars.csv").write_text(
        f"{head},mg_h,e_mg_h,ca_fe\na.fits,HD 22879,uves,,5868,4.27,-0.88,-0.50,0.07,0.31\n"
        "b.fits,mu  Leo,uves,,4474,2.51,,0.47,0.13,\nc.fits,Vega,uves,,9600,4,,,,\n"
    )
    stars = read_benchmarks(tmp_path / "stars.csv", labels)
    assert stars[0].literature == pytest.approx(
        {"teff": 5868, "logg": 4.27, "fe_h": -0.88, "mg_fe": 0.38, "ca_fe": 0.31}
    )
    assert stars[0].errors == {"mg_fe": 0.07}
    assert "mg_fe" not in stars[1].literature and not stars[1].errors  # its [Fe/H] is not known
    # Jofre et al. (2015): [X/H] with the [Fe/H] of that table
    (tmp_path / "more.csv").write_text(
        "star,hd,teff,fe_h,mg_h,e_mg_h,ca_h,e_ca_h\n"
        "mu Leo,HD85503,4474,0.25,0.47,0.13,0.28,0.14\nelse,hd 22879,5900,-0.86,-0.48,0.07,-0.55,0.07\n"
    )
    more = with_literature(stars, tmp_path / "more.csv", labels)
    assert more[0].literature == stars[0].literature  # what the first table says has precedence
    assert more[1].literature == pytest.approx(
        {"teff": 4474, "logg": 2.51, "fe_h": 0.25, "mg_fe": 0.22, "ca_fe": 0.03}
    )
    assert more[1].errors == {"mg_fe": 0.13, "ca_fe": 0.14} and more[2] == stars[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,mg_fe\nx,1\n", "expected a column star, name, hd, hip or gaia"),
        ("star,e_fe_h\nStar 1,1\n", "no column of a label of the model, such as mg_fe or mg_h"),
        ("star,a_li\nVega,1\n", "says nothing new of Star 0, Star 1, Star 2: its stars are vega"),
        ("star,a_li\nStar 1,high\n", "a_li 'high' of Star 1 is not a number"),
        ("star,a_li\nStar 1,1\nstar1,2\n", "star1 is in two rows"),
    ],
)
def test_what_is_wrong_with_a_second_table(
    specinn: Command, options: tuple[Any, ...], text: str, words: str
) -> None:
    Path("more.csv").write_text(text)
    sentence(specinn(*options, "--literature", "more.csv"), "more.csv", words)


def test_a_second_table_is_compared(specinn: Command, options: tuple[Any, ...]) -> None:
    Path("more.csv").write_text("star,a_li,e_a_li\nSTAR 1,1.9,0.1\nStar 2,2.2,0.1\n")
    result = specinn(*options, "--literature", "more.csv", "-o", "out")
    assert result.exit_code == 0 and result.stderr == "", result.output
    found = Table.read("out/tables/stars.ecsv")
    assert found["a_li_literature"].tolist() == [None, 1.9, 2.2] and found.meta["literature"] == "more.csv"
    assert re.search(r"a_li \(dex\) +2 ", result.stdout)
