"""Grids made by a synthesizer: every spectrum once, whoever is killed; failures are listed."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import grid_plugin
import numpy as np
import pytest
import specinn_emulator
import specinn_turbospectrum
from commands import sentence
from processes import processes, said
from typer.testing import CliRunner, Result

from specinn.cli import app
from specinn.grids import Grid, load, priors
from specinn.grids.recipe import Recipe, Stored
from specinn.grids.workdir import MANIFEST
from specinn.instruments import Instrument
from specinn.models import physics, shifts
from specinn.plugins import Plugins
from specinn.plugins.interfaces import Synthesizer
from specinn.testing import check_synthesizer

LINES = """
[grid]
n = {n}
seed = 5

[[prior]]
labels = ["teff", "logg"]
region = [[4200, 1.0], [4200, 4.9], [6900, 4.9], [6900, 3.0]]

[[prior]]
labels = ["fe_h"]
mixture = [{{ weight = 0.7, uniform = [-1.0, 0.4] }}, {{ weight = 0.3, uniform = [-2.9, -1.0] }}]

[[prior]]
labels = ["mg_fe"]
normal = [0.1, 0.1]
bounds = [-0.4, 0.9]

[synthesizer]
kind = "lines"
"""
EMULATOR = """
[grid]
n = 24
resolving_power = 20000
step = 0.08
ranges = [[5165, 5190], [6550, 6570]]

[[prior]]
labels = ["teff", "logg"]
region = [[3800, 0.5], [3800, 4.9], [7000, 4.9], [7000, 3.5], [5200, 0.5]]

[[prior]]
labels = ["fe_h"]
uniform = [-2.5, 0.4]

[[prior]]
labels = ["vmic"]
uniform = [0.6, 2.4]

[[prior]]
labels = ["mg_fe", "si_fe", "ca_fe", "ti_fe", "o_fe"]
normal = [0.0, 0.1]
bounds = [-0.4, 0.78]
correlation = 0.9
trend = { label = "fe_h", points = [[-1.0, 0.35], [0.0, 0.0]] }

[[prior]]
labels = ["c_fe", "mn_fe", "n_fe", "na_fe", "al_fe", "v_fe", "cr_fe", "co_fe", "ni_fe", "sr_fe", "y_fe",
          "zr_fe", "ba_fe", "ce_fe", "eu_fe"]
uniform = [-0.25, 0.25]

[[prior]]
labels = ["a_li"]
uniform = [0.0, 3.5]

