"""SpectrumBatch: what it accepts, how it says no, rows, joins and gaps."""

from itertools import pairwise

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from specinn.errors import ReadError
from specinn.spectra import SpectrumBatch, snr_per_angstrom

W = np.linspace(5000, 5010, 11)


def make(n=3, **fields):
    flux = 1.0 + np.arange(n)[:, None] + np.zeros(W.size)
    return SpectrumBatch.from_arrays(W, flux, 0.1 * flux, ids=[f"star {i}" for i in range(n)], **fields)


def test_one_spectrum_is_a_batch_of_one():
    batch = SpectrumBatch.from_arrays(W, np.ones(11), path="a.txt")
    assert len(batch) == 1
    assert batch.flux.shape == batch.sigma.shape == batch.mask.shape == (1, 11)
    assert np.isnan(batch.sigma).all() and not batch.mask.any()
    assert list(batch.meta["id"]) == ["a.txt"] and list(batch.meta["path"]) == ["a.txt"]
    assert dict(batch.arms) == {"all": slice(0, 11)}


def test_rows_of_one_file_have_ids_of_their_own():
    batch = SpectrumBatch.from_arrays(W, np.ones((2, 11)), path="a.fits")
    assert list(batch.meta["id"]) == ["a.fits#0", "a.fits#1"]


def test_decreasing_wavelengths_are_reversed_with_all_that_belongs_to_them():
    flux, sigma = np.arange(11.0), 1.0 + np.arange(11.0)
    mask = np.arange(11) == 2
    flux[4] = np.nan
    batch = SpectrumBatch.from_arrays(W[::-1], flux, sigma, mask, resolving_power=np.arange(11.0) + 1)
    straight = SpectrumBatch.from_arrays(
        W, flux[::-1], sigma[::-1], mask[::-1], resolving_power=np.arange(11.0)[::-1] + 1
    )
    assert (batch.wavelength == W).all()
    for name in ("flux", "sigma", "mask", "resolving_power"):
        assert np.array_equal(getattr(batch, name), getattr(straight, name), equal_nan=name == "flux")


@given(hnp.arrays(float, (2, 11)), hnp.arrays(float, (2, 11)))
def test_what_is_not_a_measurement_is_masked(flux, sigma):
    batch = SpectrumBatch.from_arrays(W, flux, sigma)
    assert np.isfinite(batch.flux[~batch.mask]).all()
    for i in range(2):
        if np.isnan(batch.sigma[i]).all():
            assert not (np.isfinite(sigma[i]) & (sigma[i] > 0)).any()
        else:
            good = batch.sigma[i][~batch.mask[i]]
            assert (np.isfinite(good) & (good > 0)).all()


def test_errors_of_zero_throughout_are_unknown():
    batch = SpectrumBatch.from_arrays(W, np.ones((2, 11)), np.array([[0.0], [0.1]]) * np.ones(11))
    assert np.isnan(batch.sigma[0]).all() and not batch.mask.any()
    assert batch.sigma[1] == pytest.approx(0.1)


def test_units_and_masks_of_astropy_and_numpy_are_kept():
    hidden = np.ma.array(np.ones(11), mask=np.arange(11) == 3)
    batch = SpectrumBatch.from_arrays(W / 10 * u.nm, hidden)
    assert batch.wavelength == pytest.approx(W)
    assert np.flatnonzero(batch.mask[0]).tolist() == [3]
    both = SpectrumBatch.from_arrays(W[::-1] * u.AA, hidden, mask=np.arange(11) == 5)
    assert np.flatnonzero(both.mask[0]).tolist() == [5, 7]
    with pytest.raises(ReadError, match="unknown wavelength unit 'GHz'"):
        SpectrumBatch.from_arrays(W * u.GHz, hidden)


def test_input_arrays_are_copied():
    flux, sigma, mask = np.ones(11), np.ones(11), np.zeros(11, bool)
    batch = SpectrumBatch.from_arrays(W, flux, sigma, mask)
    batch.flux[:], batch.sigma[:], batch.mask[:], batch.wavelength[:] = 5, 5, True, 5
    assert (flux == 1).all() and (sigma == 1).all() and not mask.any() and W[0] == 5000


