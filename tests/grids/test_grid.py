"""Grids: tables and splits, HDF5 round trip, joining, degrading, and the command line."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import attrs
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from specinn.errors import GridError, OutputError
from specinn.grids import Grid, load
from specinn.grids.degrade import degrade
from specinn.grids.grid import FLUX_LIMIT, SPLITS
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import Record, hookimpl


def make_grid(
    n: int = 5, *, seed: int = 0, prefix: str = "m", flux: np.ndarray | None = None, **fields
) -> Grid:
    """Two arms of 200 and 100 pixels with random lines."""
    rng = np.random.default_rng(seed)
    wavelength = np.concatenate([5000 + 0.05 * np.arange(200), 6000 + 0.05 * np.arange(100)])
    flux = rng.uniform(0.1, 1.05, (n, wavelength.size)).astype(np.float32) if flux is None else flux
    values = np.column_stack([rng.uniform(4000, 7000, n), rng.uniform(0, 5, n)])
    arrays = {
        "labels": ("teff", "logg"),
        "values": values,
        "ids": np.array([f"{prefix}{i}" for i in range(n)]),
        "wavelength": wavelength,
        "arms": {"green": slice(0, 200), "red": slice(200, 300)},
        "flux_of": lambda rows: flux[rows],
        "resolving_power": 60000.0,
        "provenance": {"code": "test", "files": [prefix]},
    }
    return Grid(**{**arrays, **fields})


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped loaders, whether or not the package is installed."""
    point = EntryPoint("turbospectrum", "specinn_turbospectrum", "specinn")
    monkeypatch.setattr("specinn.plugins.manager.entry_points", lambda group: [point])


# --- tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros((5, 3))}, "labels have shape"),
        ({"values": np.array([[5000, np.nan]] * 5)}, "model m0: label logg is not a finite number"),
        ({"ids": np.array(["a", "b", "a", "c", "d"])}, "2 models of the grid have the id a"),
        ({"resolving_power": 0.0}, "resolving power 0.0 is not positive"),
        ({"values": np.zeros((0, 2)), "ids": np.empty(0, str)}, "the grid has no models"),
    ],
)
def test_inconsistent_tables_are_refused(change, message):
    with pytest.raises(GridError, match=message):
        make_grid(**change)


def test_flux_that_is_not_finite_names_the_model():
    flux = np.ones((5, 300), np.float32)
    flux[3, 7] = np.nan
    grid = make_grid(flux=flux)
    assert grid.flux([0, 1]).shape == (2, 300)
    with pytest.raises(GridError, match="model m3: its flux has values that are not finite"):
        grid.flux()


def test_flux_of_a_known_defect_is_refused():
    grid = make_grid(defects={"m2": "m2.spec is empty"})
    assert grid.flux([1, 3]).shape == (2, 300)
    with pytest.raises(GridError, match=r"m2\.spec is empty"):
        grid.flux([1, 2])


def test_unknown_label_and_split():
    with pytest.raises(GridError, match="no label 'fe_h'; it has teff, logg"):
        make_grid().column("fe_h")
    with pytest.raises(GridError, match="no split 'dev'"):
        make_grid().split("dev")


@pytest.mark.slow
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=80, unique=True), st.integers(0, 40))
def test_splits_are_disjoint_complete_and_stable(numbers, extra):
    def grid_of(names):
        return make_grid(
            len(names), ids=np.array([str(i) for i in names]), flux=np.ones((len(names), 300), np.float32)
        )

    grid = grid_of(numbers)
    rows = np.concatenate([grid.split(name) for name in SPLITS])
    assert sorted(rows.tolist()) == list(range(len(grid)))
    grown = grid_of([2 * 10**6 + i for i in range(extra)] + numbers)  # more models, other rows
    for name in SPLITS:
        before = set(grid.ids[grid.split(name)])
        after = set(grown.ids[grown.split(name)])
        assert before == after & set(grid.ids)


def test_split_fractions():
    grid = make_grid(4000, flux=np.ones((1, 300), np.float32))
    for name, fraction in SPLITS.items():
        assert len(grid.split(name)) / 4000 == pytest.approx(fraction, abs=0.02)


