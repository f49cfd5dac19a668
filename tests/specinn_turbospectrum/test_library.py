"""The loaders of Turbospectrum's layouts: every defect of a file is caught by name."""

from __future__ import annotations

import csv
import itertools
from importlib.metadata import EntryPoint
from pathlib import Path

import h5py
import numpy as np
import pytest

from specinn.errors import GridError
from specinn.grids import Grid, load
from specinn.grids.degrade import degrade
from specinn.plugins import Plugins

LOADERS = Plugins(entry=[EntryPoint("turbospectrum", "specinn_turbospectrum", "specinn")])
COLUMNS = ("specname", "rv", "teff", "logg", "feh", "vmic", "Mg_Fe", "Li_Fe")


def load_folder(path: Path) -> Grid:
    return load([path], plugins=LOADERS)


class Run:
    """A folder as TSFitPy writes it; tests change what they need before :meth:`write`."""

    def __init__(self, folder: Path, numbers=(0, 1, 3)) -> None:
        self.folder = folder / "Jan-01-2026-12-00-00_0.5_NLTE_test"
        self.folder.mkdir()
        self.rows = {
            i: dict(zip(COLUMNS, (f"{i}.spec", 0.0, 5000.0 + 100 * i, 4.0, -0.5, 1.2, 0.3, 0.4), strict=True))
            for i in numbers
        }
        self.heads = {
            i: {"vmac": 0.0, "resolution": 0.0, "rotation": 0.0, "nlte_flag": True, "Mg": "NLTE"}
            for i in numbers
        }
        self.wavelength = {i: np.round(6100 + 0.05 * np.arange(400), 3) for i in numbers}
        self.flux = {i: 1 - 0.5 * np.exp(-0.5 * ((self.wavelength[i] - 6110) / 0.1) ** 2) for i in numbers}

    def convolved(self, resolution: float, rotations) -> None:
        """What a convolution leaves: steps uniform in log wavelength, edges wrapped."""
        for (i, row), rotation in zip(self.rows.items(), rotations, strict=True):
            self.heads[i].update(resolution=resolution, rotation=rotation)
            self.wavelength[i] = np.exp(np.linspace(np.log(6100), np.log(6120), 800))
            self.flux[i] = np.full(800, 0.9)
            self.flux[i][[*range(5), *range(-5, 0)]] = 0.2
            row["rotation"] = rotation

    def text(self, i: int) -> str:
        row, head = self.rows[i], self.heads[i]
        lines = [
            "#Generated using TurboSpectrum and TSFitPy wrapper",
            f"#spectrum_name: {i}.spec",
            f"#teff: {row['teff']}",
            f"#logg: {row['logg']}",
            f"#[Fe/H]: {row['feh']}",
            f"#vmic: {row['vmic']}",
        ]
        lines += [f"#{name}: {head[name]}" for name in ("vmac", "resolution", "rotation", "nlte_flag")]
        lines += [f"#[Mg/Fe]={row['Mg_Fe']:.4f} {head['Mg']}", f"#[Li/Fe]={row['Li_Fe']:.4f} LTE"]
        lines += ["#[Fe/Fe]=0.0 (solar scaled) NLTE", "#", "#Wavelength Normalised_flux Unnormalised_flux"]
        lines += [
            f"{w}  {f}  {4e6 * f}"
            for w, f in zip(self.wavelength[i].tolist(), self.flux[i].tolist(), strict=True)
        ]
        return "\n".join(lines) + "\n"

    def write(self, table: str = "spectra_parameters.csv") -> Path:
        for i in self.rows:
            (self.folder / f"{i}.spec").write_text(self.text(i))
        self.write_table(table)
        return self.folder

    def write_table(self, table: str = "spectra_parameters.csv") -> None:
        with (self.folder / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, next(iter(self.rows.values())))
            writer.writeheader()
            writer.writerows(self.rows.values())

    def edit(self, i: int, old: str, new: str) -> None:
        path = self.folder / f"{i}.spec"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# --- TSFitPy ----------------------------------------------------------------------------------------------