@pytest.mark.parametrize(
    ("args", "fields", "message"),
    [
        ((W[:1], np.ones(1)), {}, r"wavelength has shape \(1,\): expected one axis with at least 2 pixels"),
        ((W[:, None], np.ones(11)), {}, r"wavelength has shape \(11, 1\)"),
        ((W, np.ones(10)), {}, "flux has 10 pixels, wavelength 11: they must agree"),
        ((W, np.ones((1, 2, 11))), {}, "flux"),
        (
            (W, np.ones(11), np.ones(10)),
            {},
            r"sigma \(1, 10\) and mask \(1, 11\) must have the shape of flux",
        ),
        ((W, np.ones(11), None, np.zeros(10)), {}, r"mask \(1, 10\) must have the shape of flux \(1, 11\)"),
        ((np.where(W > 5007, np.nan, W), np.ones(11)), {}, "3 wavelengths are not finite numbers"),
        ((W - 5001, np.ones(11)), {}, "the wavelength -1 Angstrom is not positive"),
        ((np.sort(np.r_[W[:-1], 5003]), np.ones(11)), {}, "1 wavelengths do not increase .*5003.0000"),
        ((np.r_[W[1], W[0], W[2:]], np.ones(11)), {}, "1 wavelengths do not increase .*sort the file"),
        ((W, np.ones((2, 11))), {"ids": ["a"]}, "1 ids for 2 spectra"),
        ((W, np.ones(11)), {"resolving_power": np.ones(5)}, r"resolving power has shape \(5,\)"),
        ((W, np.ones((2, 11))), {"meta": Table({"id": ["a"]})}, "meta has 1 rows for 2 spectra"),
    ],
)
def test_errors_say_what_was_found(args, fields, message):
    with pytest.raises(ReadError, match=message) as error:
        SpectrumBatch.from_arrays(*args, **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux": np.ones(11)}, r"flux has shape \(11,\), wavelength \(11,\): expected \(n_spec, n_pix\)"),
        ({"wavelength": W[1:]}, "wavelength"),
        ({"sigma": np.ones((3, 10))}, r"sigma has shape \(3, 10\), flux \(3, 11\)"),
        ({"mask": np.ones((2, 11), bool)}, r"mask has shape \(2, 11\)"),
        ({"meta": Table({"id": ["a"]})}, "meta has 1 rows for 3 spectra"),
    ],
)
def test_the_class_itself_checks_shapes(change, message):
    batch = make()
    fields = {name: getattr(batch, name) for name in ("wavelength", "flux", "sigma", "mask", "meta")}
    with pytest.raises(ReadError, match=message):
        SpectrumBatch(**{**fields, **change})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        ([], []),
        (np.array([True, False, True]), [0, 2]),
    ],
)
def test_rows(rows, expected):
    batch = make(resolving_power=20000.0, medium="vacuum")[rows]
    assert len(batch) == len(batch.meta) == len(expected)
    assert list(batch.meta["id"]) == [f"star {i}" for i in expected]
    assert batch.flux[:, 0].tolist() == [1.0 + i for i in expected]
    assert batch.medium == "vacuum" and batch.resolving_power == 20000.0


@pytest.mark.slow
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_parts_join_to_the_whole(sizes):
    whole = make(sum(sizes))
    ends = np.cumsum([0, *sizes])
    parts = [whole[i:j] for i, j in pairwise(ends)]
    joined = SpectrumBatch.concatenate(parts)
    assert np.array_equal(joined.flux, whole.flux) and np.array_equal(joined.sigma, whole.sigma)
    assert list(joined.meta["id"]) == list(whole.meta["id"])


@pytest.mark.parametrize(
    "other",
    [
        {"medium": "vacuum"},
        {"resolving_power": 30000.0},
        {"resolving_power": np.full(11, 20000.0)},
        {"arms": {"a": slice(0, 5), "b": slice(5, 11)}},
    ],
)
def test_batches_that_differ_are_not_joined(other):
    first = make(resolving_power=20000.0)
    with pytest.raises(ReadError, match="cannot be joined"):
        SpectrumBatch.concatenate([first, make(**{"resolving_power": 20000.0, **other})])
    with pytest.raises(ReadError, match="no batches"):
        SpectrumBatch.concatenate([])


