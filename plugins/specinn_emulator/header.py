"""What the headers of all emulators have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from specinn.plugins import ModelError, Synthesizer

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


def header_of(emulator: Synthesizer, header: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The header of a file: what is known of the training, what describes the spectra, and ``more``."""
    return {
        **header,
        "format": FORMAT,
        "version": 1,
        "labels": list(emulator.labels),
        "axes": axes_of(emulator.wavelength, emulator.arms),
        "bounds": np.asarray(emulator.bounds).tolist(),
        "resolving_power": emulator.resolving_power,
        "medium": emulator.medium,
        **more,
    }


def spectra_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an emulator that its header describes."""
    return {
        "labels": tuple(header["labels"]),
        "bounds": np.array(header["bounds"]),
        "wavelength": np.concatenate([axis_of(**axis) for axis in header["axes"]]),
        "arms": {axis["name"]: slice(*axis["slice"]) for axis in header["axes"]},
        "resolving_power": header["resolving_power"],
        "medium": header["medium"],
        "header": dict(header),
    }


def physics_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The physics of the grid in the header of an emulator."""
    grid = header.get("grid", {})
    physics = {key: value for key, value in grid.get("provenance", {}).items() if not isinstance(value, list)}
    code = f"emulator of {physics.get('code', 'an unknown code')} (grid {grid.get('hash', 'unknown')})"
    return {**physics, "code": code}
