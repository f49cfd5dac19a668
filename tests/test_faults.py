"""Examples of faults seen with real files that no other test has by its number."""

from __future__ import annotations

import numpy as np
import pytest
from spectrum_files import write_linear_fits

import specinn
from specinn.errors import ReadError
from specinn.flags import Flag
from specinn.inference.run import example_files


@pytest.fixture(scope="module")
def star():
    (path,) = (path for path in example_files() if path.stem == "dwarf-g")
    return path


def test_B6_nanometres_that_are_angstrom(tmp_path):
    """CUNIT1 = NM with CRVAL1 = 4800: the message gives the range that was read."""
    wave = np.linspace(4800.0, 6800.0, 20_001)
    path = write_linear_fits(tmp_path / "nm.fits", wave, 1.0 + 0.01 * np.sin(wave), cunit="NM")
    with pytest.raises(ReadError, match=r"from 4800 to 6800 NM are 48000 to 68000 Angstrom"):
        specinn.read(path)


def test_D1_one_bad_item_costs_its_own_row(star, tmp_path):
    (tmp_path / "bad.fits").write_bytes(b"SIMPLE  = no")
    both = specinn.infer([str(star), str(tmp_path / "bad.fits")], samples=256).catalogue
    assert both["teff"].value[0] == pytest.approx(5790, abs=60) and not both["flag_bad"][0]
    assert int(both["flags"][1]) & Flag.NOT_READ and "bad.fits" in both["message"][1]
    assert not np.isfinite(np.ma.filled(both["teff"].value.astype(float), np.nan)[1])


def test_D11_a_wrong_resolving_power_names_what_to_say():
    from specinn_cinn.ood import ALTERATIONS

    assert "--instrument" in ALTERATIONS["blur"] and "--resolving-power" in ALTERATIONS["blur"]


def test_D12_counts_have_their_plural():
    from specinn.texts import plural

    assert (
        plural(1, "spectrum", "spectra") == "1 spectrum" and plural(2, "spectrum", "spectra") == "2 spectra"
    )