def test_tsfitpy_folder(run, tmp_path):
    grid = load_folder(run.write())
    assert grid.labels == ("teff", "logg", "fe_h", "vmic", "mg_fe", "a_li")
    assert grid.column("teff").tolist() == [5000, 5100, 5300]  # the numbers have gaps
    assert grid.column("a_li") == pytest.approx(0.4 + 1.05 - 0.5)
    assert [name.split("/")[1] for name in grid.ids] == ["0.spec", "1.spec", "3.spec"]
    assert grid.resolving_power == np.inf and list(grid.arms) == ["all"] and grid.medium == "air"
    assert grid.provenance["nlte"] == {"Fe": "NLTE", "Li": "LTE", "Mg": "NLTE"}
    np.testing.assert_allclose(grid.flux([2, 0]), [run.flux[3], run.flux[0]], atol=1e-7)
    grid.save(tmp_path / "g.h5")
    back = Grid.open(tmp_path / "g.h5")
    assert back.hash == grid.hash and back.resolving_power == np.inf
    np.testing.assert_allclose(back.flux(), grid.flux(), atol=1e-5)


def test_two_columns_without_physical_flux(run):
    folder = run.write()
    for i in run.rows:
        path = folder / f"{i}.spec"
        lines = path.read_text().replace(" Unnormalised_flux", "").splitlines()
        path.write_text("\n".join(s if s.startswith("#") else "  ".join(s.split()[:2]) for s in lines) + "\n")
    np.testing.assert_allclose(load_folder(folder).flux(0)[0], run.flux[0], atol=1e-7)


def test_loading_reads_two_spectra_and_flux_only_what_is_asked(run, monkeypatch):
    from specinn_turbospectrum import text

    read: list[str] = []
    genuine = text.read_spectrum
    monkeypatch.setattr(text, "read_spectrum", lambda path: read.append(path.name) or genuine(path))
    grid = load_folder(run.write())
    assert read == ["0.spec", "1.spec"]
    grid.flux([2])
    assert read[2:] == ["3.spec"]


def test_rotation_is_a_label_and_wrapped_edges_go(run):
    run.convolved(20000.0, (2.0, 4.5, 30.0))
    grid = load_folder(run.write())
    assert grid.column("vbroad").tolist() == [2.0, 4.5, 30.0] and grid.resolving_power == 20000
    reach = 4.5 / 2.35482 / 20000 + 30.0 / 299792.458
    assert grid.wavelength[0] == pytest.approx(6100 * (1 + reach), abs=0.03)
    assert grid.wavelength[-1] == pytest.approx(6120 * (1 - reach), abs=0.03)
    assert grid.flux().min() == pytest.approx(0.9)


def test_range_shorter_than_its_broadening(run):
    run.convolved(20000.0, (2.0, 4.5, 600.0))
    with pytest.raises(GridError, match="less than their broadening spoils"):
        load_folder(run.write())


def test_interrupted_run_lists_what_is_missing(run, tmp_path):
    folder = run.write("spectra_parameters_temp.csv")
    (folder / "1.spec").unlink()
    grid = load_folder(folder)
    assert len(grid) == 2 and grid.provenance["missing"] == [f"{folder.name}/1.spec"]
    assert grid.column("teff").tolist() == [5000, 5300]
    grid.save(tmp_path / "g.h5")
    assert Grid.open(tmp_path / "g.h5").provenance["missing"] == [f"{folder.name}/1.spec"]
    for name in ("0.spec", "3.spec"):
        (folder / name).unlink()
    with pytest.raises(GridError, match="none of the 3 spectra"):
        load_folder(folder)


def test_step_lost_in_rounding_is_restored(run):
    for i in run.rows:
        run.wavelength[i] = np.round(6100 + 0.0005 * np.arange(400), 3)
    grid = load_folder(run.write())
    assert np.diff(grid.wavelength) == pytest.approx(0.0005, abs=1e-5)
    grid.flux()


