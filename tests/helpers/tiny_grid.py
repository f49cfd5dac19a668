"""A tiny grid of analytic spectra and a tiny instrument, for tests of the emulator and the cINN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import specinn_emulator
import specinn_preprocessing
import specinn_turbospectrum

from specinn.grids import Grid
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import InstrumentRecord, hookimpl

LABELS = ("teff", "logg", "fe_h", "vmic", "mg_fe", "a_li")
LOW = np.array([4500.0, 2.0, -1.0, 0.8, -0.3, 0.0])
HIGH = np.array([6500.0, 5.0, 0.4, 2.0, 0.3, 3.0])
NATIVE = 60_000.0
STEP = 0.05
SEGMENTS = {"green": (5160.0, 5240.0), "red": (6470.0, 6550.0)}
WAVELENGTH = np.concatenate([np.arange(low, high, STEP) for low, high in SEGMENTS.values()])
ARMS = {"green": slice(0, 1600), "red": slice(1600, 3200)}
TOML = """
name = "tiny"
summary = "Two short arms"

[[arms]]
name = "green"
range = [5176, 5224]
resolving_power = 20000
pixels = { n = 500, polynomial = [5175, 50] }

[[arms]]
name = "red"
range = [6486, 6534]
resolving_power = 20000
pixels = { n = 500, polynomial = [6485, 50] }
"""

_rng = np.random.default_rng(11)
_CENTRES = np.concatenate([_rng.uniform(low, high, 40) for low, high in SEGMENTS.values()])
_OFFSET = _rng.uniform(-2.5, 0.5, _CENTRES.size)
_RESPONSE = _rng.normal(0, 0.25, (_CENTRES.size, len(LABELS))) + np.array([-0.4, 0, 0.7, 0.1, 0, 0])
_PROFILE = np.exp(-0.5 * ((WAVELENGTH - _CENTRES[:, None]) / 0.06) ** 2)


def flux_of(values: np.ndarray, correction: np.ndarray | float = 0.0) -> np.ndarray:
    """Normalised flux ``(n, n_pix)``: lines whose strength goes smoothly with the labels.

    ``correction`` is added to the logarithms of the 80 strengths."""
    unit = 2.0 * (values - LOW) / (HIGH - LOW) - 1.0
    strength = np.exp(_OFFSET + correction + unit @ _RESPONSE.T)
    return np.exp(-np.minimum(strength, 4.0) @ _PROFILE).astype(np.float32)


def make_grid(n: int = 240, seed: int = 0, correction: np.ndarray | float = 0.0) -> Grid:
    values = np.random.default_rng(seed).uniform(LOW, HIGH, (n, len(LABELS)))
    provenance = {"code": "straight lines", "lte": True}
    return Grid(LABELS, values, np.array([f"{seed}-{i}" for i in range(n)]), WAVELENGTH, ARMS,
                lambda rows: flux_of(values[rows], correction), NATIVE, "air", provenance)  # fmt: skip


class Tiny:
    """The plugin that offers the instrument."""

    def __init__(self, folder: Path) -> None:
        self.toml = folder / "tiny.toml"
        self.toml.write_text(TOML)

    @hookimpl
    def specinn_instruments(self) -> list[InstrumentRecord]:
        return [InstrumentRecord(name="tiny", summary="Two short arms", toml=self.toml)]


def plugins(folder: Path, **more: object) -> Plugins:
    """What training needs, and nothing that happens to be installed."""
    shipped = {
        "grids": specinn_turbospectrum,
        "steps": specinn_preprocessing,
        "emulator": specinn_emulator,
    }
    return Plugins([], {"tiny": Tiny(folder), **shipped, **more})
