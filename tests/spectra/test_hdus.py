"""FITS headers that declare what cannot be are refused in one sentence, before memory is taken."""

from __future__ import annotations

import bz2
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from spectrum_files import write_benchmark_fits

from specinn.errors import ReadError, SpectrumWarning
from specinn.plugins import Plugins
from specinn.spectra import readers

N = 720  # doubles of two blocks


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


def image(path: Path) -> bytes:
    header = fits.Header({"CRVAL1": 5200.0, "CDELT1": 0.1, "CTYPE1": "AWAV"})
    fits.PrimaryHDU(1.0 + 0.01 * np.sin(np.arange(N)), header).writeto(path)
    return path.read_bytes()


def table(path: Path) -> bytes:
    columns = [
        fits.Column(name, "D", array=values)
        for name, values in (("WAVE", 5200.0 + 0.1 * np.arange(N)), ("FLUX", np.sin(np.arange(N)) + 9))
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    return path.read_bytes()


def changed(content: bytes, key: str, value: str) -> bytes:
    """The file with another value in the last card ``key``; without the card where ``value`` is blank."""
    at = content.rindex(f"{key:8s}=".encode())
    card = f"{key:8s}= {value:>20s}" if value else ""
    return content[:at] + card.encode().ljust(80) + content[at + 80 :]


IMAGE = {
    ("NAXIS", "4294967296"): "HDU 0 is damaged: NAXIS is 4294967296, expected 0 to 999: fetch the file again",
    ("NAXIS", "-1"): "NAXIS is -1, expected 0 to 999",
    ("NAXIS", "T"): "NAXIS is T, expected a whole number, 0 to 999",
    ("NAXIS", ""): "NAXIS is missing, expected a whole number, 0 to 999",
    ("NAXIS1", ""): "NAXIS1 is missing, expected a whole number, at least 0",
    ("NAXIS1", "B2400"): "NAXIS1 is B2400, expected a whole number",
    ("NAXIS1", "-9"): "NAXIS1 is -9, expected at least 0",
    ("NAXIS1", "1000000000000"): r"truncated: \d+ bytes, but HDU 0 announces 8000000002880",
    ("NAXIS1", "9" * 20): r"truncated: \d+ bytes, but HDU 0 announces \d+",
    ("SIMPLE", "N"): "SIMPLE is N, expected T",
    ("BITPIX", "-63"): "BITPIX is -63, expected one of 8, 16, 32, 64, -32, -64",
    ("BITPIX", "1E5"): "BITPIX is 1E5, expected a whole number, -64 to 64",
}
TABLE = {
    ("NAXIS2", "'1D'"): "HDU 1 is damaged: NAXIS2 is '1D', expected a whole number, at least 0",
    ("NAXIS2", "1000000000000"): r"truncated: \d+ bytes, but HDU 1 announces",
    ("NAXIS", "1"): "NAXIS is 1, expected 2 for a table",
    ("PCOUNT", "-5"): "PCOUNT is -5, expected at least 0",
    ("PCOUNT", ""): "PCOUNT is missing",
    ("GCOUNT", "x"): "GCOUNT is x, expected a whole number",
    ("GCOUNT", "65536"): r"truncated: \d+ bytes, but HDU 1 announces",
    ("TFIELDS", "1000000"): "TFIELDS is 1000000, expected 0 to 999",
    ("TFIELDS", "-1"): "TFIELDS is -1, expected 0 to 999",
    ("TFIELDS", "1"): "its columns take 8 bytes of a row, but NAXIS1 is 16",
    ("TFORM2", "'E'"): "its columns take 12 bytes of a row, but NAXIS1 is 16",
    ("TFORM2", "'9999999999999E'"): "its columns take 40000000000004 bytes of a row, but NAXIS1 is 16",
    ("TFORM2", "'nm'"): "TFORM2 is 'nm', expected a format such as 1D",
    ("EXTEND", "Inf"): "HDU 0 is damaged: EXTEND is Inf, expected T or F",
    ("TFORM2", "'pixel'"): "TFORM2 is 'pixel', expected a format such as 1D",
    ("TFORM2", ""): "TFORM2 is missing, expected the format of column 2",
    ("XTENSION", "'IMAG'"): "XTENSION is 'IMAG', expected IMAGE, BINTABLE or TABLE",
    ("XTENSION", "'BINTABLE"): "XTENSION is 'BINTABLE, expected quotes around it",
}


@pytest.mark.parametrize(
    ("make", "key", "value", "message"),
    [(image, *card, message) for card, message in IMAGE.items()]
    + [(table, *card, message) for card, message in TABLE.items()],
)
def test_damaged_headers_are_one_sentence(make, key, value, message, plugins, tmp_path):
    content = make(tmp_path / "whole.fits")
    path = tmp_path / "a.fits"
    path.write_bytes(changed(content, key, value))
    tracemalloc.start()
    with pytest.raises(ReadError, match=message) as caught:
        list(readers.read(path, plugins))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ") and "Error" not in str(caught.value)
    assert peak < 2**25
    with pytest.raises(ReadError, match=message):
        list(readers.read(path, plugins, "fits-image" if make is image else "fits-table"))


@pytest.mark.parametrize(
    ("card", "name"), [(b"BZERO   \xca  0.7", "BZERO"), (b"BZERO  \xd3= 0.7", "BZERO  Ó")]
)
def test_a_scale_without_an_equals_sign(plugins, tmp_path, card, name):
    content = image(tmp_path / "whole.fits")
    at = content.index(b"CTYPE1")
    (tmp_path / "a.fits").write_bytes(content[:at] + card.ljust(80) + content[at + 80 :])
    message = rf"HDU 0 is damaged: {name} is followed by .*0.7.*, expected =: fetch"
    with pytest.raises(ReadError, match=message):
        list(readers.read(tmp_path / "a.fits", plugins))


def test_a_size_that_stands_twice(plugins, tmp_path):
    content = image(tmp_path / "whole.fits")
    at = content.index(b"CTYPE1")
    (tmp_path / "a.fits").write_bytes(
        content[:at] + b"NAXIS1  =                  300".ljust(80) + content[at + 80 :]
    )
    with pytest.raises(ReadError, match="NAXIS1 stands in it twice, as 720 and 300"):
        list(readers.read(tmp_path / "a.fits", plugins))


@pytest.mark.parametrize("more", ["= 'IMAGE'", "D", "\x1b"])
def test_an_end_of_a_header_at_which_astropy_does_not_stop(more, plugins, tmp_path):
    content = table(tmp_path / "whole.fits")
    at = content.index(b"END".ljust(80))
    damaged = content[:at] + b"END     " + more.encode().ljust(72) + content[at + 80 :]
    (tmp_path / "a.fits").write_bytes(damaged)
    with pytest.raises(ReadError, match=r"END is followed by .*, expected blanks: fetch the file again"):
        list(readers.read(tmp_path / "a.fits", plugins))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ZCMPTYPE", "1.5", "ZCMPTYPE is 1.5, expected one of RICE_1, "),
        ("ZNAME2", "1", "ZNAME2 is 1, expected the name of a parameter"),
        ("ZVAL1", "'nm'", "ZVAL1 is 'nm', expected a number"),
        ("ZVAL1", "9223372036854775807", "ZVAL1 is 9223372036854775807, expected a number below"),
        ("ZVAL1", "520.0", "ZVAL1 is 520.0, expected a whole number, 16 to 32"),
        ("ZNAXIS1", "5200", "NAXIS2 is 1, expected at least 8"),
        ("ZVAL2", "16", "ZVAL2 is 16, expected 1 to 8"),
        ("ZVAL2", "3", "BYTEPIX is 3, expected 1, 2, 4 or 8"),
    ],
)
def test_parameters_of_a_compression_that_are_none(key, value, message, plugins, tmp_path):
    header = fits.Header({"CRVAL1": 5200.0, "CDELT1": 0.1, "CTYPE1": "AWAV"})
    hdu = fits.CompImageHDU(np.arange(N, dtype=np.int32), header)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "whole.fits")
    content = (tmp_path / "whole.fits").read_bytes()
    (tmp_path / "a.fits").write_bytes(changed(content, key, value))
    with pytest.raises(ReadError, match=f"HDU 1 is damaged: {message}"):
        list(readers.read(tmp_path / "a.fits", plugins))