# Defects of one file: what is done to 1.spec, and what the message says after its name.
def _cut(run: Run) -> None:
    path = run.folder / "1.spec"
    path.write_text(path.read_text()[:-12])


def _cut_at_a_line(run: Run) -> None:
    path = run.folder / "1.spec"
    path.write_text("\n".join(path.read_text().splitlines()[:-50]) + "\n")


def _in_place(old: str, new: str):
    return lambda run: run.edit(1, old, new)


FILE_DEFECTS = {
    "nan": (_in_place("6105.0  1.0", "6105.0  nan"), r"normalised flux is not a number at 6105\.000"),
    "infinite": (_in_place("6105.0  1.0", "6105.0  inf"), r"normalised flux is not a number at 6105\.000"),
    "negative": (_in_place("6105.0  1.0", "6105.0  -0.01"), r"normalised flux is negative at 6105\.000"),
    "high": (_in_place("6105.0  1.0", "6105.0  1.3"), r"normalised flux is above 1\.2 .* at 6105\.000"),
    "asterisks": (_in_place("6105.0  1.0", "6105.0  *******"), "line 116: asterisks"),
    "words": (_in_place("6105.0  1.0", "6105.0  one"), "line 116: .* does not begin with wavelength"),
    "one column": (_in_place("6105.0  1.0  4000000.0", "6105.0"), "line 116: one column"),
    "repeated": (_in_place("6105.0  1.0", "6104.95  1.0"), "do not increase after 6104.95"),
    "shifted": (_in_place("6100.0  1.0", "6099.99  1.0"), "must be on the same wavelengths"),
    "truncated": (_cut, "is truncated: its last line is not complete"),
    "short": (_cut_at_a_line, "350 pixels from 6100.000 to 6117.450 .* 0.spec has 400 pixels"),
    "empty": (lambda run: (run.folder / "1.spec").write_text(""), "is empty: the synthesis failed"),
    "missing": (lambda run: (run.folder / "1.spec").unlink(), "is missing, but the table lists it"),
    "headless": (lambda run: (run.folder / "1.spec").write_text("6100.0  1.0\n"), "has no head"),
    "teff": (
        _in_place("#teff: 5100.0", "#teff: 5200.0"),
        "says teff = 5200, spectra_parameters.csv says 5100",
    ),
    "fe_h": (_in_place("#[Fe/H]: -0.5", "#[Fe/H]: 0.5"), r"says \[Fe/H\] = 0.5, .* says -0.5"),
    "mg_fe": (_in_place("#[Mg/Fe]=0.3", "#[Mg/Fe]=0.2"), "says mg_fe = 0.2, .* says 0.3"),
    "unstated": (_in_place("#[Mg/Fe]=0.3000 NLTE\n", ""), "does not state Mg_Fe"),
    "name": (_in_place("_name: 1.spec", "_name: 7.spec"), "its head calls it 7.spec"),
    "no logg": (_in_place("#logg: 4.0\n", ""), "does not state logg"),
    "no number": (_in_place("#vmic: 1.2", "#vmic: None"), "says vmic = 'None', expected a number"),
    "flag": (_in_place("nlte_flag: True", "nlte_flag: maybe"), "nlte_flag maybe, expected True or False"),
    "intensities": (
        _in_place("#Wavelength Normalised_flux Unnormalised_flux", "#Wavelength Intensities"),
        "intensities",
    ),
}


@pytest.mark.parametrize("name", FILE_DEFECTS)
def test_defective_file_is_named_or_left_out(run, tmp_path, name):
    spoil, message = FILE_DEFECTS[name]
    folder = run.write()
    spoil(run)
    with pytest.raises(GridError, match=rf"1\.spec.*{message}"):
        load_folder(folder).save(tmp_path / "g.h5")
    assert not (tmp_path / "g.h5").exists()
    left_out = load_folder(folder).save(tmp_path / "g.h5", skip_bad=True)
    assert list(left_out) == [f"{folder.name}/1.spec"]
    back = Grid.open(tmp_path / "g.h5")
    assert back.column("teff").tolist() == [5000, 5300]
    assert len(back.provenance["left_out"]) == 1 and "1.spec" in back.provenance["left_out"][0]
    np.testing.assert_allclose(back.flux([1])[0], run.flux[3], atol=1e-5)


