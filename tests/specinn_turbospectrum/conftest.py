"""What the tests of Turbospectrum share."""

from __future__ import annotations

import pytest
from specinn_turbospectrum.installation import GAIA_ESO, Installation

from specinn.errors import SynthesisError


@pytest.fixture(scope="module")
def installed() -> Installation:
    """What ``specinn synthesis setup`` installed for this user."""
    found = Installation.under()
    try:
        found.check([GAIA_ESO, "C2", "CN", "CH", "NH", "MgH"])
    except SynthesisError as error:
        pytest.skip(f"Turbospectrum is not installed ({error})")
    return found
