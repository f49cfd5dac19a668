"""specinn fit-correction: which stars, the errors of those left out, and a run with what it wrote."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
import specinn_teff_bias
from commands import Command, sentence
from offset_plugin import Offset, ThirdParty
from specinn_teff_bias.correction import TeffBias

from specinn import catalogue, models
from specinn.errors import ConfigError, ReadError
from specinn.evaluation import corrections
from specinn.evaluation.stars import Benchmark, read_benchmarks
from specinn.flags import names
from specinn.plugins import Plugins
from specinn.plugins.interfaces import BenchmarkStars, LeaveOneOut
from specinn.posterior import Posterior

pytestmark = pytest.mark.slow

HEAD = "file,star,instrument,resolving_power,teff,logg,fe_h,e_logg,role,in_range\n"
A, B = -1e-4, 0.75  # the literature has another logg than the spectra: by 0.35 at 4000 K, 0.15 at 6000 K
N = 8


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    toy = fake_plugin.Toy.train({}, path.parent, lambda state: None)
    toy.header["training"]["reference_stars"] = [{"name": "Star 1"}]
    toy.save(path)
    fake_plugin.MODELS["toy-model"] = path
    return Plugins(entry=[], extra={"fake": fake_plugin, "bias": specinn_teff_bias})


ALL = ("--samples", 100, "-m", "toy-model")
FIT = "fit-correction"
FAST = (*ALL, "--label", "logg")


def labels_of(n: int = N) -> np.ndarray:
    """Truth of the spectra: 4300 to 6700 K, all [Fe/H] from -0.8 to 0, and one of -2."""
    rng = np.random.default_rng(2)
    fe_h = rng.uniform(-0.8, 0, n)
    fe_h[-1] = -2.0
    return np.column_stack([np.linspace(4300, 6700, n), rng.uniform(1.5, 4, n), fe_h, np.full(n, 1.5)])


def line_of(i: int, labels: np.ndarray, rest: str = ",validation,1") -> str:
    """A row of the table, whose logg differs from that of the spectrum as A and B say."""
    teff, logg, fe_h, _ = labels
    return f"star{i}.txt,Star {i},toy,,{teff},{logg - A * teff - B},{fe_h},{rest}\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spectra")
    for i, labels in enumerate(labels_of()):
        batch = fake_plugin.simulate(labels[None], snr=300.0, seed=i)
        fake_plugin.write_text(folder / f"star{i}.txt", batch)
    return folder


@pytest.fixture
def table(tmp_path: Path, files: Path) -> Path:
    """Eight stars: the training has seen Star 1, the table says so of Star 2; Star 7 is metal poor."""
    truth = labels_of()
    for i in range(N):
        shutil.copy(files / f"star{i}.txt", tmp_path)
    path = tmp_path / "stars.csv"
    rows = [line_of(i, truth[i], f"0.02,{'reference' if i == 2 else 'validation'},1") for i in range(N)]
    path.write_text(HEAD + "".join(rows))
    return path


def test_the_command(specinn: Command, table: Path, plugins: Plugins) -> None:
    result = specinn(FIT, table, *ALL)
    assert result.exit_code == 0 and result.stderr == "", result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "left out: Star 1, Star 2 (reference star of the training)"
    assert lines[1] == "left out: Star 7 (inferred [Fe/H] below -1.5)"
    assert max(map(len, lines)) <= 80
    assert re.search(r"(it improves (\w+, )?logg(, \w+)?\s+but not|improves\s+every\s+label)", result.stdout)
    assert {p.name for p in Path().iterdir() if "correction" in p.name} == {
        "correction.toml", "correction.pdf", "correction.png",
    }  # fmt: skip
    correction = TeffBias.load(Path("correction.toml"))
    line = correction.labels["logg"]
    assert line.a == pytest.approx(A, abs=3 * line.a_error) and line.a_error < 5e-5  # type: ignore[operator]
    assert correction.bias("logg", np.array([4500.0]))[0] == pytest.approx([A * 4500 + B], abs=0.03)
    assert line.n_stars == 5 and line.leave_one_out is not None and line.leave_one_out.n_stars == 5
    assert line.leave_one_out.median_after < 0.5 * line.leave_one_out.median_before
    assert correction.stars == ("Star 0", "Star 3", "Star 4", "Star 5", "Star 6")
    assert correction.reference_stars == ()
    assert correction.model == models.find(plugins, "toy-model").sha256()
    assert "left out: Star 1, Star 2 (reference star of the training)" in correction.provenance
    row = next(text for text in lines if text.startswith("logg")).split()
    assert row[1:5] == [f"{1e3 * line.a:+.3f}", "±", f"{1e3 * line.a_error:.3f}", f"{line.b:+.3f}"]  # type: ignore[operator]
    assert row[-5:-3] == ["5", f"{line.leave_one_out.median_before:.3f}"]
    sentence(specinn(FIT, table, *FAST), "correction.toml exists", "--overwrite")
    printed = json.loads(specinn(FIT, table, *FAST, "--overwrite", "--json").stdout)
    assert printed["terms"]["logg"]["b"] == {"value": line.b, "error": line.b_error}
    assert printed["kind"] == "teff-bias"
    assert printed["tested"]["logg"]["helps"] and printed["correction"] == "correction.toml"
    assert printed["left_out"]["inferred [Fe/H] below -1.5"] == ["Star 7"]
    again = TeffBias.load(Path("correction.toml"))
    assert again.labels == {"logg": line}  # the same seed gives the same, whatever else is fitted


def test_a_run_keeps_raw_and_corrected_values(specinn: Command, table: Path) -> None:
    """End to end: correct what fit-correction wrote, and flag the star outside its range."""
    assert specinn(FIT, table, *FAST, "-o", "c.toml").exit_code == 0
    files = [table.with_name(f"star{i}.txt") for i in (3, 5, 7)]
    options = ("-i", "toy", "--samples", 500, "--quiet")
    assert specinn("run", *files, *options, "-o", "raw.ecsv").exit_code == 0
    assert specinn("run", *files, *options, "-o", "new.ecsv", "--correction", "c.toml").exit_code == 0
    raw, new = catalogue.read("raw.ecsv"), catalogue.read("new.ecsv")
    assert new["logg_raw"].tolist() == raw["logg"].tolist() and "logg_raw" not in raw.colnames
    bias = TeffBias.load(Path("c.toml")).bias("logg", np.asarray(raw["teff"], float))[0]
    assert new["logg"][:2] == pytest.approx(raw["logg"][:2] - bias[:2], abs=1e-4)
    assert new["logg_p16"][:2] == pytest.approx(raw["logg_p16"][:2] - bias[:2], abs=5e-3)
    assert (new["teff"] == raw["teff"]).all()
    truth = labels_of()[[3, 5]]
    assert new["logg"][:2] == pytest.approx(truth[:, 1] - A * truth[:, 0] - B, abs=0.1)
    assert new["logg"][2] == raw["logg"][2]
    assert ["correction_out_of_range" in names(flags) for flags in new["flags"]] == [False, False, True]
    Path("c.toml").write_text(Path("c.toml").read_text().replace('model = "', 'model = "00000000'))
    wrong = specinn("run", *files, *options, "-o", "x.ecsv", "--correction", "c.toml")
    sentence(wrong, "is not the SHA-256")


def test_stars_may_be_let_in(specinn: Command, table: Path) -> None:
    table.write_text(table.read_text().replace("validation,1", "validation,0", 1))
    result = specinn(FIT, table, *FAST, "--fe-h-min", -3)
    assert "Star 0 (out of range according to the table)" in result.stdout and "Star 7" not in result.stdout
    result = specinn(FIT, table, *FAST, "--overwrite", "--with-reference-stars", "--with-out-of-range",
                     "--fe-h-min", -3)  # fmt: skip
    assert "left out" not in result.stdout.splitlines()[0]
    assert "the training has seen them: Star 1, Star 2" in " ".join(result.stdout.split())
    correction = TeffBias.load(Path("correction.toml"))
    assert correction.n_stars == N and correction.reference_stars == ("Star 1", "Star 2")
    assert correction.labels["logg"].leave_one_out.n_stars == N - 2  # type: ignore[union-attr]
    assert correction.range.fe_h is not None and -2.3 < correction.range.fe_h[0] < -1.8


def test_spectra_by_file_name_and_by_id(specinn: Command, table: Path, tmp_path: Path) -> None:
    """Two files by name, elsewhere and with another suffix; the others in one file, by id."""
    assert specinn(FIT, table, *FAST).exit_code == 0
    first = TeffBias.load(Path("correction.toml"))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    truth = labels_of()
    for i in (0, 3):
        (tmp_path / f"star{i}.txt").rename(folder / f"star{i}.{'txt' if i else 'dat'}")
    batch = fake_plugin.simulate(truth[4:7], snr=300.0)
    batch.meta["id"] = ["STAR 4", "star5.txt", "nobody"]
    many = fake_plugin.write_text(folder / "many.txt", batch)
    other = fake_plugin.write_text(folder / "other.txt", fake_plugin.simulate(truth[:1]))
    (folder / "letter.txt").write_text("dear friend\n")
    spectra = (folder / "star0.dat", folder / "star3.txt", many, other, folder / "letter.txt")
    result = specinn(FIT, table, *spectra, *FAST, "--overwrite")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "Star 1, Star 2, Star 6, Star 7 (no spectrum given)" in text
    assert "matching no star of the table: other.txt, letter.txt" in text
    correction = TeffBias.load(Path("correction.toml"))
    assert correction.stars == ("Star 0", "Star 3", "Star 4", "Star 5")
    assert correction.labels["logg"].b == pytest.approx(first.labels["logg"].b, abs=0.3)
    sentence(
        specinn(FIT, table, other, *FAST, "--overwrite"),
        "none of the 1 spectra belongs to a star",
    )


def test_too_few_stars_and_other_wrong_calls(specinn: Command, table: Path) -> None:
    text = table.read_text()
    table.write_text("".join(text.splitlines(keepends=True)[:5]))
    sentence(specinn(FIT, table, *FAST), "2 stars with literature values are left", "at least 3")
    table.write_text(text.replace("\nstar", "\nlost"))
    sentence(specinn(FIT, table, *FAST), "none of the stars gave values", "lost0.txt: no such file")
    table.write_text(text.replace("0.02", "-0.02"))
    sentence(specinn(FIT, table, *FAST), "standard error of Star 0 is negative")
    table.write_text(text.replace("toy", "tox"))
    sentence(specinn(FIT, table, *FAST), "did you mean 'toy'")
    table.write_text(text)
    sentence(specinn(FIT, table, *ALL, "--label", "log_g"), "no label 'log_g'")
    sentence(specinn(FIT, table, *ALL, "--label", "a_li"), "0 stars with literature values")
    sentence(specinn(FIT, table, "-o", "c.csv"), "'.csv'", ".toml")
    sentence(specinn(FIT, "none.csv", *FAST), "none.csv: no such file")
    assert not list(Path().glob("correction*"))


def test_a_bad_star_is_named_and_the_others_go_on(specinn: Command, table: Path) -> None:
    table.with_name("star4.txt").unlink()
    result = specinn(FIT, table, *FAST)
    assert result.exit_code == 0 and re.search(r"left out: Star 4\s+\(", result.stdout)
    assert "star4.txt: no such file" in " ".join(result.stdout.split())
    assert TeffBias.load(Path("correction.toml")).n_stars == 4


def test_the_correction_of_a_third_party(specinn: Command, table: Path, plugins: Plugins) -> None:
    extra = {"fake": fake_plugin, "bias": specinn_teff_bias, "third_party": ThirdParty()}
    both = Plugins(entry=[], extra=extra)
    sentence(specinn(FIT, table, *FAST, others=both), "--kind", "offset", "teff-bias")
    result = specinn(FIT, table, *FAST, "--kind", "offset", others=both)
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if line.startswith("logg")).split()
    assert len(row) == 6 and float(row[3]) < float(row[2])  # stars, then median before and after
    assert Offset.load(Path("correction.toml")).by == pytest.approx(0.19, abs=0.05)
    assert Path("correction.png").stat().st_size > 10_000
    result = specinn(FIT, table, *FAST, "--kind", "unfit", "--overwrite", others=both)
    sentence(result, "the correction Unfit cannot be fitted", "--kind")


# Stars left out


def known(n: int = 6, seen: Any = ()) -> BenchmarkStars:
    """logg is off by i for star i, with two spectra of the last star."""
    values = np.array([[5000.0 + 100 * i, 2.0 + i, 0.0, 1.0] for i in range(n)])[:, None].repeat(4, axis=1)
    posterior = Posterior(fake_plugin.LABELS, values, np.zeros((n, 4)), np.ones((n, 4), bool))
    star = np.array([f"s{i}" for i in range(n)])
    star[-1] = star[-2]
    literature = {"logg": np.full(n, 2.0)}
    return BenchmarkStars(
        star, posterior, literature, {"logg": np.zeros(n)}, np.isin(np.arange(n), list(seen))
    )


def test_leave_one_out_is_what_it_says() -> None:
    """The constant of a third party's correction: the mean of the other stars' errors, by hand."""
    result = corrections.leave_one_out(Offset, known())["logg"]
    off = np.array([0.0, 1, 2, 3, 4, 5])
    before = np.array([0, 1, 2, 3, 4.5])
    after = [off[i] - np.delete(off, i).mean() for i in range(4)] + [4.5 - off[:4].mean()]
    assert result.n_stars == 5
    assert result.median_before == 2 and result.rms_before == pytest.approx(np.sqrt((before**2).mean()))
    assert result.median_after == pytest.approx(np.median(np.abs(after)))
    assert result.rms_after == pytest.approx(np.sqrt(np.mean(np.square(after))))


def test_reference_stars_are_not_counted() -> None:
    result = corrections.leave_one_out(Offset, known(seen=(0, 1)))["logg"]
    assert result.n_stars == 3 and result.median_before == 3
    assert corrections.leave_one_out(Offset, known(seen=range(6))) == {}
    assert "whether the correction helps is not known" in corrections.verdict({})


def test_labels_with_too_few_stars_are_not_fitted() -> None:
    stars = known()
    few = np.array([1.0, 1.0, *[np.nan] * 4])
    stars = attrs.evolve(stars, literature={**stars.literature, "fe_h": few})
    assert list(corrections.fit(Offset, stars)[1]) == ["logg"]
    with pytest.raises(
        ConfigError, match="2 stars with literature values are left for the fit, but at least 3 are needed"
    ):
        corrections.fit(Offset, attrs.evolve(stars, literature={"fe_h": few}))
    with pytest.raises(ConfigError, match=r"^0 stars"):
        corrections.fit(Offset, attrs.evolve(stars, literature={}))


@pytest.mark.parametrize(
    ("after", "n", "words"),
    [
        (((1, 1), (1, 1)), 20, "improves every label of the stars left out of the fit: it helps."),
        (((1, 1), (1, 3)), 20, r"it improves teff but not logg: fit only the former, with --label\."),
        (
            ((3, 1), (2, 2)),
            20,
            r"The correction improves no label of the stars left out of the fit: do not use it\.",
        ),
        (((1, 1), (1, 1)), 4, r"it helps \(only 4 stars: more may change this\)"),
    ],
)
def test_the_sentence(after: Any, n: int, words: str) -> None:
    tested = {
        name: LeaveOneOut(n, 2.0, median, 2.0, rms)
        for name, (median, rms) in zip(("teff", "logg"), after, strict=True)
    }
    assert re.search(words, corrections.verdict(tested))


def test_a_file_with_several_spectra_is_no_star(plugins: Plugins, tmp_path: Path) -> None:
    path = fake_plugin.write_text(tmp_path / "two.txt", fake_plugin.simulate(labels_of()[:2]))
    star = Benchmark("Two", path, "toy", None, {"logg": 2.0})
    toy = models.load(plugins, models.find(plugins, "toy-model"))
    pairs, _ = corrections.pair([star], [], plugins)
    with pytest.raises(
        ConfigError, match=r"two.txt holds 2 spectra: expected one spectrum per benchmark star"
    ):
        corrections.infer(toy, pairs, plugins, n_samples=10)
    with pytest.raises(ReadError, match="none of the stars gave values"):
        lost = attrs.evolve(star, file=tmp_path / "lost.txt")
        corrections.infer(toy, corrections.pair([lost], [], plugins)[0], plugins, n_samples=10)


def test_errors_of_the_literature(table: Path) -> None:
    stars = read_benchmarks(table, fake_plugin.LABELS)
    assert stars[0].errors == {"logg": 0.02} and set(stars[0].literature) == {"teff", "logg", "fe_h"}