def test_defective_first_file_does_not_spoil_the_others(run, tmp_path):
    run.write()
    path = run.folder / "0.spec"
    path.write_text("\n".join(path.read_text().splitlines()[:-50]) + "\n")
    assert list(load_folder(run.folder).save(tmp_path / "g.h5", skip_bad=True)) == [
        f"{run.folder.name}/0.spec"
    ]


def test_all_zero_spectrum(run):
    run.flux[1][:] = 0.0
    with pytest.raises(GridError, match=r"1\.spec: normalised flux is 0 throughout"):
        load_folder(run.write()).flux()


def test_spectrum_without_a_row(run, tmp_path):
    folder = run.write()
    (folder / "9.spec").write_text(run.text(0))
    with pytest.raises(GridError, match=r"9\.spec has no row in spectra_parameters\.csv"):
        load_folder(folder).save(tmp_path / "g.h5")
    assert list(load_folder(folder).save(tmp_path / "g.h5", skip_bad=True)) == [f"{folder.name}/9.spec"]
    assert len(Grid.open(tmp_path / "g.h5")) == 3


# Defects of the grid as a whole: never skipped.
GRID_DEFECTS = {
    "resolution": ({"resolution": 20000.0}, {}, r"0\.spec has resolution 0\.0, 1\.spec has 20000\.0"),
    "nlte": ({"nlte_flag": False}, {}, r"0\.spec has nlte_flag True, 1\.spec has False"),
    "element": ({"Mg": "LTE"}, {}, r"0\.spec has Mg NLTE, 1\.spec has LTE"),
    "rotation": ({"rotation": 5.0}, {"rotation": 5.0}, r"0\.spec has no rotation, 1\.spec has 5 km/s"),
    "vmac": ({"vmac": 3.0}, {"vmac": 3.0}, "vmac runs from 0 to 3 km/s"),
    "iron": ({}, {"A(Fe)": 7.2}, r"row 1\.spec has A\(Fe\) = 7\.2"),
    "odd column": ({}, {"Mg": 0.1}, "column Mg: unknown label 'mg'"),
    "nan label": ({}, {"teff": "nan"}, r"row 1\.spec, column teff is 'nan', expected a finite number"),
    "no number": ({}, {"logg": ""}, r"row 1\.spec, column logg is '', expected a finite number"),
    "twice": ({}, {"specname": "0.spec"}, r"lists 0\.spec twice"),
}


@pytest.mark.parametrize("name", GRID_DEFECTS)
def test_grid_that_is_not_one(run, name):
    head, row, message = GRID_DEFECTS[name]
    defaults = {"A(Fe)": 7.0}
    for i, key in itertools.product(run.rows, row):
        run.rows[i].setdefault(key, defaults.get(key, 0.0))
    folder = run.write()
    run.heads[1].update(head)
    run.rows[1].update(row)
    (folder / "1.spec").write_text(run.text(1) if "teff" not in row and "logg" not in row else "")
    run.write_table()
    with pytest.raises(GridError, match=message):
        load_folder(folder)


def test_table_without_a_needed_column(run):
    for row in run.rows.values():
        del row["logg"]
    run.folder.joinpath("spectra_parameters.csv").write_text("specname,teff\n0.spec,5000\n")
    with pytest.raises(GridError, match="has no column logg: it has teff"):
        load_folder(run.folder)


def test_table_without_rows(run):
    run.folder.joinpath("spectra_parameters.csv").write_text("specname,teff\n")
    with pytest.raises(GridError, match="has no rows"):
        load_folder(run.folder)


