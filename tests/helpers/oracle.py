"""An estimator that knows the labels of every star, the synthesizer of its spectra, and such spectra."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fake_plugin
import numpy as np
import tiny_grid
from astropy.table import Table
from safetensors.numpy import save_file

from specinn import models
from specinn.instruments import Instrument
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import EstimatorRecord, Record, hookimpl
from specinn.plugins.interfaces import Estimator, Synthesizer, Templates
from specinn.posterior import Posterior
from specinn.simulation.model_spectra import Models
from specinn.spectra import SpectrumBatch
from specinn.spectra.resample import pixel_widths
from specinn.wavelengths import doppler

TRUTH = {
    "dwarf": [5700.0, 4.4, -0.1, 1.0, 0.05, 1.2],
    "giant": [4700.0, 2.3, -0.6, 1.5, 0.2, 0.4],
    "warm": [6300.0, 4.0, 0.1, 1.7, -0.05, 2.4],
}


WIDTH = np.array([30.0, 0.05, 0.03, 0.05, 0.03, 0.2])  # of the posteriors


LABELS = LabelSet(
    tuple(
        make_label(n, b)
        for n, b in zip(tiny_grid.LABELS, zip(tiny_grid.LOW, tiny_grid.HIGH, strict=True), strict=True)
    )
)


VELOCITY = 25.0


class Oracle(Estimator):
    """Knows the labels of every star by its id, and draws around them."""

    labels = LABELS
    preprocessing = (("mask", {"bands": ()}), ("rest-frame", {}), ("to-arms", {}), ("continuum", {}))

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header
        self.instrument = Instrument.from_dict(header["instrument"])
        flux = tiny_grid.flux_of(np.array([TRUTH["dwarf"]]))
        self.templates = Templates(tiny_grid.WAVELENGTH, flux, tiny_grid.ARMS, 20000.0)

    @classmethod
    def train(cls, config: Mapping[str, Any], folder: Path, progress: Callable[..., None]) -> Oracle:
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Oracle:
        return cls(models.read_header(path))

    def save(self, path: Path) -> None:
        save_file({"none": np.zeros(1)}, path, metadata={"specinn": json.dumps(self.header)})

    @property
    def used_pixels(self) -> np.ndarray:
        return super().used_pixels & (np.abs(self.instrument.wavelength - 5200.0) > 1.0)

    def sample(self, batch: SpectrumBatch, n_samples: int, seed: int) -> Posterior:
        z = np.stack(
            [np.random.default_rng([seed, int(k)]).normal(size=(n_samples, 6)) for k in batch.meta["key"]]
        )
        truth = np.array([TRUTH[name] for name in batch.meta["id"]])
        return Posterior(LABELS, truth[:, None] + WIDTH * z, -0.5 * (z**2).sum(axis=2))

    def log_prob(self, batch: SpectrumBatch, labels: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Analytic(Synthesizer):
    """The spectra of tiny_grid, and two elements without lines."""

    labels = (*tiny_grid.LABELS, "o_fe", "ni_fe")
    bounds = np.column_stack([[*tiny_grid.LOW, -0.4, -0.3], [*tiny_grid.HIGH, 0.4, 0.3]])
    wavelength, arms = tiny_grid.WAVELENGTH, tiny_grid.ARMS
    resolving_power, medium = tiny_grid.NATIVE, "air"
    broken = False

    def __call__(self, labels: Any) -> Any:
        if self.broken:
            raise RuntimeError("the code crashed")
        return tiny_grid.flux_of(np.asarray(labels)[:, :6])


class Offers:
    def __init__(self, model: Path) -> None:
        self.model = model

    @hookimpl
    def specinn_estimators(self) -> list[EstimatorRecord]:
        return [EstimatorRecord(name="oracle", summary="", factory="oracle:Oracle",
                                models={"knows": self.model})]  # fmt: skip

    @hookimpl
    def specinn_synthesizers(self) -> list[Record]:
        return [Record(name="analytic", summary="", factory="oracle:Analytic")]


class Text:
    """The reader of fake_plugin, without its preprocessors."""

    specinn_instruments = staticmethod(fake_plugin.specinn_instruments)


def plugins_in(folder: Path) -> Plugins:
    """The instrument of tiny_grid, the synthesizer, and the model ``knows``, a file in ``folder``."""
    plain = tiny_grid.plugins(folder, text=Text())
    toml = Instrument.from_toml(plain.record("instrument", "tiny").toml)
    model = folder / "knows.safetensors"
    header = {"format": "specinn model", "version": 1, "estimator": "oracle", "name": "knows",
              "labels": LABELS.to_dicts(), "instrument": toml.to_dict()}  # fmt: skip
    Oracle(header).save(model)
    result = tiny_grid.plugins(folder, text=Text(), oracle=Offers(model))
    assert not result.failures
    return result


def observe(path: Path, names: list[str], snr: float, on: Instrument | None = None) -> Path:
    """Spectra over a sloping continuum in counts, at R = 60 000 and moving at 25 km/s, or at rest as an
    instrument would record them: then their noise stays independent. S/N per Angstrom."""
    values, velocity = np.array([TRUTH[name] for name in names]), 0.0 if on else VELOCITY
    wave, power = (on.wavelength, 20000.0) if on else (tiny_grid.WAVELENGTH, tiny_grid.NATIVE)
    flux = Models(Analytic(), on)(values, LABELS.names) if on else tiny_grid.flux_of(values)
    wave = doppler(wave, velocity)
    slope = 4000.0 * (1.0 + 0.3 * np.sin((wave - 5000.0) / 120.0))
    sigma = np.broadcast_to(1.0 / (snr * np.sqrt(pixel_widths(wave))), flux.shape)
    flux = flux + sigma * np.random.default_rng(5).normal(size=sigma.shape)
    meta = Table({"id": names, "path": [""] * len(names), "rv": [velocity] * len(names)})
    batch = SpectrumBatch(wave, flux * slope, sigma * slope, np.zeros(flux.shape, bool), power, meta=meta)
    return fake_plugin.write_text(path, batch)