def test_columns_of_variable_length_in_a_file_without_the_padding_at_its_end(plugins, tmp_path):
    columns = [
        fits.Column(name, "PD()", array=np.array([values], dtype=object))
        for name, values in (("WAVE", 5200.0 + 0.1 * np.arange(N)), ("FLUX", np.sin(np.arange(N)) + 9))
    ]
    hdu = fits.BinTableHDU.from_columns(columns)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "whole.fits")
    content = (tmp_path / "whole.fits").read_bytes()
    end = 5760 + 32 + 2 * 8 * N
    assert len(content) > end
    (tmp_path / "a.fits").write_bytes(content[:end])
    (whole,), (cut,) = (list(readers.read(tmp_path / name, plugins)) for name in ("whole.fits", "a.fits"))
    assert (cut.flux == whole.flux).all() and (cut.wavelength == whole.wavelength).all()


def test_a_unit_that_specutils_does_not_know_is_said_in_words():
    from astropy import units as u
    from astropy.coordinates import SpectralQuantity

    with pytest.raises(u.UnitsError) as caught:
        SpectralQuantity([1.0, 2.0], unit="s")
    assert readers.reason(caught.value) == "the unit of the axis is s"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CTYPE1", "Inf", "the axis is none that the FITS standard knows: CUNIT1 Invalid"),
        ("EXTNAME", "'ERRS' \x01", r"\(the value of EXTNAME in a header is not closed or no value\)"),
    ],
)
def test_what_specutils_cannot_read_is_said_in_words(key, value, message, plugins, tmp_path):
    wave = 5200.0 + 0.1 * np.arange(N)
    whole = write_benchmark_fits(tmp_path / "whole.fits", wave, np.ones(N), np.full(N, 0.01))
    (tmp_path / "a.fits").write_bytes(changed(whole.read_bytes(), key, value))
    with pytest.raises(ReadError, match=message) as caught:
        list(readers.read(tmp_path / "a.fits", plugins))
    assert "Error" not in str(caught.value)