# --- on disk ----------------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    grid = make_grid(37)
    assert grid.save(tmp_path / "g.h5", block=8) == {}
    back = Grid.open(tmp_path / "g.h5")
    assert back.labels == grid.labels and back.arms == grid.arms and back.hash == grid.hash
    assert back.resolving_power == 60000.0 and back.medium == "air" and back.provenance == grid.provenance
    np.testing.assert_array_equal(back.values, grid.values)
    np.testing.assert_array_equal(back.wavelength, grid.wavelength)
    assert np.abs(back.flux() - grid.flux()).max() <= 0.51 * FLUX_LIMIT / 65535
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


@pytest.mark.slow
@given(st.lists(st.integers(0, 36), max_size=20))
def test_rows_in_any_order_and_number(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.h5"
    grid = make_grid(37)
    if not path.exists():
        grid.save(path)
    np.testing.assert_allclose(Grid.open(path).flux(rows), grid.flux(rows), atol=2e-5)


def test_infinite_resolving_power_survives(tmp_path):
    make_grid(resolving_power=np.inf).save(tmp_path / "g.h5")
    assert Grid.open(tmp_path / "g.h5").resolving_power == np.inf


def test_large_provenance_survives(tmp_path):
    names = [f"folder/{i}.spec" for i in range(20000)]  # above the 64 kB of an HDF5 attribute
    make_grid(provenance={"missing": names}).save(tmp_path / "g.h5")
    assert Grid.open(tmp_path / "g.h5").provenance["missing"] == names


def test_saving_reads_few_models_at_a_time(tmp_path):
    asked: list[int] = []

    def flux_of(rows):
        asked.append(len(rows))
        return np.ones((len(rows), 300), np.float32)

    make_grid(200, flux_of=flux_of).save(tmp_path / "g.h5", block=16)
    assert max(asked) == 16 and sum(asked) == 200


def test_output_is_not_replaced_unless_told(tmp_path):
    make_grid().save(tmp_path / "g.h5")
    with pytest.raises(GridError, match="exists: give another name or --overwrite"):
        make_grid(7).save(tmp_path / "g.h5")
    make_grid(7).save(tmp_path / "g.h5", overwrite=True)
    assert len(Grid.open(tmp_path / "g.h5")) == 7


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GridError("x"), RuntimeError("x")])
def test_interrupted_save_leaves_no_file(tmp_path, error):
    def flux_of(rows):
        if rows[0] >= 8:
            raise error
        return np.ones((len(rows), 300), np.float32)

    make_grid(5).save(tmp_path / "old.h5")
    before = (tmp_path / "old.h5").read_bytes()
    for name in ("old.h5", "new.h5"):
        with pytest.raises(type(error)):
            make_grid(20, flux_of=flux_of).save(tmp_path / name, block=4, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["old.h5"]
    assert (tmp_path / "old.h5").read_bytes() == before


def test_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("specinn.grids.grid.os.replace", full)
    with pytest.raises(GridError, match=r"g\.h5 cannot be written: No space left on device"):
        make_grid().save(tmp_path / "g.h5")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_for_the_output(tmp_path):
    with pytest.raises(GridError, match="there is no folder"):
        make_grid().save(tmp_path / "nowhere" / "g.h5")


def test_flux_out_of_range_is_refused_by_model_or_left_out(tmp_path):
    flux = np.ones((5, 300), np.float32)
    flux[2, 5], flux[4, 6] = 1.3, -0.1
    grid = make_grid(flux=flux)
    with pytest.raises(GridError, match=r"model m2: normalised flux from 1 to 1\.3"):
        grid.save(tmp_path / "g.h5")
    left_out = grid.save(tmp_path / "g.h5", skip_bad=True, block=2)
    assert list(left_out) == ["m2", "m4"]
    back = Grid.open(tmp_path / "g.h5")
    assert back.ids.tolist() == ["m0", "m1", "m3"]
    np.testing.assert_array_equal(back.values, grid.values[[0, 1, 3]])
    assert back.flux().shape == (3, 300)
    assert [text[:8] for text in back.provenance["left_out"]] == ["model m2", "model m4"]


def test_known_defects_end_an_import_before_it_begins(tmp_path):
    grid = make_grid(defects={"m2": "m2.spec is empty", "m3": "m3.spec is empty"})
    with pytest.raises(GridError, match=r"m2\.spec is empty \(1 more like it\)"):
        grid.save(tmp_path / "g.h5")
    assert grid.save(tmp_path / "g.h5", skip_bad=True) == dict(grid.defects)
    assert Grid.open(tmp_path / "g.h5").ids.tolist() == ["m0", "m1", "m4"]


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(GridError, match="none of the 5 models is usable"):
        make_grid(flux=np.full((5, 300), np.nan, np.float32)).save(tmp_path / "g.h5", skip_bad=True)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_grid(tmp_path):
    with pytest.raises(GridError, match="no such file"):
        Grid.open(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(GridError, match="not a readable HDF5 file"):
        Grid.open(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "something else"
    with pytest.raises(GridError, match="not a specinn grid"):
        Grid.open(tmp_path / "other.h5")
    make_grid().save(tmp_path / "g.h5")
    with h5py.File(tmp_path / "g.h5", "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(GridError, match="version 99 of the grid layout"):
        Grid.open(tmp_path / "g.h5")
    with h5py.File(tmp_path / "g.h5", "a") as file:
        file.attrs["version"] = 1
        del file["ids"]
    with pytest.raises(GridError, match="incomplete grid"):
        Grid.open(tmp_path / "g.h5")


def test_truncated_grid_file_is_named(tmp_path):
    make_grid(200).save(tmp_path / "g.h5")
    data = (tmp_path / "g.h5").read_bytes()
    (tmp_path / "g.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(GridError, match=r"g\.h5 is not a readable HDF5 file"):
        Grid.open(tmp_path / "g.h5")


# --- joining ----------------------------------------------------------------------------------------------


def test_concatenation_keeps_rows_together():
    parts = [make_grid(4, seed=i, prefix=f"p{i}-") for i in range(3)]
    whole = Grid.concatenate(parts)
    assert len(whole) == 12 and whole.provenance["files"] == ["p0-", "p1-", "p2-"]
    rows = [11, 0, 5, 4, 3]
    expected = np.stack([parts[r // 4].flux([r % 4])[0] for r in rows])
    np.testing.assert_array_equal(whole.flux(rows), expected)
    np.testing.assert_array_equal(whole.values[rows], [parts[r // 4].values[r % 4] for r in rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("teff", "vmic")}, "a.h5 has labels .* b.h5 has"),
        ({"resolving_power": 2e4}, "a.h5 has resolving_power 60000.0, b.h5 has 20000.0"),
        ({"medium": "vacuum"}, "a.h5 has medium air, b.h5 has vacuum"),
        ({"provenance": {"code": "other"}}, "a.h5 has code 'test', b.h5 has 'other'"),
        ({"prefix": "m"}, "a.h5 and b.h5 both hold model m0"),
    ],
)
def test_parts_of_different_grids_are_not_joined(change, message):
    with pytest.raises(GridError, match=message):
        Grid.concatenate([make_grid(), make_grid(**{"prefix": "n", **change})], ["a.h5", "b.h5"])


def test_parts_on_different_wavelengths_are_not_joined():
    other = make_grid(prefix="n")
    with pytest.raises(GridError, match="have different wavelengths"):
        Grid.concatenate([make_grid(), attrs.evolve(other, wavelength=other.wavelength + 0.01)])


# --- degrading --------------------------------------------------------------------------------------------


def line_grid(resolving_power: float, step: float = 0.01) -> Grid:
    """One spectrum, 5990 to 6010 A, with a Gaussian line of sigma 0.05 A and equivalent width 0.1 A."""
    wavelength = np.arange(5990, 6010, step)
    sigma = 0.05
    flux = 1 - 0.1 / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((wavelength - 6000) / sigma) ** 2)
    return make_grid(
        1,
        wavelength=wavelength,
        arms={"all": slice(0, wavelength.size)},
        flux=flux[None].astype(np.float32),
        resolving_power=resolving_power,
    )


@pytest.mark.parametrize("native", [np.inf, 60000.0])
def test_degraded_line_has_the_width_and_strength_that_theory_says(native):
    grid = degrade(line_grid(native), resolving_power=20000, step=0.02, ranges=[(5995, 6005)])
    assert grid.resolving_power == 20000 and grid.wavelength[[0, -1]] == pytest.approx([5995, 6005])
    depth = 1 - grid.flux()[0].astype(float)
    assert depth.sum() * 0.02 == pytest.approx(0.1, rel=2e-3)
    variance = (depth * (grid.wavelength - 6000) ** 2).sum() / depth.sum()
    kernel = 6000 / 2.35482 * np.sqrt(1 / 20000**2 - 1 / native**2)
    assert np.sqrt(variance) == pytest.approx(np.sqrt(0.05**2 + kernel**2 + 0.02**2 / 12), rel=0.01)
    assert "20000" in grid.provenance["degraded"]


def test_degraded_grid_is_small_and_loses_its_edges_only():
    grid = degrade(line_grid(np.inf), resolving_power=20000)
    assert grid.wavelength.size < 0.2 * 2000
    assert 5990 < grid.wavelength[0] < 5990.6 and 6009.4 < grid.wavelength[-1] < 6010
    assert grid.flux()[0, [0, -1]] == pytest.approx(1.0, abs=1e-5)


def test_several_ranges_of_one_arm_become_arms():
    grid = degrade(line_grid(np.inf), resolving_power=20000, ranges=[(6002, 6008), (5992, 5998)])
    waves = [grid.wavelength[arm] for arm in grid.arms.values()]
    assert len(waves) == 2 and waves[0][0] == pytest.approx(5992) and waves[1][0] == pytest.approx(6002)
    assert (np.diff(grid.wavelength) > 0).all() and grid.flux().shape == (1, grid.wavelength.size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolving_power": 1e5}, "can be degraded but not sharpened"),
        ({"resolving_power": -1.0}, "not positive"),
        ({"step": 0.0}, "the step of 0 Angstrom is not positive"),
        ({"resolving_power": 2e4, "step": 0.5}, "too coarse for R = 20000"),
        ({"ranges": [(5980, 6000)]}, "is outside the grid, which covers 5990-6009.99"),
        ({"ranges": [(6005, 6000)]}, "not increasing"),
        ({"ranges": [(5995, 6000), (5998, 6002)]}, "two ranges overlap at 5998"),
        ({"resolving_power": 2e4, "ranges": [(5990, 6000)]}, "ask for 5990.4. to"),
    ],
)
def test_what_cannot_be_degraded(options, message):
    with pytest.raises(GridError, match=message):
        degrade(line_grid(60000.0), **options)


# --- command line -----------------------------------------------------------------------------------------


def run(*arguments: object):
    from specinn.cli.grid import app

    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_import_joins_and_info_tells(tmp_path, shipped):
    for i in range(2):
        make_grid(6, seed=i, prefix=f"p{i}-").save(tmp_path / f"p{i}.h5")
    out = tmp_path / "all.h5"
    result = run("import", tmp_path / "p0.h5", tmp_path / "p1.h5", "-o", out, "--note", "atmospheres=MARCS")
    assert result.exit_code == 0, result.exception
    assert len(Grid.open(out)) == 12
    about = json.loads(run("info", out, "--json").stdout)
    assert about["n_models"] == 12 and sum(about["splits"].values()) == 12
    assert about["labels"]["teff"]["unit"] == "K" and about["arms"]["red"]["pixels"] == 100
    assert about["provenance"]["atmospheres"] == "MARCS" and about["hash"] == Grid.open(out).hash
    shown = run("info", out).stdout
    assert "12 models" in shown and "5000.00" in shown and "MARCS" in shown


def test_import_degrades(tmp_path, shipped):
    line_grid(np.inf).save(tmp_path / "fine.h5")
    result = run(
        "import",
        tmp_path / "fine.h5",
        "-o",
        tmp_path / "g.h5",
        "--resolving-power",
        20000,
        "--step",
        0.06,
        "--range",
        "5992-5998",
        "--range",
        "6002-6008",
    )
    assert result.exit_code == 0, result.exception
    grid = Grid.open(tmp_path / "g.h5")
    assert (
        grid.resolving_power == 20000
        and len(grid.arms) == 2
        and np.diff(grid.wavelength).min() == pytest.approx(0.06)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{p}/none", "-o", "{p}/o.h5"), "no such file or folder"),
        (
            ("{p}/text.txt", "-o", "{p}/o.h5"),
            "does not have a known layout of synthetic spectra (specinn, tsf",
        ),
        (("{p}/g.h5", "-o", "{p}/g.h5"), "g.h5 is an input of this command"),
        (("{p}/g.h5", "-o", "{p}/old.h5"), "old.h5 exists"),
        (("{p}/g.h5", "-o", "{p}/o.h5", "--range", "5000"), "expected two wavelengths"),
        (("{p}/g.h5", "-o", "{p}/o.h5", "--note", "code=mine"), "the files state it already"),
        (("{p}/g.h5", "-o", "{p}/o.h5", "--note", "mine"), "expected KEY=VALUE"),
        (("{p}/g.h5", "-o", "{p}/o.h5", "--loader", "tsfitpy"), "has neither spectra_parameters.csv nor"),
    ],
)
def test_import_refuses(tmp_path, shipped, arguments, message):
    make_grid().save(tmp_path / "g.h5")
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "old.h5").write_text("old\n")
    result = run("import", *(a.format(p=tmp_path) for a in arguments))
    assert isinstance(result.exception, (GridError, OutputError)) and message in str(result.exception)
    assert not (tmp_path / "o.h5").exists()


def test_layouts_are_recognised_in_spite_of_a_broken_plugin(tmp_path):
    """A loader that cannot be imported hinders nobody; two that claim one file must be told apart."""

    class Broken:
        @hookimpl
        def specinn_grid_loaders(self):
            return [Record(name="aaa", summary="", factory="specinn_nowhere:Loader")]

    class Greedy:
        @hookimpl
        def specinn_grid_loaders(self):
            return [Record(name="greedy", summary="", factory="specinn_turbospectrum.own:SpecinnGrid")]

    make_grid().save(tmp_path / "g.h5")
    (tmp_path / "text.txt").write_text("hello\n")
    point = EntryPoint("turbospectrum", "specinn_turbospectrum", "specinn")
    plugins = Plugins(entry=[point], extra={"broken": Broken()})
    assert len(load([tmp_path / "g.h5"], plugins=plugins)) == 5
    with pytest.raises(GridError, match="aaa cannot be used"):
        load([tmp_path / "text.txt"], plugins=plugins)
    plugins = Plugins(entry=[point], extra={"greedy": Greedy()})
    with pytest.raises(GridError, match="could be greedy or specinn: choose one with --loader"):
        load([tmp_path / "g.h5"], plugins=plugins)
    assert len(load([tmp_path / "g.h5"], "specinn", plugins)) == 5


def test_shared_grid(shared: Path, shipped, tmp_path):
    """The development grid: all shards, one id a model, splits as stated."""
    grid = load([shared / "data/grid"])
    assert (
        len(grid) >= 1677 and len(grid.labels) == 25 and grid.labels[:4] == ("teff", "logg", "fe_h", "vmic")
    )
    assert list(grid.arms) == ["green", "red"] and grid.resolving_power == 60000 and grid.medium == "air"
    assert len(np.unique(grid.ids)) == len(grid) and "MARCS" in grid.provenance["atmospheres"]
    assert sum(len(grid.split(name)) for name in SPLITS) == len(grid)
    flux = grid.flux([0, len(grid) - 1])
    assert flux.shape == (2, 32327) and 0 <= flux.min() < 0.5 and 0.99 < flux.max() <= 1.01
    small = degrade(attrs.evolve(grid, values=grid.values[:3], ids=grid.ids[:3]), resolving_power=20000)
    small.save(tmp_path / "small.h5")
    np.testing.assert_allclose(Grid.open(tmp_path / "small.h5").flux(), small.flux(), atol=2e-5)