def test_fill_interpolates_within_arms_and_leaves_the_batch():
    flux = np.r_[0.0, 1, 2, 3, 4, 5, 100, 100, 100, 100, 100][None]
    mask = np.zeros((1, 11), bool)
    mask[0, [0, 2, 5, 6]] = True
    batch = SpectrumBatch.from_arrays(W, flux, mask=mask, arms={"a": slice(0, 6), "b": slice(6, 11)})
    assert batch.fill()[0].tolist() == [1, 1, 2, 3, 4, 4, 100, 100, 100, 100, 100]
    assert (batch.flux == flux).all()


def test_fill_of_an_arm_without_good_pixels_is_zero():
    flux = np.full(11, np.nan)
    batch = SpectrumBatch.from_arrays(W, flux)
    assert (batch.fill() == 0).all()


def test_snr_is_per_angstrom():
    """The same light on pixels half as wide: half the signal in each, the same S/N per Angstrom."""
    coarse = SpectrumBatch.from_arrays(W, np.ones((1, 11)), np.full((1, 11), 0.01))
    fine = np.linspace(5000, 5010, 21)
    narrow = SpectrumBatch.from_arrays(fine, np.ones((1, 21)), np.full((1, 21), 0.01 * np.sqrt(2)))
    assert snr_per_angstrom(coarse, slice(None))[0] == pytest.approx(100.0)
    assert snr_per_angstrom(narrow, slice(None))[0] == pytest.approx(100.0)


def test_snr_without_good_pixels_is_zero():
    batch = make()
    batch.mask[1] = True
    batch.flux[2] = -1
    snr = snr_per_angstrom(batch, slice(None))
    assert snr[0] == pytest.approx(10.0) and snr[1] == 0 and snr[2] == 0
    assert (snr_per_angstrom(batch, np.zeros(11, bool)) == 0).all()
    assert snr_per_angstrom(batch, np.arange(11) == 4)[0] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"wavelength": None}, "wavelength is None: expected an array of numbers"),
        ({"wavelength": ["a"] * 11}, "wavelength is text"),
        ({"wavelength": (w for w in W)}, "wavelength is of type generator"),
        ({"flux": None}, "flux is None"),
        ({"flux": np.ones(11) + 1j}, "flux is complex numbers"),
        ({"flux": np.ones(11) * u.mag}, "flux is in mag: expected a linear unit"),
        ({"flux": [[1.0, 2.0], [1.0]]}, "rows of different lengths"),
        ({"flux": [object()] * 11}, "flux has items that are no numbers"),
        ({"sigma": "0.1"}, "sigma is text"),
        ({"mask": ["True"] * 11}, "mask is text: expected an array of True and False"),
        ({"error": np.ones(11)}, "error: no argument of from_arrays; expected one of sigma, mask"),
        ({"resolving_power": -5}, "resolving_power -5: expected a number above 1"),
        ({"resolving_power": np.nan}, "resolving_power nan: expected"),
        ({"resolving_power": "high"}, "resolving_power is text"),
        ({"arms": [(0, 5)]}, "arms \\[\\(0, 5\\)\\]: expected a mapping"),
        ({"meta": {"rv": 3}}, "meta is of type dict: expected an astropy Table"),
    ],
)
def test_B10_one_sentence_names_the_argument(arguments, words):
    with pytest.raises(ReadError, match=words) as error:
        SpectrumBatch.from_arrays(**{"wavelength": W, "flux": np.ones(11), **arguments})
    assert "\n" not in str(error.value)


def test_B10_what_people_mean_is_taken():
    flux = np.arange(1.0, 23.0).reshape(2, 11)
    for sigma in (0.1, np.full(11, 0.1), np.full((1, 11), 0.1)):
        assert (SpectrumBatch.from_arrays(W, flux, sigma).sigma == 0.1).all()
    assert SpectrumBatch.from_arrays(W, flux[0], ids="sun").meta["id"][0] == "sun"
    meta = SpectrumBatch.from_arrays(W, flux[0], ids=["sun"], meta=Table({"rv": [3.0]})).meta
    assert meta["id"][0] == "sun" and meta["rv"][0] == 3.0 and "path" in meta.colnames