[synthesizer]
kind = "slow-emulator"
"""


@attrs.frozen
class Site:
    folder: Path
    path: str
    plugins: Plugins

    def write(self, n: int = 12, name: str = "g.toml", **more: Any) -> Path:
        """A recipe of ``lines``; ``more`` are keys of its synthesizer."""
        text = LINES.format(n=n) + "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
        path = self.folder / name
        path.write_text(text)
        return path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    path = grid_plugin.install(tmp_path / "packages")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([path, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path / "packages")  # what processes that Python spawns search instead
    monkeypatch.chdir(folder)
    shipped = {"grids": specinn_turbospectrum, "emulator": specinn_emulator, "test": grid_plugin}
    return Site(folder, path, Plugins(entry=[], extra=shipped))


@pytest.fixture
def make(site: Site) -> Callable[..., Result]:
    def call(*arguments: Any) -> Result:
        return CliRunner().invoke(app, ["grid", "make", *map(str, arguments)], obj=site.plugins)

    return call


Make = Callable[..., Result]


def same(one: Path, other: Path) -> bool:
    a, b = Grid.open(one), Grid.open(other)
    assert list(a.ids) == list(b.ids) and a.labels == b.labels and a.provenance == b.provenance
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.wavelength, b.wavelength)
    np.testing.assert_array_equal(a.flux(), b.flux())
    return True


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- what is made -------------------------------------------------------------------------------------------


def test_a_grid_is_what_its_recipe_says(site: Site, make: Make) -> None:
    done = make(site.write(12), "--quiet")
    assert done.exit_code == 0, done.output
    assert "g.h5: 12 models, " in done.stdout and "spectra a minute" in done.stdout
    assert sorted(p.name for p in site.folder.iterdir()) == ["g.h5", "g.toml"]
    grid = load([site.folder / "g.h5"], plugins=site.plugins)
    assert grid.labels == grid_plugin.Lines.labels and len(grid) == 12
    lines = grid_plugin.Lines(grid_plugin.Settings())
    np.testing.assert_allclose(grid.flux(), lines(grid.values), atol=2e-5)
    np.testing.assert_array_equal(grid.wavelength, lines.wavelength)
    assert dict(grid.arms) == lines.arms and grid.resolving_power == 50_000 and grid.medium == "air"
    assert [name.rpartition("-")[2] for name in grid.ids] == [f"{i:06d}" for i in range(12)]


def test_physics_and_recipe_are_in_the_header(site: Site, make: Make) -> None:
    assert make(site.write(3), "--quiet").exit_code == 0
    header = dict(Grid.open(site.folder / "g.h5").provenance)
    (recipe,) = header.pop("recipe")
    assert header == dict(grid_plugin.Lines(grid_plugin.Settings()).provenance)
    again = site.folder / "again.toml"  # what the header says makes the grid again
    again.write_text(recipe)
    made = json.loads(make(again, "--quiet", "--json").stdout)
    assert made["models"] == made["computed"] == 3 and made["failed"] == 0 and made["table"] is None
    assert same(site.folder / "g.h5", site.folder / "again.h5")


def test_D15_the_header_does_not_tell_where_files_lay(site: Site) -> None:
    recipe = Recipe.read(site.write(3))
    settings = {
        **recipe.synthesizer,
        "prefix": "/home/me/codes",
        "line_lists": ["/data/me/iron.list", "~/own.list"],
    }
    text = attrs.evolve(recipe, synthesizer=settings).text
    assert "/home" not in text and "/data" not in text and "~" not in text
    assert 'line_lists = ["iron.list", "own.list"]' in text and 'prefix = "codes"' in text


def test_stored_at_another_resolving_power(site: Site, make: Make) -> None:
    text = site.write(4).read_text()
    stored = "resolving_power = 20000\nstep = 0.1\nranges = [[5152, 5158], [5202, 5208]]\n[[prior]]"
    (site.folder / "g.toml").write_text(text.replace("[[prior]]", stored, 1))
    assert make("g.toml", "--quiet").exit_code == 0
    grid = Grid.open(site.folder / "g.h5")
    assert grid.resolving_power == 20_000 and list(grid.arms) == ["blue", "red"]
    assert grid.wavelength[0] == pytest.approx(5152) and np.diff(grid.wavelength).min() == pytest.approx(0.1)
    assert "R = 20000" in grid.provenance["degraded"]


@pytest.mark.slow
def test_a_grid_goes_on_in_a_second_file(site: Site, make: Make) -> None:
    assert make(site.write(10, "whole.toml"), "--quiet").exit_code == 0
    assert make(site.write(6, "one.toml"), "--quiet").exit_code == 0
    text = site.write(4, "two.toml").read_text().replace("seed = 5", "seed = 5\nfirst = 6")
    (site.folder / "two.toml").write_text(text)
    assert make("two.toml", "--quiet").exit_code == 0
    joined = load([site.folder / "one.h5", site.folder / "two.h5"], plugins=site.plugins)
    whole = Grid.open(site.folder / "whole.h5")
    assert list(joined.ids) == list(whole.ids) and len(joined.provenance["recipe"]) == 2
    np.testing.assert_array_equal(joined.values, whole.values)
    np.testing.assert_array_equal(joined.flux(), whole.flux())


def test_names_hang_on_the_recipe_and_not_on_the_number(site: Site) -> None:
    def ids(n: int = 3, **more: Any) -> list[str]:
        return list(Recipe.read(site.write(n, **more)).ids())

    assert ids(5)[:3] == ids(3) and not set(ids(3)) & set(ids(3, version="2"))


def test_show_computes_nothing(site: Site, make: Make) -> None:
    shown = make(site.write(5, fail_above=0.0), "--show")
    assert shown.exit_code == 0 and "g.toml: 5 models" in shown.stdout and "atom.ca105b" in shown.stdout
    assert [p.name for p in site.folder.iterdir()] == ["g.toml"]


def test_physics_reaches_the_catalogue() -> None:
    provenance = {
        **grid_plugin.Lines(grid_plugin.Settings()).provenance,
        "recipe": ["long"],
        "atmospheres": "Ä\nB",
    }
    header = physics({"grid": {"hash": "0", "provenance": provenance}})
    assert header == {
        "code": "lines", "codever": "1.0", "nlte": "Ca atom.ca105b, Mg LTE", "atmosph": "\\xc4 B",
        "linelist": "four 0123456789ab", "solar": "Magg et al. 2022",
    }  # fmt: skip
    assert physics({"grid": {"provenance": {"nlte": {}}}}) == {"nlte": "none"}
    assert shifts({}) == ""
    assert physics({}) == {} and physics({"grid": {"code": "straight lines"}}) == {"code": "straight lines"}


def test_the_bundled_emulator_tells_its_physics() -> None:
    from specinn_emulator.emulator import Emulator

    emulator = Emulator.from_config({}, ["teff"])
    header = emulator.provenance
    assert re.fullmatch(r"emulator of Turbospectrum 2020 \(grid [0-9a-f]{16}\)", header["code"])
    assert "Magg" in header["solar_scale"] and "files" not in header


def test_a_plain_synthesizer_has_no_keys_and_no_provenance(site: Site) -> None:
    class Plain(Synthesizer):
        labels, bounds = ("teff",), np.array([[4000.0, 7000.0]])
        wavelength, resolving_power, medium = np.arange(5000.0, 5010.0), 1e4, "air"

        def __call__(self, labels: Any) -> np.ndarray:
            return 1 - np.asarray(labels) / 1e4 * np.linspace(0, 1, 10)

    assert dict(Plain.provenance) == {}
    check_synthesizer(Plain.from_config({}, ["teff"]))
    with pytest.raises(Exception, match=r"\[synthesizer\]: \$\.step is not known: Plain has no keys"):
        Plain.from_config({"step": 0.1}, ["teff"])


# --- failures -----------------------------------------------------------------------------------------------


def test_failures_are_listed_and_stop_nothing(site: Site, make: Make) -> None:
    recipe = site.write(40, fail_above=6000.0, nan_below=-2.0, bright_below=2.0)
    done = make(recipe)
    assert done.exit_code == 0, done.output
    grid = Grid.open(site.folder / "g.h5")
    table = rows_of(site.folder / "g.failures.csv")
    drawn = Recipe.read(recipe).lazy(site.plugins)
    teff, logg, fe_h = drawn.values.T[:3]
    bad = (teff > 6000) | (fe_h < -2) | (logg < 2)
    assert 5 < bad.sum() < 30
    assert list(grid.ids) == list(drawn.ids[~bad]) and [row["id"] for row in table] == list(drawn.ids[bad])
    assert f"{bad.sum()} more failed and are listed in" in done.stdout and "g.failures.csv" in done.stdout
    np.testing.assert_allclose([float(row["teff"]) for row in table], teff[bad], rtol=1e-5)
    for row in table:
        why = row["message"]
        if float(row["teff"]) > 6000:
            assert why.startswith("no atmosphere at ") and why.endswith("the log ends with: STOP, really")
        elif float(row["fe_h"]) < -2:
            assert why == f"model {row['id']}: its flux has values that are not finite"
        else:
            assert re.search(r"normalised flux from .* to 1\.4, outside 0 to 1\.25", why)
        assert row["id"] in done.stderr
    assert not (site.folder / "g.h5.run").exists()


def test_too_many_failures_in_a_row_stop_it(site: Site, make: Make) -> None:
    recipe = site.write(30, fail_above=4000.0)
    done = make(recipe, "--quiet", "--give-up", 5)
    assert done.exit_code == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("specinn: 5 spectra failed one after another, the last one so: no atmosphere at ")
    assert "g.failures.csv" in last and "--retry" in last
    assert len(rows_of(site.folder / "g.failures.csv")) == 5 and not (site.folder / "g.h5").exists()


def test_nothing_at_all_is_no_grid(site: Site, make: Make) -> None:
    done = make(site.write(3, fail_above=4000.0), "--quiet")
    assert done.exit_code == 1 and "none of the 3 spectra could be computed" in done.stderr
    assert not (site.folder / "g.h5").exists()


def test_retry_computes_what_failed_again(site: Site, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = site.write(20)
    usual = grid_plugin.Lines.__call__
    calls: list[float] = []

    def broken(self: Any, labels: Any) -> np.ndarray:
        calls.append(float(labels[0, 0]))
        if len(calls) > 5:
            raise OSError("no space on the scratch disk")
        return usual(self, labels)

    with monkeypatch.context() as patch:
        patch.setattr(grid_plugin.Lines, "__call__", broken)
        done = make(recipe, "--quiet", "--give-up", 3)
    assert "unexpected OSError: no space on the scratch disk" in done.stderr.splitlines()[-1]
    assert len(calls) == 8
    calls.clear()

    def counted(self: Any, labels: Any) -> np.ndarray:
        calls.append(float(labels[0, 0]))
        return usual(self, labels)

    monkeypatch.setattr(grid_plugin.Lines, "__call__", counted)
    assert make(recipe, "--quiet", "--retry").exit_code == 0
    assert len(calls) == 15 == len(set(calls))  # 5 of 20 were done
    assert not (site.folder / "g.failures.csv").exists() and len(Grid.open(site.folder / "g.h5")) == 20


# --- going on -----------------------------------------------------------------------------------------------


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Any]]:
    """Starts ``specinn grid make`` as a process."""
    preload = ["grid_plugin", "specinn.cli", "specinn.grids.make", "specinn.survey.shards"]
    with processes(site.folder, os.environ["PYTHONPATH"], preload) as begin:
        yield lambda *arguments, **given: begin("grid", "make", *arguments, **given)


Start = Callable[..., Any]


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_in_the_middle_every_spectrum_is_there_once(
    site: Site, make: Make, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 spectra of the bundled emulator in 2 processes; the one that runs the command is killed with -9."""
    (site.folder / "e.toml").write_text(EMULATOR)
    assert make("e.toml", "-o", "whole.h5", "--quiet").exit_code == 0
    work = site.folder / "e.h5.run"
    process = start("e.toml", "--workers", 2, "--quiet", GRID_PAUSE="0.2")
    wait_for(lambda: len(list(work.glob("flux-*.npy"))) >= 7, process)
    process.kill()
    process.join()
    done = {path: path.stat().st_mtime_ns for path in work.glob("flux-*.npy")}
    assert 7 <= len(done) < 24 and not (site.folder / "e.h5").exists()
    again: list[Path] = []
    monkeypatch.setattr("specinn.grids.workdir.Work.clear", lambda self: again.extend(
        path for path, time in done.items() if path.stat().st_mtime_ns != time))  # fmt: skip
    result = make("e.toml")  # with another number of processes
    assert result.exit_code == 0, result.output
    already = re.search(r"(\d+) of 24 spectra are already done", result.stderr)
    assert already and 7 <= int(already[1]) < 24 and not again  # nothing was computed twice
    grid, whole = Grid.open(site.folder / "e.h5"), Grid.open(site.folder / "whole.h5")
    assert len(set(grid.ids)) == len(grid) == 24 and list(grid.ids) == list(whole.ids)
    np.testing.assert_array_equal(grid.values, whole.values)
    np.testing.assert_allclose(grid.flux(), whole.flux(), atol=2.1e-5)  # one step of the 16-bit flux
    assert grid.provenance == whole.provenance and "Turbospectrum" in grid.provenance["code"]


