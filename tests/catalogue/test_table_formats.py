"""Catalogues as other programs read them, and texts that come back from every format (faults B9, D6)."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import parse, parse_single_table
from astropy.io.votable.ucd import parse_ucd
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from three_stars import LABELS, SUFFIXES, result

from specinn import catalogue
from specinn.catalogue.schema import CARRIED
from specinn.errors import OutputError
from specinn.flags import Flag
from specinn.models import physics
from specinn.texts import in_json, native, path_of, plural, portable, shown

FIELDS = catalogue.schema(LABELS, ["green"], corrected=True)


@pytest.fixture(scope="module")
def table() -> Table:
    stars = result()
    stars.meta["object"] = ["HD 1", "", "ξ Boo A"]
    stars.meta["ra"], stars.meta["dec"] = [10.123456789, np.nan, 3.0], [-1.0, np.nan, 2.0]
    rows = [catalogue.summarise(stars, instrument="4most-hr", model="m 0123")]
    return catalogue.build(rows, catalogue.schema(LABELS, ["green"]), {"specinn": "0.1.0", "seed": 3})


def test_D6_every_column_has_a_ucd_of_the_vocabulary() -> None:
    for field in FIELDS:
        assert parse_ucd(field.ucd, check_controlled_vocabulary=True), field.name


def test_D6_flags_are_signed_and_every_flag_fits() -> None:
    assert np.dtype({f.name: f.dtype for f in FIELDS}["flags"]) == np.int32
    assert max(Flag) <= np.iinfo(np.int32).max


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".vot", ".xml"])
def test_D6_votable_has_units_ucds_and_nulls(table: Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"stars{suffix}"
    catalogue.write(table, path)
    result = parse_single_table(path, verify="ignore")
    by_name = {field.name: field for field in result.fields}
    assert by_name["flags"].datatype == "int" and by_name["flag_bad"].datatype == "boolean"
    assert by_name["teff"].ucd == "phys.temperature.effective;meta.main" and str(by_name["teff"].unit) == "K"
    assert str(by_name["logg"].unit) == str(by_name["a_li_upper"].unit) == "dex"
    assert by_name["ra"].datatype == "double" and str(by_name["ra"].unit) == "deg"
    plain = Table.read(path, format="votable")
    assert plain["teff"].mask.tolist() == [False, False, True]
    assert plain["ra"][0] == 10.123456789 and plain["object"][2] == "ξ Boo A"
    assert plain["flag_bad"].tolist() == [False, False, True]


@pytest.mark.slow
def test_D6_votable_is_valid_but_for_the_unit_dex(table: Table, tmp_path: Path) -> None:
    import warnings

    catalogue.write(table, tmp_path / "stars.vot")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        parse(tmp_path / "stars.vot", verify="warn")
    assert all("Invalid unit string 'dex'" in str(each.message) for each in said), said[0].message


@pytest.mark.slow
def test_D6_fits_tells_topcat_units_and_ucds(table: Table, tmp_path: Path) -> None:
    catalogue.write(table, tmp_path / "stars.fits")
    with fits.open(tmp_path / "stars.fits") as hdus:
        assert list(hdus[0].header)[:5] == ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "VOTMETA"]
        document = parse_single_table(io.BytesIO(hdus[0].data.tobytes()), verify="ignore")
        header, names = hdus["CATALOGUE"].header, hdus["CATALOGUE"].columns.names
    assert [field.name for field in document.fields] == names
    units = {field.name: str(field.unit or "") for field in document.fields}
    assert units["logg"] == units["fe_h_p16"] == "dex" and units["teff"] == "K"
    assert header[f"TUCD{1 + names.index('logg')}"] == "phys.gravity;meta.main"
    assert f"TZERO{1 + names.index('flags')}" not in header  # no unsigned integers


@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_line_corrections_of_the_model_stand_in_the_header(table: Table, tmp_path: Path, suffix: str) -> None:
    sha256 = "03da6fd54fc4" + "0" * 52
    stated = {"line_lists": {"iron": sha256}, "line_corrections": {"source": "l.ecsv", "sha256": sha256}}
    about = physics({"grid": {"provenance": stated}})
    one = table.copy()
    one.meta.update(about)
    catalogue.write(one, tmp_path / f"stars{suffix}")
    again = catalogue.read(tmp_path / f"stars{suffix}")
    assert again.meta["linecorr"] == "source l.ecsv, sha256 03da6fd54fc4"
    assert again.meta["linelist"] == "iron 03da6fd54fc4"
    if suffix == ".fits":
        header = fits.getheader(tmp_path / "stars.fits", "CATALOGUE")
        assert header["LINECORR"] == about["linecorr"]
    assert physics({"grid": {"provenance": {"line_corrections": "none"}}}) == {"linecorr": "none"}


def test_D6_csv_and_parquet_in_pandas(table: Table, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for suffix, read in ((".csv", pandas.read_csv), (".parquet", pandas.read_parquet)):
        catalogue.write(table, tmp_path / f"stars{suffix}")
        frame = read(tmp_path / f"stars{suffix}")
        assert list(frame.columns) == table.colnames
        assert frame["teff"].isna().tolist() == [False, False, True]
        assert frame["teff"].astype("float32")[0] == table["teff"][0]
        assert frame["flag_bad"].dtype == bool and frame["flags"].tolist() == table["flags"].tolist()
        assert frame["id"][1] == "spectrum é" and frame["ra"][0] == 10.123456789


def test_D6_csv_is_not_read_back(table: Table, tmp_path: Path) -> None:
    catalogue.write(table, tmp_path / "stars.csv")
    with pytest.raises(OutputError, match=r"'\.csv' is not a known format that can be read back"):
        catalogue.read(tmp_path / "stars.csv")


@pytest.mark.slow
def test_a_catalogue_of_an_earlier_version_is_read(table: Table, tmp_path: Path) -> None:
    """Its flags are unsigned, and it has no columns of the object."""
    old = table.copy()
    old.remove_columns([field.name for field in CARRIED])
    old["flags"] = old["flags"].astype(np.uint32)
    for suffix in (".fits", ".ecsv", ".parquet", ".h5"):
        catalogue.write(old, tmp_path / f"old{suffix}")
        again = catalogue.read(tmp_path / f"old{suffix}")
        assert again["flags"].tolist() == table["flags"].tolist() and again["flags"].dtype.kind == "u"


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_a_column_with_its_former_name_is_read(table: Table, tmp_path: Path, suffix: str) -> None:
    old = table.copy()
    old["ood_score"] = [0.5, 1.5, 0.25]
    old.rename_column("ood_score", "stranger")
    catalogue.write(old, tmp_path / f"old{suffix}")
    again = catalogue.read(tmp_path / f"old{suffix}")
    assert again.colnames == table.colnames and again["ood_score"].tolist() == [0.5, 1.5, 0.25]


# Texts --------------------------------------------------------------------------------------------------

STRANGE = os.fsdecode(b"caf\xe9 \x1b[31m.fits")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_B9_every_text_comes_back_from_every_format(tmp_path: Path, suffix: str) -> None:
    one = result()
    one.meta["path"] = [STRANGE, "ночь/звезда ☆.fits", 'a "b", <c> & d;\\.fits']
    rows = [catalogue.summarise(one, instrument="i", model="m")]
    catalogue.write(catalogue.build(rows, catalogue.schema(LABELS, ["green"]), {}), tmp_path / f"out{suffix}")
    again = catalogue.read(tmp_path / f"out{suffix}")
    assert native(again["path"][0]) == STRANGE
    assert again["path"][1:].tolist() == one.meta["path"][1:].tolist()


def test_B9_a_file_whose_name_is_no_utf8_is_found(tmp_path: Path) -> None:
    path = tmp_path / STRANGE
    path.touch()
    written = portable(str(path))
    assert written.isprintable() and written.encode()
    assert path_of(written) == path
    literal = tmp_path / r"a\x41.fits"  # a name that has a backslash of its own
    literal.touch()
    assert path_of(str(literal)) == literal


@pytest.mark.slow
@given(st.text())
def test_B9_what_is_portable_is_printable_and_comes_back(text: str) -> None:
    out = portable(text)
    out.encode()
    assert "\x1b" not in out and "\n" not in out
    assert native(portable(text)) == text or "\\" in text


def test_D5_what_a_terminal_is_shown() -> None:
    assert shown("a\x1b]0;title\x07b\n\tc") == "a\\x1b]0;title\\x07b\n\tc"
    assert shown("ξ Boo") == "ξ Boo"
    text = in_json(json.dumps({"id": "a\x1b\x9b\udce9é"}, indent=2, ensure_ascii=False))
    assert text == '{\n  "id": "a\\u001b\\u009b\\udce9é"\n}'
    assert json.loads(text) == {"id": "a\x1b\x9b\udce9é"}
    assert (plural(1, "spectrum", "spectra"), plural(2, "spectrum", "spectra")) == ("1 spectrum", "2 spectra")
    assert plural(0, "file") == "0 files"