def test_import_by_command_line_lists_what_it_left_out(run, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from specinn.cli.grid import app

    point = EntryPoint("turbospectrum", "specinn_turbospectrum", "specinn")
    monkeypatch.setattr("specinn.plugins.manager.entry_points", lambda group: [point])
    folder = run.write("spectra_parameters_temp.csv")
    (folder / "3.spec").unlink()
    run.edit(1, "6105.0  1.0", "6105.0  nan")
    command = ["import", str(folder), "-o", str(tmp_path / "g.h5")]
    failed = CliRunner().invoke(app, command)
    assert isinstance(failed.exception, GridError) and "1.spec" in str(failed.exception)
    assert not (tmp_path / "g.h5").exists()
    done = CliRunner().invoke(app, [*command, "--skip-bad"])
    assert done.exit_code == 0 and "g.h5: 1 models" in done.stderr
    assert "1 spectra of an interrupted run do not exist" in done.stderr and "3.spec" in done.stderr
    assert "1 spectra were left out" in done.stderr and "not a number at 6105.000" in done.stderr


def test_folders_of_different_edges_are_joined_on_one_range(tmp_path, monkeypatch):
    """Faster stars cost a folder more of its edges; a common range and step brings two folders together."""
    from specinn.cli.grid import import_

    folders = []
    for name, rotations in (("slow", (2.0, 4.0, 5.0)), ("fast", (20.0, 40.0, 60.0))):
        (tmp_path / name).mkdir()
        run = Run(tmp_path / name)
        run.convolved(40000.0, rotations)
        folders.append(run.write().rename(tmp_path / f"{name}.folder"))
    with pytest.raises(GridError, match="resample them to common ones with --step and --range"):
        load(folders, plugins=LOADERS)
    point = EntryPoint("turbospectrum", "specinn_turbospectrum", "specinn")
    monkeypatch.setattr("specinn.plugins.manager.entry_points", lambda group: [point])
    import_(folders, tmp_path / "g.h5", "tsfitpy", step=0.05, range_=["6105-6115"])
    grid = Grid.open(tmp_path / "g.h5")
    assert grid.column("vbroad").tolist() == [2, 4, 5, 20, 40, 60] and grid.flux() == pytest.approx(
        0.9, abs=1e-4
    )


# --- raw Turbospectrum ------------------------------------------------------------------------------------


def raw_text(wavelength: np.ndarray, flux: np.ndarray, intensities: int = 0) -> str:
    """f11.3, f10.5, 1pe12.5, and a pair of columns for each angle of an intensity run."""
    pairs = "".join(f"{0.9:10.5f} {3e6:11.5E}" for _ in range(intensities))
    return "".join(
        f"{w:11.3f}{f:10.5f} {4e6 * f:11.5E}{pairs}\n" for w, f in zip(wavelength, flux, strict=True)
    )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "labels.csv").write_text(
        "star,teff,logg,fe_h,vmic,mg_fe\na,5000,4,0,1,0.1\nb_2,5500,4.5,-1,1.1,0.4\n"
    )
    for star, (low, name) in itertools.product(("a", "b_2"), ((6100, "red"), (5200, "green"))):
        wavelength = low + 0.03 * np.arange(300)
        (folder / f"{star}_{name}.spec").write_text(raw_text(wavelength, np.linspace(0.5, 1, 300)))
    return folder


def test_raw_folder(raw):
    grid = load_folder(raw)
    assert grid.labels == ("teff", "logg", "fe_h", "vmic", "mg_fe") and len(grid) == 2
    assert list(grid.arms) == ["green", "red"] and grid.resolving_power == np.inf
    np.testing.assert_allclose(grid.flux()[:, :300], np.linspace(0.5, 1, 300)[None].repeat(2, 0), atol=1e-5)


