"""Air and vacuum, units, Doppler shifts, widths of line-spread functions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specinn.errors import ReadError
from specinn.wavelengths import (
    C_KMS,
    air_to_vacuum,
    doppler,
    lsf_sigma_kms,
    to_angstrom,
    vacuum_to_air,
)

optical = st.floats(3000, 11000)


@given(optical)
def test_air_and_vacuum_are_inverse(wavelength):
    assert vacuum_to_air(air_to_vacuum(np.array([wavelength])))[0] == pytest.approx(wavelength, abs=1e-9)
    assert air_to_vacuum(vacuum_to_air(np.array([wavelength])))[0] == pytest.approx(wavelength, abs=1e-9)


@pytest.mark.parametrize(
    ("vacuum", "air"), [(5891.583, 5889.951), (6564.614, 6562.801), (3934.777, 3933.664)]
)
def test_air_wavelengths_of_known_lines(vacuum, air):
    """Na D2, H alpha, Ca II K: laboratory values (NIST), in vacuum and in air, to the milliangstrom."""
    assert vacuum_to_air(np.array([vacuum]))[0] == pytest.approx(air, abs=2e-3)


@given(optical, st.floats(-1000, 1000))
def test_doppler_shifts_undo_each_other(wavelength, velocity):
    assert doppler(doppler(wavelength, velocity), -velocity) == pytest.approx(wavelength, rel=1e-13)


def test_doppler_moves_receding_sources_to_the_red():
    assert doppler(5000.0, 30.0) == pytest.approx(5000.0 * (1 + 30.0 / C_KMS), rel=1e-8)


@pytest.mark.parametrize(
    ("unit", "factor"), [("Angstrom", 1), ("nm", 10), ("um", 1e4), (" NM ", 10), ("0.1nm", 1), ("m", 1e10)]
)
def test_units(unit, factor):
    assert to_angstrom(np.array([500.0]), unit)[0] == pytest.approx(500.0 * factor)


def test_unknown_unit():
    with pytest.raises(ReadError, match="unknown wavelength unit 'furlong': expected one of Angstrom, nm"):
        to_angstrom(np.array([1.0]), "furlong")


@given(st.floats(1000, 50000), st.floats(1.01, 3))
def test_widths_add_in_quadrature(target, ratio):
    native = target * ratio
    total = np.hypot(lsf_sigma_kms(target, native), lsf_sigma_kms(native))
    assert total == pytest.approx(lsf_sigma_kms(target), rel=1e-9)


def test_full_width_at_half_maximum_is_lambda_over_r():
    sigma = lsf_sigma_kms(20000.0)
    assert np.exp(-0.5 * (0.5 * C_KMS / 20000.0 / sigma) ** 2) == pytest.approx(0.5)


def test_sharpening_is_not_a_number():
    assert np.isnan(lsf_sigma_kms(20000.0, 10000.0))