@pytest.mark.slow
def test_killed_at_any_file(site: Site, make: Make, start: Start) -> None:
    """Killed in the moment in which a file gets its name: of a spectrum, of a failure, of the grid."""
    recipe = site.write(6, fail_above=6500.0)
    assert make(recipe, "-o", "whole.h5", "--quiet").exit_code == 0
    names = {"g.h5", "g.toml", "whole.h5", "g.failures.csv", "whole.failures.csv"}
    assert {p.name for p in site.folder.iterdir()} < names
    deaths = 0
    while True:
        process = start("g.toml", "--quiet", dies_at=deaths + 1)
        process.join()
        if process.exitcode == 0:
            break
        deaths += 1
        assert process.exitcode == -signal.SIGKILL, said(site.folder)
        assert not (site.folder / "g.h5").exists()
        assert make(recipe, "--quiet").exit_code == 0
        assert same(site.folder / "g.h5", site.folder / "whole.h5")
        assert {p.name for p in site.folder.iterdir()} == names  # nothing is left beside
        (site.folder / "g.h5").unlink()
    assert deaths == 11  # manifest, 6 spectra, table of failures, and the grid, in three steps


def test_killed_after_the_grid_was_written(site: Site, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = site.write(4)
    with monkeypatch.context() as patch:
        patch.setattr("specinn.grids.workdir.Work.clear", lambda self, **_: None)
        assert make(recipe, "--quiet").exit_code == 0
    assert (site.folder / "g.h5.run" / MANIFEST).is_file()
    before = (site.folder / "g.h5").read_bytes()
    done = make(recipe, "--quiet")
    assert done.exit_code == 0 and "g.h5: 4 models" in done.stdout, done.output
    assert (site.folder / "g.h5").read_bytes() == before and not (site.folder / "g.h5.run").exists()


@pytest.mark.slow
def test_overwriting_is_not_over_before_its_end(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is to replace a grid of its own recipe goes on: it does not take that one for its own."""
    recipe = site.write(6)
    assert make(recipe, "--quiet").exit_code == 0
    before = (site.folder / "g.h5").stat().st_ino
    interrupted(site, make, recipe, monkeypatch, "--overwrite")
    sentence(make(recipe, "--quiet"), "g.h5 exists")
    done = make(recipe, "--overwrite")
    assert done.exit_code == 0 and "3 of 6 spectra are already done" in done.stderr
    assert (site.folder / "g.h5").stat().st_ino != before and len(Grid.open(site.folder / "g.h5")) == 6


def interrupted(
    site: Site, make: Make, recipe: Path, monkeypatch: pytest.MonkeyPatch, *options: str, after: int = 3
) -> None:
    """Ctrl-C after so many spectra."""
    usual, calls = grid_plugin.Lines.__call__, []

    def stop(self: Any, labels: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return usual(self, labels)

    with monkeypatch.context() as patch:
        patch.setattr(grid_plugin.Lines, "__call__", stop)
        done = make(recipe, *options)
    assert done.exit_code == 130 and "stopped; the same command resumes" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed = 6", "$.grid.seed was 5, is 6"),
        ("seed = 5\nstep = 0.05", "$.grid.step was None, is 0.05"),
        ("normal = [0.1, 0.2]", "$.prior[2].normal was [0.1, 0.1], is [0.1, 0.2]"),
        ('version = "2.0"', "$.synthesizer.version was '1.0', is '2.0'"),
    ],
)
def test_another_recipe_does_not_go_on(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch, change: str, words: str
) -> None:
    recipe = site.write(6, version="1.0")
    interrupted(site, make, recipe, monkeypatch)
    key = change.split(" = ")[0]
    recipe.write_text(re.sub(rf"^{key} = .*$", change, recipe.read_text(), flags=re.MULTILINE))
    sentence(make(recipe, "--quiet"), "g.h5.run holds spectra of another recipe", words, "--overwrite")
    assert make(recipe, "--quiet", "--overwrite").exit_code == 0
    assert make(recipe, "-o", "whole.h5", "--quiet").exit_code == 0
    assert same(site.folder / "g.h5", site.folder / "whole.h5")


def test_other_line_data_under_the_same_name_do_not_go_on(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = site.write(6)
    interrupted(site, make, recipe, monkeypatch)
    changed = {**grid_plugin.Lines(grid_plugin.Settings()).provenance, "line_lists": {"four": "f" * 64}}
    monkeypatch.setattr(grid_plugin.Lines, "provenance", changed)
    sentence(make(recipe, "--quiet"), "another recipe: provenance.line_lists.four was '0123", "is 'ffff")


@pytest.mark.parametrize("n", [4, 9])
def test_the_number_of_models_may_change(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    interrupted(site, make, site.write(6), monkeypatch, after=5)
    assert make(site.write(n), "--quiet").exit_code == 0
    assert make(site.write(n), "-o", "whole.h5", "--quiet").exit_code == 0
    assert same(site.folder / "g.h5", site.folder / "whole.h5") and len(Grid.open(site.folder / "g.h5")) == n


def test_damage_is_named(site: Site, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = site.write(5)
    interrupted(site, make, recipe, monkeypatch)
    part = site.folder / "g.h5.run" / "flux-000000001.npy"
    part.write_bytes(part.read_bytes()[:200])
    sentence(make(recipe, "--quiet"), "flux-000000001.npy is damaged", "delete it")
    part.unlink()
    assert make(recipe, "--quiet").exit_code == 0 and len(Grid.open(site.folder / "g.h5")) == 5


@pytest.mark.slow
def test_what_cannot_be_written(site: Site, make: Make) -> None:
    recipe = site.write(3)
    assert make(recipe, "--quiet").exit_code == 0
    sentence(make(recipe), "g.h5 exists", "--overwrite")
    assert make(recipe, "--quiet", "--overwrite").exit_code == 0
    sentence(make(recipe, "-o", "g.fits"), "suffix '.fits'")
    sentence(make(recipe, "-o", "none/g.h5"), "there is no folder none")
    (site.folder / "x.h5.run").mkdir()
    (site.folder / "x.h5.run" / "letter.txt").write_text("hello")
    sentence(make(recipe, "-o", "x.h5", "--quiet"), "letter.txt, which specinn did not write")
    assert (site.folder / "x.h5.run" / "letter.txt").is_file()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("n = 12", "n = 0", "$.grid: expected n >= 1"),
        ("n = 12", "m = 12", "g.toml: "),
        ("n = 12", 'n = "12"', "expected an integer, found '12' @ $.grid.n"),
        ('kind = "lines"', "", "$.synthesizer.kind: expected a name"),
        ('kind = "lines"', 'kind = "liness"', "did you mean 'lines'?"),
        ('kind = "lines"', 'kind = "lines"\nstpe = 1', "stpe"),
        ('kind = "lines"', 'kind = "lines"\nfirst = "a"', "expected a number, found 'a' @ $.first"),
        (
            'labels = ["mg_fe"]',
            'labels = ["ca_fe"]',
            "no table [[prior]] draws mg_fe: the synthesizer 'lines' takes",
        ),
        ('labels = ["mg_fe"]', 'labels = ["mg_fe", "ca_fe"]', "[[prior]] draws ca_fe: the synthesizer"),
        ("bounds = [-0.4, 0.9]", "bounds = [-0.6, 0.9]\ncorrelation = 0.5", "correlation"),
        ("uniform = [-2.9, -1.0]", "uniform = [-3.9, -1.0]", "'lines' takes -3 to 0.5: "),
    ],
)
def test_wrong_recipes_are_sentences(site: Site, make: Make, old: str, new: str, words: str) -> None:
    recipe = site.write(12)
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))
    sentence(make(recipe), words)
    assert [p.name for p in site.folder.iterdir()] == ["g.toml"]


# --- processes and machines ---------------------------------------------------------------------------------


GRIDS = ("first-grid", "4most-hr-bgr", "4most-hr")


@pytest.mark.parametrize("name", GRIDS)
def test_recipes_that_ship_are_right(name: str) -> None:
    folder = Path(specinn_turbospectrum.__file__).parent / "recipes"
    assert {path.stem for path in folder.glob("*.toml")} == {*GRIDS, "lines"}
    recipe = Recipe.read(folder / f"{name}.toml")
    assert recipe.synthesizer.pop("kind") == "turbospectrum"
    columns = priors.draw(recipe.prior, recipe.grid.n, seed=recipe.grid.seed, first=recipe.grid.first)
    assert {"teff", "logg", "fe_h", "vmic", "mg_fe", "a_li"} <= set(columns)
    arms = Instrument.from_toml(Plugins().record("instrument", "4most-hr").toml).arms
    segments = recipe.synthesizer["segments"]
    for arm in arms:
        if arm.name in segments:  # with room for the line-spread function and the velocities of stars
            low, high = segments[arm.name]
            assert low < arm.range[0] - 5 and arm.range[1] + 5 < high


@pytest.mark.slow
def test_processes_give_the_same_and_one_that_dies_costs_nothing(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = site.write(12)
    assert make(recipe, "-o", "whole.h5", "--quiet").exit_code == 0
    teff = np.sort(Grid.open(site.folder / "whole.h5").column("teff"))
    lives = site.folder / "lives"
    lives.write_text("x")
    monkeypatch.setenv("GRID_LIVES", str(lives))
    monkeypatch.setenv("GRID_DEADLY", str(teff[-2] + 0.01))
    result = make(recipe, "--workers", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert lives.read_text() == "" and same(site.folder / "g.h5", site.folder / "whole.h5")


@pytest.mark.slow
def test_a_star_that_kills_its_processes_is_a_failure(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = site.write(5)
    teff = np.sort(Recipe.read(recipe).lazy(site.plugins).column("teff"))
    (site.folder / "lives").write_text("x" * 99)
    monkeypatch.setattr("specinn.parallel.processes.TRIES", 2)
    monkeypatch.setenv("GRID_LIVES", str(site.folder / "lives"))
    monkeypatch.setenv("GRID_DEADLY", str(teff[-2] + 0.01))
    result = make(recipe, "--workers", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert len(Grid.open(site.folder / "g.h5")) == 4
    (row,) = rows_of(site.folder / "g.failures.csv")
    assert row["message"] == "2 processes died one after another over it"
    assert float(row["teff"]) == pytest.approx(teff[-1], rel=1e-5)


@pytest.mark.slow
def test_one_run_at_a_time(site: Site, make: Make, start: Start) -> None:
    recipe = site.write(30)
    process = start("g.toml", "--quiet", GRID_PAUSE_LINES="0.3")
    wait_for(lambda: any(site.folder.glob("g.h5.run/flux-*")), process)
    sentence(make(recipe), "another run is writing")


@pytest.fixture
def cluster(site: Site) -> Iterator[Any]:
    distributed = pytest.importorskip(
        "dask.distributed", reason="Dask is not installed: pip install '.[cluster]'"
    )
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0",
        local_directory=site.folder.parent / "dask",
    ) as cluster:  # fmt: skip
        yield cluster


@pytest.mark.slow
def test_a_cluster_gives_the_same(site: Site, make: Make, cluster: Any) -> None:
    recipe = site.write(12, fail_above=6500.0)
    assert make(recipe, "-o", "whole.h5", "--quiet").exit_code == 0
    result = make(recipe, "--scheduler", cluster.scheduler_address, "--quiet")
    assert result.exit_code == 0, result.output
    assert same(site.folder / "g.h5", site.folder / "whole.h5")
    assert (site.folder / "g.failures.csv").read_text() == (site.folder / "whole.failures.csv").read_text()


@pytest.mark.slow
def test_a_made_grid_trains_an_emulator(site: Site, make: Make) -> None:
    """No step between: the header of the emulator has the physics that the synthesizer told."""
    from specinn_emulator.emulator import Emulator

    assert make(site.write(60), "--quiet").exit_code == 0
    (site.folder / "e.toml").write_text(
        '[synthesizer]\nkind = "emulator"\ngrid = ["g.h5"]\n'
        "network = { components = 5, width = 8, depth = 1, members = 1 }\n"
        "training = { epochs = 2, batch = 16 }\n"
    )
    trained = CliRunner().invoke(app, ["train", "e.toml", "-q"])
    assert trained.exit_code == 0, trained.output
    emulator = Emulator.load(site.folder / "e.safetensors")
    grid = Grid.open(site.folder / "g.h5")
    assert emulator.header["grid"]["provenance"] == grid.provenance
    assert emulator.provenance["nlte"] == {"Ca": "atom.ca105b", "Mg": "LTE"}
    assert emulator.provenance["code"] == f"emulator of lines (grid {grid.hash})"


# --- the page ----------------------------------------------------------------------------------------------


def test_the_page_names_every_key_and_its_example_is_right() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/grid-make.md").read_text(encoding="utf-8")
    for kind in (Stored, priors.Draw, priors.Share, priors.Trend):
        for field in attrs.fields(kind):
            assert f"`{field.name}`" in page, field.name
    (example,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    recipe = Recipe.of(tomllib.loads(example), "grid-make.md")
    names = {name for part in recipe.prior for name in part.labels}
    drawn = priors.draw(recipe.prior, 64, seed=recipe.grid.seed)
    assert drawn.keys() == names and {"teff", "logg", "fe_h", "vmic", "a_li"} < names
