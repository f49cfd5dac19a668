"""Columns of the catalogue, and its files."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from three_stars import LABELS, SUFFIXES, result

from specinn import catalogue
from specinn.catalogue import samples
from specinn.catalogue.result import Result
from specinn.catalogue.table import named
from specinn.cli._result_table import show
from specinn.errors import OutputError
from specinn.flags import Flag
from specinn.labels import LabelSet, make_label
from specinn.posterior import Posterior
from specinn.posterior.display import value_with_errors


@pytest.fixture(scope="module")
def table() -> Table:
    fields = catalogue.schema(LABELS, ["green"])
    rows = [catalogue.summarise(result(), instrument="4most-hr", model="m 0123")]
    return catalogue.build(rows, fields, {"specinn": "0.1.0", "seed": 3, "model": "m"})


def test_columns_hold_the_statistics_of_the_accepted_samples(table: Table) -> None:
    posterior = result().posterior
    kept = posterior.samples[0][posterior.inside[0]].astype(float)
    best = kept[posterior.log_prob[0][posterior.inside[0]].argmax()]
    for i, name in enumerate(LABELS.names):
        assert table[name][0] == pytest.approx(best[i], rel=1e-6)
        assert table[f"{name}_std"][0] == pytest.approx(kept[:, i].std(), rel=1e-4)
        for key, level in (("median", 50), ("p2_5", 2.5), ("p16", 16), ("p84", 84), ("p97_5", 97.5)):
            assert table[f"{name}_{key}"][0] == pytest.approx(np.percentile(kept[:, i], level), rel=1e-5)
    assert table["rejected_fraction"][0] == pytest.approx(0.1)


def test_lithium_over_iron_is_derived_sample_by_sample(table: Table) -> None:
    posterior = result().posterior
    kept = posterior.samples[1][posterior.inside[1]].astype(float)
    ratio = kept[:, 4] - 1.05 - kept[:, 2]
    assert table["li_fe"][1] == pytest.approx(table["a_li"][1] - 1.05 - table["fe_h"][1], abs=1e-5)
    assert table["li_fe_p84"][1] == pytest.approx(np.percentile(ratio, 84), abs=1e-5)
    assert table["li_fe_std"][1] == pytest.approx(ratio.std(), rel=1e-4)
    assert not any(name.startswith("li_fe") for name in _names(LabelSet(LABELS.labels[:4])))


def _names(labels: LabelSet) -> list[str]:
    return [field.name for field in catalogue.schema(labels, ["green"])]


def test_a_row_without_result_is_masked_and_never_nan(table: Table) -> None:
    assert table["flag_bad"].tolist() == [False, False, True]
    assert table["flag_warn"].tolist() == [False, True, True]
    for name in ("teff", "logg_std", "li_fe_p97_5", "snr_green", "rv", "rejected_fraction"):
        assert table[name].mask.tolist() == [False, False, True], name
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            assert np.isfinite(np.ma.compressed(np.ma.asarray(table[name]))).all()
    assert table["rv_error"].mask.all()


def test_a_label_that_is_not_detected_has_a_limit(table: Table) -> None:
    assert table["a_li_upper"].mask.all() and table["vbroad_upper"].mask.all()
    good = result()
    low = good.posterior.samples.copy()
    low[0, :, 4] = np.random.default_rng(0).uniform(0.0, 1.0, len(low[0]))
    summary = Posterior(LABELS, low, good.posterior.log_prob).summary()
    for raw in (None, summary):  # corrected samples: the uncorrected ones decide, the limit is of the others
        moved = Result(good.meta, summary if raw is None else good.summary, raw)
        columns = [catalogue.summarise(moved, instrument="i", model="m")]
        listed = catalogue.build(columns, catalogue.schema(LABELS, ["green"]), {})
        limit = np.percentile((low if raw is None else good.posterior.samples)[0, 50:, 4], 95)
        assert listed["a_li_upper"][0] == pytest.approx(limit, rel=1e-5)
        assert (
            listed["a_li_upper"].mask.tolist() == listed["li_fe_upper"].mask.tolist() == [False, True, True]
        )
    from rich.console import Console

    console = Console(width=80)
    with console.capture() as shown:
        show(listed, LABELS, console=console)
    assert f"< {limit:.2f}" in shown.get()
    assert not any(f"{name}_upper" in listed.colnames for name in ("teff", "logg", "fe_h"))


def test_what_is_not_determined_has_percentiles_and_a_name_and_no_value() -> None:
    """As wide as the prior: no mean of a prior passes for a measurement, whatever corrections made of it."""
    good = result()
    wide = good.posterior.samples.copy()
    wide[:2, :, 4] = np.random.default_rng(0).uniform(0.0, 4.0, (2, wide.shape[1]))
    summary = Posterior(LABELS, wide, good.posterior.log_prob).summary()
    fields = catalogue.schema(LABELS, ["green"], corrected=True, lithium=True)
    for raw in (None, summary):
        moved = Result(good.meta, summary if raw is None else good.summary, raw)
        listed = catalogue.build([catalogue.summarise(moved, instrument="i", model="m")], fields, {})
        assert listed["undetermined"].tolist() == ["a_li li_fe", "a_li li_fe", ""]
        for name in ("a_li", "li_fe", "a_li_3dnlte"):
            ends = ["", "_median", "_upper", *(["_raw"] if name != "a_li_3dnlte" else [])]
            assert all(listed[f"{name}{end}"].mask.all() for end in ends)
        for end in ("p2_5", "p16", "p84", "p97_5", "std"):
            assert listed[f"a_li_{end}"].mask.tolist() == [False, False, True]
        assert listed["teff"].mask.tolist() == listed["fe_h_median"].mask.tolist() == [False, False, True]
    told = named(listed, ("a_li", "teff"))
    assert told.tolist() == [[True, False], [True, False], [False, False]]
    assert not named(Table({"id": ["a"]}), ("a_li",)).any()  # of an older catalogue


def test_the_terminal_has_a_line_for_what_is_not_determined_and_none_without_values() -> None:
    from rich.console import Console

    names = ("n_fe", "eu_fe", "mg_fe", "ba_fe", "teff", "logg", "fe_h")
    bounds = {"teff": (4000, 7000), "logg": (0, 5), "fe_h": (-3, 0.5)}
    labels = LabelSet([make_label(name, bounds.get(name, (-0.5, 1.0))) for name in names])
    rng, middle = np.random.default_rng(0), labels.bounds.mean(axis=1)
    samples = middle + 0.01 * np.ptp(labels.bounds, axis=1) * rng.normal(size=(2, 800, len(names)))
    samples[:, :, :2] = rng.uniform(-0.5, 1.0, (2, 800, 2))  # N and Eu of both, Ba of the second
    samples[1, :, 3] = rng.uniform(-0.5, 1.0, 800)
    meta = Table({"id": ["a", "b"], "rv": [0.0, 1.0], "flags": np.zeros(2, np.uint32), "message": ["", ""]})
    summary = Posterior(labels, samples, np.zeros((2, 800))).summary()
    rows = [catalogue.summarise(Result(meta, summary), instrument="i", model="m")]
    console = Console(width=80)
    with console.capture() as shown:
        show(catalogue.build(rows, catalogue.schema(labels, []), {}), labels, console=console)
    lines = {line[:14].strip(): line[14:].split() for line in shown.get().splitlines() if line}
    assert list(lines)[2:] == ["rv (km/s)", "teff (K)", "logg (dex)", "fe_h (dex)", "mg_fe (dex)",
                               "ba_fe (dex)", "not determined", "flags"]  # fmt: skip
    assert lines["not determined"] == ["N,", "Eu", "N,", "Eu,", "Ba"] and lines["ba_fe (dex)"][-1] == "-"


def test_a_result_with_a_bad_flag_gives_no_numbers() -> None:
    rejected = result()
    rejected.meta["flags"][0] |= np.uint32(Flag.ALL_REJECTED)
    columns = catalogue.summarise(rejected, instrument="i", model="m")
    assert np.isnan(columns["teff"][0]) and np.isnan(columns["teff_median"][0])
    assert np.isfinite(columns["teff"][1])


def test_order_and_names_of_the_columns() -> None:
    names = _names(LABELS)
    assert names[:7] == ["id", "path", "instrument", "row", "snr_green", "rv", "rv_error"]
    teff = names.index("teff")
    ends = ["", "_median", "_p2_5", "_p16", "_p84", "_p97_5", "_std"]
    assert names[teff : teff + 7] == [f"teff{end}" for end in ends]
    assert names[-6:] == ["rejected_fraction", "flags", "flag_warn", "flag_bad", "message", "model"]
    assert len(set(names)) == len(names)
    assert "teff_raw" in [field.name for field in catalogue.schema(LABELS, [], corrected=True)]
    assert all(field.description for field in catalogue.schema(LABELS, ["green"], corrected=True))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_keep_values_masks_units_and_descriptions(table: Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    catalogue.write(table, path)
    again = catalogue.read(path)
    assert again.colnames == table.colnames
    for name in table.colnames:
        old, new = table[name], again[name]
        assert (new.unit or "") == (old.unit or ""), name
        assert new.description == old.description, name
        assert new.dtype.kind == old.dtype.kind and (
            new.dtype.newbyteorder("=") == old.dtype or old.dtype.kind == "U"
        ), name
        mask = np.ma.getmaskarray(np.ma.asarray(old))
        assert (np.ma.getmaskarray(np.ma.asarray(new)) == mask).all(), name
        assert (np.asarray(new)[~mask] == np.asarray(old)[~mask]).all(), name
        assert new.meta.get("ucd") == old.meta["ucd"], name
    assert again["id"][1] == "spectrum é"
    assert again.meta["seed"] == 3 and again.meta["specinn"] == "0.1.0"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_table_gives_the_same_bytes(table: Table, tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    catalogue.write(table, first)
    catalogue.write(table, second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", (".fits", ".ecsv"))
def test_astropy_alone_reads_units(table: Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    catalogue.write(table, path)
    plain = Table.read(path)
    assert (
        plain["logg"].unit == plain["logg_std"].unit == plain["fe_h"].unit == u.dex
        and plain["teff"].unit == u.K
    )
    assert plain["teff"].description.startswith("Effective temperature")
    assert isinstance(plain["teff"], MaskedColumn) and plain["teff"].mask.tolist() == [False, False, True]
    assert QTable.read(path)["rv"].unit == u.km / u.s


@pytest.mark.slow
def test_fits_header_has_units_and_comments_of_every_column(table: Table, tmp_path: Path) -> None:
    catalogue.write(table, tmp_path / "out.fits")
    with fits.open(tmp_path / "out.fits") as hdus:
        hdus.verify("exception")
        header = hdus["CATALOGUE"].header
    by_name = {header[f"TTYPE{i}"]: i for i in range(1, header["TFIELDS"] + 1)}
    assert header[f"TUNIT{by_name['teff']}"] == "K"
    assert header[f"TCOMM{by_name['logg']}"].endswith("maximum a posteriori (dex)")
    assert header[f"TUNIT{by_name['rv']}"] == "km s-1"
    assert all(header[f"TCOMM{i}"] for i in by_name.values())
    assert "DATE" not in header


def test_parquet_has_nulls_and_notes_for_other_readers(table: Table, tmp_path: Path) -> None:
    from pyarrow import parquet

    catalogue.write(table, tmp_path / "out.parquet")
    arrow = parquet.read_table(tmp_path / "out.parquet")
    assert arrow["teff"].to_pylist()[2] is None
    assert arrow.schema.field("teff").metadata[b"unit"] == b"K"
    assert b"table_meta_yaml" in arrow.schema.metadata


@pytest.mark.slow
def test_hdf5_has_no_number_under_a_mask_and_no_pickle(table: Table, tmp_path: Path) -> None:
    catalogue.write(table, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.isnan(file["catalogue"]["teff"][2])
        assert all(file["catalogue"].dtype[name].kind != "O" for name in file["catalogue"].dtype.names)


def test_an_output_that_exists_stays(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "out.ecsv"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        catalogue.write(table, path)
    assert path.read_text() == "mine"
    catalogue.write(table, path, overwrite=True)
    assert len(catalogue.read(path)) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.txt", "is not a known format"),
        ("file", "is a file, and a name without suffix"),
        ("dir", "no catalogue of specinn"),
        ("none/out.fits", "no folder"),
        ("dir.h5", "is a folder"),
    ],
)
def test_an_impossible_output_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "dir.h5").mkdir()
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=words):
        catalogue.check(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission"):
        catalogue.check(tmp_path / "out.fits")


def test_reading_something_else_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file"):
        catalogue.read(tmp_path / "none.fits")
    with pytest.raises(OutputError, match="is not a known format"):
        catalogue.read(tmp_path / "none.txt")


DISK_FULL = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from test_table import LABELS, result
    from specinn import catalogue
    from specinn.errors import OutputError
    from test_table import write_samples
    import pyarrow.parquet
    rows = [catalogue.summarise(result(), instrument="i", model="m")]
    table = catalogue.build(rows, catalogue.schema(LABELS, ["green"]), {})
    folder = Path(sys.argv[1])
    # the kernel then refuses to let files grow, as a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for suffix in (".fits", ".ecsv", ".parquet", ".h5", ".vot", ".xml"):
        try:
            catalogue.write(table, folder / ("out" + suffix))
        except OutputError as error:
            print(suffix, error)
    try:
        write_samples(folder / "samples.h5", result())
    except OutputError as error:
        print("samples", error)
    print(sorted(folder.iterdir()))
    """
)


