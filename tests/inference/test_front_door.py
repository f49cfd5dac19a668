"""What users hand in (lists, tables, folders, units), and what a run leaves: faults A5, A11, B7-B11, D."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table
from commands import Command, sentence
from specutils import Spectrum

import specinn as package
from specinn import catalogue
from specinn.errors import ConfigError, as_arguments
from specinn.inference.options import RunOptions
from specinn.inference.sources import Item, expand, from_table, group, join_arms, listed, unused_columns
from specinn.plugins import Plugins
from specinn.spectra.readers import count, read, read_rows
from specinn.spectra.specutils import to_batch
from specinn.survey import shards
from specinn.survey.manifest import BLOCK, Manifest
from specinn.texts import path_of

TRUTH = np.array([[5772.0, 4.44, 0.0, 2.05], [4500.0, 2.0, -1.2, 2.0], [6500.0, 4.0, -0.5, 2.6]])


@pytest.fixture
def stars(tmp_path: Path) -> list[Path]:
    """Three files of one star each."""
    (tmp_path / "night").mkdir()
    paths = []
    for i in range(3):
        batch = fake_plugin.simulate(TRUTH[i : i + 1], rv=10.0)
        batch.meta["id"] = [f"star-{i}"]
        paths.append(fake_plugin.write_text(tmp_path / "night" / f"{i}.txt", batch))
    return paths


OPTIONS = ("-i", "toy", "--samples", 60, "-q")


def infer(spectra: Any, plugins: Plugins, **options: Any) -> Any:
    return package.infer(spectra, **{"instrument": "toy", "plugins": plugins, "samples": 60, **options})


# A5, A11, B8 -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_A5_an_output_is_never_an_input(specinn: Command, stars: list[Path], tmp_path: Path) -> None:
    spectrum = tmp_path / "star.ecsv"
    spectrum.write_bytes(stars[0].read_bytes())
    (tmp_path / "link.ecsv").symlink_to(spectrum)
    (tmp_path / "list.txt").write_text("star.ecsv\n")
    before = spectrum.read_bytes()
    for arguments in (("star.ecsv",), ("link.ecsv",), ("@list.txt",)):
        failed = specinn("run", *OPTIONS, *arguments, "-o", "star.ecsv", "--overwrite")
        sentence(failed, "star.ecsv is an input of this command", "another name")
    failed = specinn("run", *OPTIONS, spectrum, "-o", "link.ecsv", "--overwrite")
    sentence(failed, "link.ecsv is an input")
    assert spectrum.read_bytes() == before
    assert specinn("run", *OPTIONS, spectrum, "-o", "a.fits").exit_code == 0
    before = (tmp_path / "a.fits").read_bytes()
    sentence(specinn("combine", "a.fits", "-o", "a.fits", "--overwrite"), "a.fits is an input")
    sentence(
        specinn("run", *OPTIONS, spectrum, "--rv", "a.fits", "-o", "a.fits", "--overwrite"), "is an input"
    )
    assert (tmp_path / "a.fits").read_bytes() == before


def test_A5_in_python(plugins: Plugins, stars: list[Path], tmp_path: Path) -> None:
    spectrum = stars[0].rename(tmp_path / "star.csv")
    result = infer(spectrum, plugins)
    before = spectrum.read_bytes()
    with pytest.raises(package.errors.OutputError, match="is an input"):
        result.write(spectrum, overwrite=True)
    assert spectrum.read_bytes() == before


@pytest.mark.slow
def test_A11_velocities_without_a_spectrum_are_named(
    specinn: Command, stars: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "rv.csv").write_text("id,rv\nstar-0,11\nstar-7,3\nstar-8,3\n")
    done = specinn("run", *OPTIONS, *stars, "--rv", "rv.csv", "-o", "a.fits")
    assert done.exit_code == 0
    assert "2 of 3 velocities that were given match no spectrum" in done.stderr
    assert "star-7, star-8" in done.stderr and "star-0" not in done.stderr
    assert catalogue.read("a.fits")["rv"][0] == 11


@pytest.mark.slow
def test_B8_the_corrected_command_does_not_stop_at_what_the_wrong_one_left(
    specinn: Command, stars: list[Path]
) -> None:
    for output in ("a.fits", "folder"):
        failed = specinn("run", *OPTIONS, "nonight/*.txt", "-o", output, "--save-samples", "s.h5")
        assert failed.exit_code == 1 and "nothing could be read" in failed.stderr
        assert not Path(output).exists() and not Path("s.h5").exists() and not list(Path().glob("*.run"))
        assert specinn("run", *OPTIONS, *stars, "-o", output).exit_code == 0


# B7, D13: lists, tables, folders, parts --------------------------------------------------------------------


@pytest.mark.slow
def test_B7_lists_tables_and_folders(specinn: Command, stars: list[Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# the night\n" + "\n".join(f"night/{p.name}" for p in stars) + "\n\n")
    (tmp_path / "night" / "notes.md").write_text("clouds")
    (tmp_path / "night" / ".hidden.txt").write_text("x")
    specinn("run", *OPTIONS, *stars, "-o", "a.fits")
    expected = catalogue.read("a.fits")
    for name, arguments in (("b", ("@list.txt",)), ("c", ("-r", "night"))):
        done = specinn("run", *OPTIONS, *arguments, "-o", f"{name}.fits")
        assert done.exit_code == 0, done.output
        table = catalogue.read(f"{name}.fits")
        assert table["id"].tolist() == ["star-0", "star-1", "star-2"]
        assert (table["teff"] == expected["teff"]).all()
    assert "1 file below night left out" in done.stderr and "notes.md" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".fits", ".vot"])
def test_B7_a_table_says_what_holds_of_each_file(
    specinn: Command, stars: list[Path], tmp_path: Path, suffix: str
) -> None:
    table = QTable(
        {"path": [f"night/{p.name}" for p in stars], "id": ["a", "b", "é" if suffix != ".fits" else "e"]}
    )
    table["rv"] = [0.012, np.nan, 0.010] * u.Unit("km/s") * 1000
    table["medium"] = ["vacuum", "", "air"]
    table["resolving_power"] = [5200.0, np.nan, np.nan]
    if suffix == ".csv":
        table["rv"] = table["rv"].value
    formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits", ".vot": "votable"}
    table.write(tmp_path / f"targets{suffix}", format=formats[suffix])
    done = specinn("run", *OPTIONS, f"@targets{suffix}", "-o", "out.ecsv")
    assert done.exit_code == 0, done.output
    out = catalogue.read("out.ecsv")
    assert out["id"].tolist()[:2] == ["a", "b"] and out["rv"].tolist() == pytest.approx([12.0, 10.0, 10.0])
    assert out["medium"].tolist() == ["vacuum", "air", "air"]
    assert out["medium_from"].tolist() == ["user", "", "user"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,rv\n", "names no files"),
        ("rv,id\n1,a\n", "expected a column path, found rv, id"),
        ("path,rv\na.txt,fast\n", "row 1 (a.txt): rv 'fast'"),
        ("path,medium\na.txt,ether\n", "medium 'ether': expected air or vacuum"),
        ("path\na.txt\na.txt\n", "a.txt is listed twice"),
        ("path,rv\na.txt,-999\n", "row 1 (a.txt): rv -999 stands for no velocity"),
        ("path,R\na.txt,-5\n", "row 1 (a.txt): resolving_power -5: expected a number above 1"),
    ],
)
def test_B7_what_is_wrong_with_a_table(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError) as error:
        listed(tmp_path / "t.csv")
    assert words in str(error.value)
    with pytest.raises(ConfigError, match="no such file"):
        expand([f"@{tmp_path}/none.txt"])
    (tmp_path / "t.txt").write_text(text.replace(",", " "))
    if text.startswith("path"):
        with pytest.raises(ConfigError, match=r"begins with names of columns \(path"):
            listed(tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("path;rv;resolving_power\na.txt;12,5;20000\n", {"rv": 12.5, "resolving_power": 20000.0}),
        ("\ufeffpath,rv\na.txt,12.5\n", {"rv": 12.5}),  # as spreadsheets begin UTF-8
        ("file,radial_velocity,R\na.txt,12.5,20000\n", {"rv": 12.5, "resolving_power": 20000.0}),
    ],
)
def test_B7_tables_of_spreadsheets(tmp_path: Path, text: str, stated: dict[str, float]) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    (item,) = listed(tmp_path / "t.csv")
    assert (item.path, dict(item.stated)) == ("a.txt", stated)


def test_A11_columns_of_a_table_that_are_not_used_are_named(plugins: Plugins, stars: list[Path]) -> None:
    items = from_table(Table({"path": ["a"], "velocity": [3.0], "star": ["x"]}))
    assert "2 columns are not used: velocity, star (it may say id, rv," in unused_columns(items)
    assert unused_columns(items, "velocity").startswith("of the table of files, 1 column is not used: star")
    with pytest.warns(UserWarning, match="1 column is not used: velocity"):
        infer(Table({"path": [str(stars[0])], "velocity": [3.0]}), plugins)


@pytest.mark.parametrize("given", [-999, 999.0, [1.0, -999.0], Table({"id": ["a"], "rv": [999.9]})])
def test_A9_placeholders_given_as_velocities(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"rv.* stands for no velocity: leave it out"):
        RunOptions(rv=given)


def test_B7_medium_is_heeded_for_files(plugins: Plugins, stars: list[Path]) -> None:
    plain, vacuum = (infer(stars[0], plugins, rv="auto", medium=m).catalogue for m in (None, "Vacuum"))
    shift = plain["rv"][0].value - vacuum["rv"][0].value
    assert shift == pytest.approx(83, abs=3)
    assert (plain["medium"][0], vacuum["medium"][0], vacuum["medium_from"][0]) == ("air", "vacuum", "user")


def test_A2_medium_is_heeded_for_spectra_in_memory(plugins: Plugins) -> None:
    batch = fake_plugin.simulate(TRUTH[:1])
    plain, vacuum = (infer(batch, plugins, rv="auto", medium=m).catalogue for m in (None, "VACUUM"))
    assert plain["rv"][0].value - vacuum["rv"][0].value == pytest.approx(83, abs=3)
    assert vacuum["medium"][0] == "vacuum" and vacuum["medium_from"][0] == "user"
    flux = np.ones(40) * u.dimensionless_unscaled
    axis = np.linspace(5000, 5100, 40) * u.AA
    for said, medium in (("VACUUM", "vacuum"), ("Air", "air")):
        one = to_batch(Spectrum(flux=flux, spectral_axis=axis, meta={"medium": said}))
        assert one.medium == medium
    with pytest.raises(package.errors.ReadError, match="medium is 'nonsense'"):
        to_batch(Spectrum(flux=flux, spectral_axis=axis, meta={"medium": "nonsense"}))


@pytest.mark.parametrize(
    "command",
    [
        "combine x.fits -o x.fits",
        "report x.fits -o x.fits",
        "resimulate x.fits -o x.fits",
        "fit-correction teff-bias x.fits -o x.fits",
        "evaluate stars x.fits x.csv -o x.fits",
        "evaluate robustness x.fits x.csv -o x.csv",
        "evaluate grid x.fits x.h5 -o x.h5",
        "evaluate ood x.fits x.h5 -o x.h5",
        "saliency x.fits --grid x.h5 -o x.h5",
        "plot x.fits -o x.fits",
        "grid import x.h5 -o x.h5",
        "grid make x.toml -o x.toml",
        "train x.toml -o x.toml",
    ],
)
def test_A5_no_command_writes_over_what_it_reads(specinn: Command, command: str) -> None:
    for suffix in ("fits", "csv", "h5", "toml"):
        Path(f"x.{suffix}").write_text("only here")
    failed = specinn(*command.split(), "--overwrite")
    assert failed.exit_code and "is an input of this command" in failed.stderr, failed.output
    assert all(path.read_text() == "only here" for path in Path().glob("x.*"))


@pytest.mark.slow
def test_B9_a_name_that_is_no_utf8_costs_nothing(specinn: Command, stars: list[Path]) -> None:
    names = [os.fsdecode(b"caf\xe9.txt"), "étoile.txt"]
    for path, name in zip(stars, names, strict=False):
        path.rename(name)
    assert specinn("run", *OPTIONS, *names, stars[2], "-o", "a.fits").exit_code == 0
    table = catalogue.read("a.fits")
    assert not table["flag_bad"].any()
    assert [path_of(path).exists() for path in table["path"]] == [True] * 3
    assert table["path"][1] == "étoile.txt"
    asked = specinn("run", *OPTIONS, *names, stars[2], "-o", "b.ecsv", "--json")
    assert asked.exit_code == 0 and json.loads(asked.stdout)["spectra"] == 3


@pytest.mark.slow
def test_D13_a_large_file_is_divided_by_rows(
    specinn: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: Plugins
) -> None:
    truth = np.repeat(TRUTH, 30, axis=0)
    path = fake_plugin.write_text(tmp_path / "many.txt", fake_plugin.simulate(truth))
    one = fake_plugin.write_text(tmp_path / "one.txt", fake_plugin.simulate(TRUTH[:1]))
    assert specinn("run", *OPTIONS, path, one, "-o", "whole.fits").exit_code == 0
    assert count(path, plugins) is None
    monkeypatch.setattr(
        fake_plugin.ToyReader, "count", lambda self, path: 90 if path.name == "many.txt" else 1
    )
    monkeypatch.setattr("specinn.survey.manifest.SMALLEST", path.stat().st_size // 3)
    monkeypatch.setattr("specinn.survey.manifest.LARGEST", path.stat().st_size // 3)
    plan = Manifest.make([path, one], {}, lambda path: count(path, plugins))
    assert [file.rows for file in plan.files] == [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 90), None]
    assert len(plan.counts) >= 3
    keys = [s.first_key for shard in range(len(plan.counts)) for s in plan.sources(shard, plugins)]
    assert keys == [0, BLOCK, 2 * BLOCK, 1 << 32]
    assert specinn("run", *OPTIONS, path, one, "-o", "parts.fits").exit_code == 0
    assert Path("parts.fits").read_bytes() == Path("whole.fits").read_bytes()


def test_D13_readers_of_4most_count_and_give_rows(tmp_path: Path) -> None:
    from spectrum_files import write_qmost_multi

    installed = Plugins()
    path, flux = tmp_path / "multi.fits", np.ones((5, 40)) + np.arange(5)[:, None]
    write_qmost_multi(path, 5000 + 0.1 * np.arange(40), flux, 0.1 * flux)
    whole = [batch for batch in read(path, installed)]
    n = sum(map(len, whole))
    assert count(path, installed) == n > 2
    (part,) = read_rows(path, installed, "auto", 1, n)
    assert list(part.meta["id"]) == [name for batch in whole for name in batch.meta["id"]][1:]
    assert np.array_equal(part.flux, np.concatenate([batch.flux for batch in whole])[1:])


@pytest.mark.slow
def test_B11_files_of_one_exposure_are_one_star(specinn: Command, tmp_path: Path) -> None:
    """Two arms in two files, as GALAH has four, give what one file of both gives."""
    whole = fake_plugin.simulate(TRUTH[:1])
    fake_plugin.write_text(tmp_path / "whole.txt", whole)
    rows = ["path,star"]
    for name, low, high in (("green", 5000, 5500), ("red", 6000, 6500)):
        inside = (whole.wavelength > low) & (whole.wavelength < high)
        part = package.SpectrumBatch.from_arrays(
            whole.wavelength[inside],
            whole.flux[:, inside],
            whole.sigma[:, inside],
            ids=[name],
            resolving_power=5000.0,
        )
        part.meta["rv"] = [0.0]
        fake_plugin.write_text(tmp_path / f"{name}.txt", part)
        rows.append(f"{name}.txt,HD 1")
    (tmp_path / "targets.csv").write_text("\n".join([*rows, "whole.txt,"]) + "\n")
    done = specinn("run", *OPTIONS, "@targets.csv", "--group-by", "star", "-o", "out.fits")
    assert done.exit_code == 0, done.output
    table = catalogue.read("out.fits")
    assert table["id"].tolist() == ["HD 1", "star-0"] and table["path"][0] == "green.txt;red.txt"
    assert abs(table["teff_median"][0] - table["teff_median"][1]) < 0.5 * table["teff_std"][1]
    assert not (table["flags"] & 64).any()  # no arm is missing
    sentence(
        specinn("run", *OPTIONS, "@targets.csv", "--group-by", "sta"), "--group-by sta", "did you mean 'star'"
    )


def test_B11_the_headers_tell_object_and_night(tmp_path: Path) -> None:
    from astropy.io import fits

    items = []
    for name, star, mjd in (
        ("1", "A", 57000.9),
        ("2", "B", 57000.9),
        ("3", "A", 57001.1),
        ("4", "A", 57003.1),
    ):
        header = fits.Header({"OBJECT": star, "MJD-OBS": mjd})
        fits.PrimaryHDU(np.ones(3), header).writeto(tmp_path / f"{name}.fits")
        items.append(Item(str(tmp_path / f"{name}.fits")))
    order = [(Path(item.path).stem, item.group.partition(":")[2]) for item in group(items, "object")]
    assert [name for name, _ in order] == ["1", "3", "2", "4"]
    assert order[0][1] == order[1][1] != order[3][1]


def test_B11_arms_of_different_media_and_numbers() -> None:
    one, two = fake_plugin.simulate(TRUTH[:1]), fake_plugin.simulate(TRUTH[:2])
    with pytest.raises(
        package.errors.ReadError, match="files of 1, 2 spectra cannot be joined: expected equal numbers"
    ):
        join_arms([one, two], "x")
    far = attrs.evolve(one, wavelength=one.wavelength + 1500.0)
    joined = join_arms([one, far.in_medium("vacuum")], "x")
    assert joined.medium == "air" and list(joined.arms) == ["1-all", "2-all"]
    assert np.allclose(joined.wavelength[joined.arms["2-all"]], far.wavelength, atol=1e-5)


@pytest.mark.parametrize(("shift", "refused"), [(0.0, True), (30.0, True), (1000.0, False), (-1500.0, False)])
def test_B11_exposures_are_not_arms(shift: float, refused: bool) -> None:
    """Grouped by star and night, exposures of one arm would be averaged, whatever their flux and masks."""
    one = fake_plugin.simulate(TRUTH[:1])
    other = attrs.evolve(one, wavelength=one.wavelength + shift, meta=one.meta.copy())
    other.meta["path"] = ["second.fits"]
    if not refused:
        assert len(join_arms([one, other], "HD 1").arms) == 2
        return
    words = (
        r"HD 1: .*second\.fits.* both cover .* Angstrom.*expected the arms of one exposure.*specinn combine"
    )
    with pytest.raises(package.errors.ReadError, match=words):
        join_arms([one, other], "HD 1")


# B10: arguments ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_B10_units_lists_arrays_and_tables(plugins: Plugins, stars: list[Path]) -> None:
    batch = fake_plugin.simulate(TRUTH)
    table = Table({"id": ["star-1"], "rv": [7.0]})
    for rv, expected in (
        (12 * u.km / u.s, [12, 12, 12]),
        (12000 * u.m / u.s, [12, 12, 12]),
        (np.array([1.0, 2.0, 3.0]), [1, 2, 3]),
        ([1, np.nan, 3], [1, 0, 3]),
        ([0.001, 0.002, 0.003] * u.Unit("km/s") * 1000, [1, 2, 3]),
        (table, [0, 7, 0]),
        (table.to_pandas(), [0, 7, 0]),
        (np.float32(4), [4, 4, 4]),
    ):
        result = infer(batch, plugins, rv=rv).catalogue["rv"].value
        assert result == pytest.approx(expected, abs=1e-4), rv
    assert infer(stars, plugins, rv=[1, 2, 3]).catalogue["rv"].value.tolist() == [1, 2, 3]
    powers = infer(batch, plugins, resolving_power=[5000, 3000, 5000]).catalogue
    assert (powers["flags"] & 8 != 0).tolist() == [False, True, False]  # resolution_low
    pixels = np.full(batch.wavelength.size, 5000.0)
    assert not infer(batch, plugins, resolving_power=pixels).catalogue["flags"].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rv": 5 * u.m}, "rv 5.0 m: the unit is m; expected a velocity in km/s"),
        ({"rv": [1, 2]}, "rv has 2 values, but there are 3 spectra"),
        ({"rv": [1, 2, "x"]}, "rv[2] 'x': expected a velocity"),
        ({"rv": {"a": "b"}}, "rv['a'] 'b': expected a velocity"),
        ({"rv": True}, "rv True: expected a velocity"),
        ({"rv": Table({"name": ["a"]})}, "rv: a table with the columns name"),
        ({"resolving_power": [5000, 1]}, "resolving_power [5000, 1]: expected a number above 1"),
        ({"resolving_power": [5000, 5000]}, "resolving_power has 2 values, but there are 3 spectra"),
        ({"seed": None}, "seed None: expected a whole number"),
        ({"samples": 3.5}, "samples 3.5: expected a whole number"),
        ({"device": 0}, "device 0: expected 'cpu', 'cuda' or 'cuda:N'"),
        ({"medium": "ether"}, "medium 'ether': expected air or vacuum"),
        ({"frame": "lunar"}, "frame 'lunar': expected barycentric"),
        ({"synthetic": "no"}, "synthetic 'no': expected True or False"),
        ({"corrections": 3}, "corrections 3: expected files of corrections"),
        ({"model": 3}, "model 3: expected the name or file"),
        ({"instrument": 3}, "instrument 3: expected the name"),
        ({"format": None}, "format None: expected the name of a reader"),
        ({"degrade_snr": "high"}, "degrade_snr 'high': expected a positive S/N"),
    ],
)
def test_B10_one_sentence_names_the_argument(plugins: Plugins, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        infer(fake_plugin.simulate(TRUTH), plugins, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_B10_messages_in_python_name_arguments() -> None:
    text = (
        "give one with --model FILE.safetensors, or --overwrite (overwrite=True), (--format NAME forces one)"
    )
    expected = "give one with model=FILE.safetensors, or overwrite=True, (format=NAME forces one)"
    assert as_arguments(text) == expected
    assert as_arguments("add --resolving-power, as in a--b -- c") == "add resolving_power, as in a--b -- c"


def test_B10_options_come_back_from_the_manifest() -> None:
    import json

    options = RunOptions(rv=12.5, medium="AIR", corrections=["a.toml"], samples=np.int64(7))
    again = RunOptions(**json.loads(json.dumps(options.plain())))
    assert again.plain() == options.plain() and again.medium == "air" and again.samples == 7


def test_B6_what_the_spectrum_covers_is_said(plugins: Plugins) -> None:
    batch = fake_plugin.simulate(TRUTH[:1])
    batch.wavelength /= 10.0  # nm, and not Angstrom
    table = infer(batch, plugins).catalogue
    ends = batch.wavelength[~batch.mask[0]][[0, -1]]
    assert f"the spectrum has some from {ends[0]:g} to {ends[1]:g}" in table["message"][0]


def test_D1_one_bad_item_costs_its_own_row(plugins: Plugins) -> None:
    good = fake_plugin.simulate(TRUTH[:1])
    table = infer([good, object(), good], plugins).catalogue
    assert table["flag_bad"].tolist() == [False, True, False]
    assert table["message"][1] == "spectrum-1: expected a specutils Spectrum, found object"
    assert table["id"][1] == "spectrum-1"


def test_D1_equal_failures_are_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    from specinn.cli._progress import Watch

    with Watch(quiet=False) as watch:
        for name in "abcdefgh":
            watch.report(name, "unlike the rest")
        watch.report("x\x1b[2J", "other")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "specinn: a: unlike the rest",
        "specinn: the same holds for 7 more: b, c, d, e, f and 2 more",
        "specinn: x\\x1b[2J: other",
    ]


@pytest.mark.slow
def test_D5_escapes_do_not_reach_the_terminal(specinn: Command, tmp_path: Path) -> None:
    batch = fake_plugin.simulate(TRUTH[:1])
    batch.meta["id"] = ["\x1b[2Jstar"]
    path = fake_plugin.write_text(tmp_path / "s\x1b]0;x\x07.txt", batch)
    done = specinn("run", "-i", "toy", "--samples", 60, path, "none\x1b[1m.txt", "-o", "o\x1b[3m.ecsv")
    assert done.exit_code == 0 and "\x1b" not in done.output.replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "\x07" not in done.output and "\\x1b[2Jstar" in done.output
    assert len(shards.catalogue.read("o\x1b[3m.ecsv")) == 2


# D3: which spectra are of one star ------------------------------------------------------------------------


def with_positions(path: Path, plugins: Plugins, files: list[Path], **columns: Any) -> None:
    result = infer(files, plugins, samples=400)
    table = Table(result.catalogue)
    for name, values in columns.items():
        table[name] = values
    catalogue.write(table, path)


@pytest.mark.slow
def test_D3_stars_are_matched_by_object_position_or_table(
    specinn: Command, plugins: Plugins, stars: list[Path]
) -> None:
    positions = {"object": ["A", "B", "A"], "ra": [359.9999, 10.0, 0.0001], "dec": [5.0, 5.0, 5.0]}
    with_positions(Path("c.fits"), plugins, stars, **positions)
    Path("stars.csv").write_text(
        "path,star\n" + "".join(f"{p},{s}\n" for p, s in zip(stars, "ABA", strict=True))
    )
    for options in (("--by", "object"), ("--radius", "1"), ("--by", "stars.csv")):
        done = specinn("combine", "c.fits", *options, "-o", "d.fits", "--overwrite")
        assert done.exit_code == 0 and done.stdout.startswith("2 stars: 1 of several spectra"), done.output
        assert catalogue.read("d.fits")["n_epochs"].tolist() == [2, 1]
    done = specinn("combine", "c.fits", "--radius", "0.1", "-o", "e.fits")
    assert done.stdout.startswith("3 stars: 0 of several")
    table = catalogue.read("d.fits")
    assert table["object"].tolist() == ["A", "B"] and table["ra"][1] == 10.0


@pytest.mark.slow
def test_D3_names_of_files_in_two_folders_are_no_star(
    specinn: Command, plugins: Plugins, tmp_path: Path
) -> None:
    files = []
    for i, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        batch = fake_plugin.simulate(TRUTH[i : i + 1])
        batch.meta["id"] = ["spec0001"]
        files.append(fake_plugin.write_text(tmp_path / folder / "spec0001.txt", batch))
    with_positions(tmp_path / "c.fits", plugins, files)
    sentence(specinn("combine", "c.fits", "-o", "d.fits"), "spec0001", "need not be of one star", "--radius")


@pytest.mark.slow
def test_D3_the_same_spectrum_twice_is_refused(specinn: Command, plugins: Plugins, stars: list[Path]) -> None:
    with_positions(Path("c.fits"), plugins, stars)
    sentence(specinn("combine", "c.fits", "c.fits", "-o", "d.fits"), "star-0", "is given twice")


def test_D3_the_share_that_is_advised_is_allowed() -> None:
    from specinn.cli.combine import shared_errors

    table = Table({"n_epochs": np.full(100, 2), "flags": np.zeros(100, int)})
    table["dof"], table["chi2"] = 13, 0.001
    assert "--common 0.99 allows" in shared_errors(table, 0.0)
