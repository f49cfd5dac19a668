"""Synthesizers for tests of ``specinn grid make``, found by entry point in every process.

``lines`` is exact and has no torch; it fails where its table says. ``slow-emulator`` is the bundled emulator,
with ``GRID_PAUSE`` seconds a spectrum. A process of ``lines`` is killed over a star with
Teff above ``GRID_DEADLY``, as often as the file ``GRID_LIVES`` has characters.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np

from specinn.config import structure
from specinn.errors import SpecinnError
from specinn.plugins.hookspecs import Record, hookimpl
from specinn.plugins.interfaces import Synthesizer


@hookimpl
def specinn_synthesizers() -> list[Record]:
    return [
        Record(name="lines", summary="Gaussian lines", factory="grid_plugin:Lines"),
        Record(name="slow-emulator", summary="", factory="grid_plugin:slow_emulator"),
    ]


def install(folder: Path) -> str:
    return fake_plugin.install("grid_plugin", folder)


@attrs.frozen
class Settings:
    first: float = 5150.0
    last: float = 5160.0
    fail_above: float = 1e6  # Teff
    nan_below: float = -1e6  # [Fe/H]
    bright_below: float = -1e6  # logg
    version: str = "1.0"


class Lines(Synthesizer):
    """A line a label, whose depth it sets, in two pieces of wavelength."""

    labels = ("teff", "logg", "fe_h", "mg_fe")
    bounds = np.array([[4000.0, 7000.0], [0.0, 5.0], [-3.0, 0.5], [-0.5, 1.0]])
    resolving_power = 50_000.0
    medium = "air"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        blue = np.arange(settings.first, settings.last, 0.03)
        self.wavelength = np.concatenate([blue, blue + 50])
        self.arms = {"blue": slice(0, blue.size), "red": slice(blue.size, 2 * blue.size)}
        centres = settings.first + (settings.last - settings.first) * np.array([0.2, 0.4, 0.6, 0.8])
        centres = np.concatenate([centres, centres + 50])
        self.profile = np.exp(-0.5 * ((self.wavelength - np.tile(centres, 1)[:, None]) / 0.1) ** 2)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], labels: Sequence[str]) -> Lines:
        return cls(structure(dict(config), Settings, "[synthesizer]"))

    @property
    def provenance(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {
            "code": "lines",
            "version": self.settings.version,
            "nlte": {"Ca": "atom.ca105b", "Mg": "LTE"},
            "atmospheres": "none",
            "line_lists": {"four": "0123456789abcdef" * 4},
            "solar_scale": "Magg et al. 2022",
        }

    def __call__(self, labels: Any) -> np.ndarray:
        values = np.asarray(labels, float)
        time.sleep(float(os.environ.get("GRID_PAUSE_LINES", 0)))
        low, high = self.bounds.T
        if (values[:, 0] > float(os.environ.get("GRID_DEADLY", "inf"))).any():
            lives = Path(os.environ["GRID_LIVES"])
            if left := lives.read_text():
                lives.write_text(left[1:])
                os.kill(os.getpid(), signal.SIGKILL)
        if (values[:, 0] > self.settings.fail_above).any():
            raise SpecinnError(f"no atmosphere at {values[0, 0]:.0f} K;\nthe log ends with: STOP, really")
        depth = 0.1 + 0.7 * (values - low) / (high - low)
        flux = 1.0 - np.tile(depth, 2) @ self.profile
        flux[values[:, 2] < self.settings.nan_below, 7] = np.nan
        flux[values[:, 1] < self.settings.bright_below] *= 1.4
        return flux


class slow_emulator(Synthesizer):
    """The bundled emulator, slowly."""

    @staticmethod
    def from_config(config: Mapping[str, Any], labels: Sequence[str]) -> Any:
        from specinn_emulator.emulator import Emulator

        class Slow(Emulator):
            def __call__(self, labels: Any) -> Any:
                time.sleep(float(os.environ.get("GRID_PAUSE", 0)))
                return super().__call__(labels)

        return Slow.from_config(config, labels)