def test_a_packed_file_that_is_no_fits_inside_is_not_searched_for_headers(plugins, tmp_path):
    content = b"m" + image(tmp_path / "whole.fits")[1:]
    path = tmp_path / "a.fits.bz2"
    path.write_bytes(bz2.compress(content.replace(b"SIMPLE", b"mIMPLE")))
    with pytest.raises(ReadError, match="not a spectrum that any reader knows"):
        list(readers.read(path, plugins))


def test_a_column_without_a_name_is_described(plugins, tmp_path):
    content = table(tmp_path / "whole.fits")
    (tmp_path / "a.fits").write_bytes(changed(content, "TTYPE2", ""))
    with pytest.raises(ReadError, match=r"a table of columns WAVE, \(one without a name\)"):
        list(readers.read(tmp_path / "a.fits", plugins))


def test_a_compressed_image_that_declares_too_much(plugins, tmp_path):
    header = fits.Header({"CRVAL1": 5200.0, "CDELT1": 0.1, "CTYPE1": "AWAV"})
    hdu = fits.CompImageHDU(np.arange(N, dtype=np.int32), header)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "whole.fits")
    content = (tmp_path / "whole.fits").read_bytes()
    for key, message in (
        ("ZNAXIS1", "compressed image of HDU 1 declares 4000000000000 bytes"),
        ("ZTILE1", "ZTILE1 is 1000000000000, expected 1 to 720"),
    ):
        (tmp_path / "a.fits").write_bytes(changed(content, key, "1000000000000"))
        with pytest.raises(ReadError, match=message):
            list(readers.read(tmp_path / "a.fits", plugins))


def test_bytes_after_the_last_hdu_are_said(plugins, tmp_path):
    content = image(tmp_path / "whole.fits")
    path = tmp_path / "a.fits"
    path.write_bytes(content + bytes(2880))  # as tapes have them
    list(readers.read(path, plugins, "fits-image"))
    path.write_bytes(content + b"\1" * 2880)
    said = "2880 bytes after the last HDU are not understood"
    with pytest.raises(ReadError, match=f"damaged: {said}: fetch the file again"):
        list(readers.read(path, plugins, "fits-image"))
    path.write_bytes(content + b"\1" * 80)
    with pytest.warns(SpectrumWarning, match="80 bytes after the last HDU are not understood and left out"):
        list(readers.read(path, plugins, "fits-image"))
