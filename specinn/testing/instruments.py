"""The contract of instruments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specinn.instruments import Instrument
from specinn.testing.rules import section

_require = section("instruments")


def check_instrument(path: str | Path) -> Instrument:
    """An instrument's TOML: it loads, says what it is, covers its ranges and survives a round trip."""
    instrument = Instrument.from_toml(path)
    _require(instrument.summary.strip(), f"{path}: the summary is empty")
    again = Instrument.from_dict(instrument.to_dict(), "round trip")
    _require(again == instrument, f"{path}: the instrument differs after to_dict and from_dict")
    for arm in instrument.arms:
        for low, high in arm.snr_windows:
            inside = arm.range[0] <= low < high <= arm.range[1]
            _require(inside, f"{path}: S/N window {low}-{high} is not within arm {arm.name}")
        if arm.pixels is not None:
            wavelength = arm.wavelength
            step = np.diff(wavelength).max()
            covered = wavelength[0] <= arm.range[0] + step and wavelength[-1] >= arm.range[1] - step
            _require(covered, f"{path}: the pixels of arm {arm.name} do not reach over its range")
    return instrument
