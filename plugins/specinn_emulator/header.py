"""What the headers of all emulators have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from specinn.plugins import ModelError

FORMAT = "specinn emulator"


def axis_of(first: float, last: float, slice: list[int], name: str) -> np.ndarray:
    """The wavelengths of an arm, from its entry in a header."""
    return np.linspace(first, last, slice[1] - slice[0])


def axes_of(wavelength: np.ndarray, arms: Mapping[str, slice]) -> list[dict[str, Any]]:
    """The entries of arms in a header. Raises ``ModelError`` where steps are not uniform."""
    axes: list[dict[str, Any]] = [
        {"name": name, "slice": [arm.start, arm.stop], "first": float(wavelength[arm][0]),
         "last": float(wavelength[arm][-1])}
        for name, arm in arms.items()
    ]  # fmt: skip
    for axis in axes:
        if not np.allclose(axis_of(**axis), wavelength[slice(*axis["slice"])], rtol=0, atol=1e-6):
            raise ModelError("the emulator stores uniform wavelength steps only: resample the grid on import")
    return axes


def physics_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The physics of the grid in the header of an emulator."""
    grid = header.get("grid", {})
    physics = {key: value for key, value in grid.get("provenance", {}).items() if not isinstance(value, list)}
    code = f"emulator of {physics.get('code', 'an unknown code')} (grid {grid.get('hash', 'unknown')})"
    return {**physics, "code": code}