def test_intensity_run_keeps_the_flux(raw):
    for file in raw.glob("*.spec"):
        wavelength = np.loadtxt(file, usecols=0)
        file.write_text(raw_text(wavelength, np.full(300, 0.75), intensities=3))
    assert load_folder(raw).flux() == pytest.approx(0.75)


def test_raw_defects_are_named(raw, tmp_path):
    whole = (raw / "b_2_red.spec").read_text()
    for spoilt, message in (
        (whole.replace("   0.50000", "**********", 1), r"b_2_red\.spec, line 1: asterisks"),
        (
            whole.replace("   0.50000", "       NaN", 1),
            r"b_2_red\.spec: normalised flux is not a number at 6100\.000",
        ),
        (
            whole.replace("   6100.030", "   6100.000", 1),
            r"b_2_red\.spec: wavelengths do not increase after 6100\.000",
        ),
        (whole[:-9], r"b_2_red\.spec is truncated"),
        ("", r"b_2_red\.spec is empty"),
    ):
        (raw / "b_2_red.spec").write_text(spoilt)
        with pytest.raises(GridError, match=message):
            load_folder(raw).save(tmp_path / "g.h5")
    assert list(load_folder(raw).save(tmp_path / "g.h5", skip_bad=True)) == ["raw/b_2"]
    (raw / "b_2_red.spec").unlink()
    with pytest.raises(GridError, match="the spectrum of segment red of b_2 is missing"):
        load_folder(raw).save(tmp_path / "h.h5")
    (raw / "c_red.spec").write_text(whole)
    with pytest.raises(GridError, match=r"c_red\.spec has no row in labels\.csv"):
        load_folder(raw).save(tmp_path / "h.h5")


def test_raw_files_named_after_marcs_models(tmp_path):
    names = ["p5800_g+4.4_z+0.02", "p4600_g+2.1_z-1.20"]
    for name, vmic in zip(names, (1.05, 1.6), strict=True):
        text = raw_text(5170 + 0.01 * np.arange(50), np.ones(50))
        (tmp_path / f"{name}_5170.-5200._xit{vmic}.spec").write_text(text)
    (tmp_path / "stars.csv").write_text(
        f"name,teff,logg,feh,vmic,Li_Fe\n{names[0]},5800,4.4,0.02,1.05,0.4\n{names[1]},4600,2.1,-1.2,1.6,0\n"
    )
    grid = load_folder(tmp_path)
    assert list(grid.arms) == ["5170-5200"] and grid.column("a_li") == pytest.approx([1.47, -0.15])
    table = (tmp_path / "stars.csv").read_text()
    (tmp_path / "stars.csv").write_text(table.replace("4600,2.1", "4600,2.9"))
    with pytest.raises(GridError, match=r"its name says logg = 2\.1, stars\.csv says 2\.9"):
        load_folder(tmp_path).flux()


# --- the library's shards ---------------------------------------------------------------------------------


def shard(path: Path, ids, **attributes) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {
                "format": "turbospectrum library, one shard",
                "flux_scale": 1 / 60000,
                "resolving_power": 60000,
                "medium": "air",
                "code": "Turbospectrum",
                **attributes,
            }
        )
        order = ["teff", "logg"]
        labels = file.create_group("labels")
        labels.attrs["order"] = order
        for k, name in enumerate(order):
            labels[name] = 5000.0 + k + np.array(ids)
        file["id"] = np.array(ids)
        for k, name in enumerate(("red", "green")):
            file[f"segments/{name}/wavelength"] = 6100.0 - 900 * k + 0.04 * np.arange(20)
            file[f"segments/{name}/flux"] = np.full((len(ids), 20), 60000 - 6000 * k, "u2")


def test_shards_become_one_grid(tmp_path):
    shard(tmp_path / "a-000.h5", [4, 0])
    shard(tmp_path / "a-001.h5", [7])
    grid = load_folder(tmp_path)
    assert grid.ids.tolist() == ["4", "0", "7"] and list(grid.arms) == ["green", "red"]
    assert grid.column("teff").tolist() == [5004, 5000, 5007] and grid.provenance["files"] == [
        "a-000.h5",
        "a-001.h5",
    ]
    np.testing.assert_allclose(grid.flux([2, 0]), [[0.9] * 20 + [1.0] * 20] * 2, atol=1e-6)
    assert len(load_folder(tmp_path / "a-001.h5")) == 1