@pytest.mark.slow
def test_a_full_disk_leaves_a_sentence_and_no_file(tmp_path: Path) -> None:
    folder = Path(__file__).parent
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent / "helpers"), str(folder.parents[1])]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path)], capture_output=True, text=True, env=env
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [*SUFFIXES, "samples"], done.stdout + done.stderr
    assert all("could not be written" in line for line in lines[:-1]), done.stdout
    assert sum("the disk is full" in line for line in lines[:-1]) >= 3, done.stdout
    assert lines[-1] == "[]"


def write_samples(path: Path, *results: Result, keep: int = 500) -> None:
    with samples.samples_file(path, keep, samples.attributes_of(LABELS, model="m", seed=3)) as append:
        for one in results:
            assert one.posterior is not None and not path.exists()
            append(samples.rows_of(one.meta["id"], one.meta["flags"], one.posterior, keep))


def test_samples_file(tmp_path: Path) -> None:
    one = result()
    assert one.posterior is not None
    write_samples(tmp_path / "s.h5", one, one)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["samples"].shape == (6, 500, 5) and file["samples"].dtype == np.float32
        assert np.array_equal(file["samples"][3:5], one.posterior.samples[:2])
        assert np.array_equal(file["log_prob"][:3], one.posterior.log_prob)
        assert file["id"].asstr()[:3].tolist() == ["a", "spectrum é", "c"]
        assert np.isnan(file["samples"][2]).all() and not file["inside"][2].any()
        assert file["flags"][2] == Flag.NOT_READ
        assert list(file.attrs["labels"]) == list(LABELS.names)
        assert list(file.attrs["units"]) == [label.unit for label in LABELS]
        assert file.attrs["seed"] == 3 and np.array_equal(file.attrs["bounds"], LABELS.bounds)
        size = sum(file[name].nbytes for name in ("samples", "log_prob", "inside"))
    assert size == samples.size_of(6, 500, 5)