def test_shards_that_do_not_belong_together(tmp_path):
    shard(tmp_path / "a.h5", [0])
    for change, message in (
        ({"ids": [0]}, r"a\.h5 and b\.h5 both hold model 0"),
        ({"ids": [1], "code": "other"}, r"a\.h5 has code 'Turbospectrum', b\.h5 has 'other'"),
        ({"ids": [1], "resolving_power": 20000}, "resolving_power"),
    ):
        shard(tmp_path / "b.h5", **change)
        with pytest.raises(GridError, match=message):
            load_folder(tmp_path)


def test_incomplete_shard_is_named(tmp_path):
    shard(tmp_path / "a.h5", [0, 1])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["segments/red/flux"]
        file["segments/red/flux"] = np.zeros((1, 20), "u2")
    with pytest.raises(
        GridError, match=r"a\.h5: flux of segment red has shape \(1, 20\), expected \(2, 20\)"
    ):
        load_folder(tmp_path)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["labels/logg"]
    with pytest.raises(GridError, match=r"a\.h5: .*logg"):
        load_folder(tmp_path)


# --- real files -------------------------------------------------------------------------------------------


def test_sample_of_tsfitpy(shared: Path, tmp_path):
    """NLTE folder: gap at number 2, one NaN and one negative pixel in 1.spec. LTE folder: R and rotation."""
    folders = {path.name.split("_")[2]: path for path in (shared / "data/tsfitpy_sample").glob("2*")}
    grid = load_folder(folders["NLTE"])
    with pytest.raises(
        GridError,
        match=r"1\.spec: normalised flux is not a number at 6106\.170 Angstrom, negative at 6110\.000",
    ):
        grid.save(tmp_path / "g.h5")
    assert [name.rsplit("/")[-1] for name in grid.save(tmp_path / "g.h5", skip_bad=True)] == ["1.spec"]
    assert Grid.open(tmp_path / "g.h5").column("teff").tolist() == [5800, 5100]
    grid = load_folder(folders["LTE"])
    assert grid.resolving_power == 20000 and grid.column("vbroad").tolist() == [2, 4.5, 12, 30]
    assert set(grid.provenance["nlte"].values()) == {"LTE"} and grid.wavelength[0] > 6101
    assert grid.column("a_li") == pytest.approx([1.47, -0.65, 2.05, 2.20])


def test_raw_spectra_agree_with_the_shared_grid(shared: Path):
    """The same stars through both loaders: degraded to the library's R and step they are the same spectra.

    The library was binned on its way to 0.04 A, which the 60 000 of its attributes leaves out: R = 57 000
    fits best.
    """
    raw = load_folder(shared / "data/turbospectrum_raw")
    grid = load_folder(shared / "data/grid")
    assert raw.labels == grid.labels
    rows = [int(np.abs(grid.values - values).max(axis=1).argmin()) for values in raw.values]
    np.testing.assert_allclose(grid.values[rows], raw.values, rtol=1e-4, atol=1e-4)
    ranges = [(5150.0, 5738.0), (6096.0, 6793.0)]
    ours = degrade(raw, resolving_power=57000, step=0.04, ranges=ranges)
    keep = np.concatenate(
        [
            (w >= a - 0.01) & (w <= b + 0.01)
            for (a, b), arm in zip(ranges, grid.arms.values(), strict=True)
            for w in [grid.wavelength[arm]]
        ]
    )
    np.testing.assert_allclose(ours.wavelength, grid.wavelength[keep], atol=1e-6)
    residual = ours.flux() - grid.flux(rows)[:, keep]
    assert np.sqrt((residual**2).mean()) < 0.001