def test_thinned_samples_are_the_first_of_each_star(tmp_path: Path) -> None:
    write_samples(tmp_path / "all.h5", result())
    write_samples(tmp_path / "some.h5", result(), keep=7)
    with h5py.File(tmp_path / "all.h5") as whole, h5py.File(tmp_path / "some.h5") as thin:
        for name in ("samples", "log_prob", "inside"):
            assert np.array_equal(thin[name][:], whole[name][:, :7], equal_nan=name == "samples")


def test_samples_are_joined_in_order(tmp_path: Path) -> None:
    parts = [tmp_path / "1.h5", tmp_path / "2.h5"]
    for part in parts:
        write_samples(part, result())
    samples.join(parts, tmp_path / "joined.h5")
    write_samples(tmp_path / "whole.h5", result(), result())
    with h5py.File(tmp_path / "joined.h5") as joined, h5py.File(tmp_path / "whole.h5") as whole:
        assert sorted(joined) == sorted(whole) and dict(joined.attrs).keys() == dict(whole.attrs).keys()
        for name in joined:
            assert np.array_equal(joined[name][:], whole[name][:], equal_nan=name == "samples")
            assert joined[name].chunks == whole[name].chunks


def test_samples_of_an_interrupted_run_leave_nothing(tmp_path: Path) -> None:
    attributes = samples.attributes_of(LABELS)
    with pytest.raises(KeyboardInterrupt), samples.samples_file(tmp_path / "s.h5", 500, attributes):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ((5772.4, 5741.2, 5801.0), "5772 -31 +29"),
        ((4.438, 4.41, 4.46), "4.438 -0.028 +0.022"),
        ((4.438, 4.38, 4.49), "4.44 -0.06 +0.05"),
        ((1.0, 1.0, 1.0), "1.00 +0.00 +0.00"),
        ((np.ma.masked, 1.0, 2.0), "-"),
        ((float("nan"), 1.0, 2.0), "-"),
        ((0.5, 0.6, 0.8), "0.50 +0.10 +0.30"),
    ],
)
def test_digits_follow_the_errors(cells: tuple[float, float, float], text: str) -> None:
    assert value_with_errors(*cells) == text


@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e3), st.floats(1e-4, 1e3))
@settings(max_examples=100)
def test_a_printed_error_is_never_rounded_away(value: float, below: float, above: float) -> None:
    shown = value_with_errors(value, value - below, value + above).split()
    assert float(shown[1]) == pytest.approx(-below, rel=0.2, abs=1e-4)
    assert float(shown[2]) == pytest.approx(above, rel=0.2, abs=1e-4)


def test_terminal_table_fits_and_names_the_flags(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    show(table, LABELS, console=Console(width=80))
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("teff (K)", "logg (dex)", "rv (km/s)", "li_fe", "rv_measured", "not_read", "12.3"):
        assert word in text
    show(table, LABELS, limit=1, console=Console(width=80))
    assert "and 2 more" in capsys.readouterr().out
