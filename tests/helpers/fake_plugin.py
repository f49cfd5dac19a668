"""A whole plugin in miniature: an instrument, a reader, preprocessors, and an estimator that is exact.

Spectra are linear in the labels, flux = mean + sum_k t_k response_k with t the label within its bounds
(-0.5 to 0.5, in the network's variables), so with Gaussian errors and a Gaussian prior of standard
deviation 1 on t the posterior is a Gaussian in closed form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from safetensors.numpy import load_file, save_file

from specinn.flags import Flag
from specinn.instruments import Instrument
from specinn.labels import LabelSet, make_label
from specinn.plugins.hookspecs import EstimatorRecord, InstrumentRecord, ReaderRecord, Record, hookimpl
from specinn.plugins.interfaces import Estimator, Preprocessor, Reader, Templates
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch, snr_per_angstrom
from specinn.spectra.resample import apply_resampling, pixel_widths, resampling_matrix
from specinn.wavelengths import doppler

TOML = Path(__file__).with_name("toy.toml")
MODELS: dict[str, Path] = {}  # filled by the fixture that trains the model
LABELS = LabelSet(
    (
        make_label("teff", (4000, 7000)),
        make_label("logg", (0, 5)),
        make_label("fe_h", (-2.5, 0.5)),
        make_label("a_li", (0, 4)),
    )
)
WAVELENGTH = np.concatenate([np.arange(5140, 5220, 0.08), np.arange(6080, 6160, 0.08)])
RESOLVING_POWER = (
    5000.0  # that of the model: convolution would correlate the noise, and the posterior be inexact
)
CENTRES = {"teff": (5165, 6105), "logg": (5173, 6113), "fe_h": (5184, 6124), "a_li": (5194, 6134)}


@hookimpl
def specinn_instruments() -> list[InstrumentRecord | ReaderRecord]:
    return [
        InstrumentRecord(name="toy", summary="Two short arms for fast tests", toml=TOML),
        ReaderRecord(name="toy-text", summary="columns of text", factory="fake_plugin:ToyReader"),
    ]


@hookimpl
def specinn_preprocessors() -> list[Record]:
    return [
        Record(name="rest-frame", summary="shift to rest", factory="fake_plugin:RestFrame"),
        Record(name="to-arms", summary="resample", factory="fake_plugin:ToArms"),
        Record(name="degrade-snr", summary="add noise", factory="fake_plugin:DegradeSnr"),
    ]


@hookimpl
def specinn_estimators() -> list[EstimatorRecord]:
    return [EstimatorRecord(name="toy", summary="exact and linear", factory="fake_plugin:Toy", models=MODELS)]


def install(module: str, folder: Path) -> str:
    """Make the plugin of a module here one that is installed in ``folder``; the PYTHONPATH that finds it."""
    info = folder / f"{module}-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[specinn]\n{module} = {module}\n")
    helpers = Path(__file__).parent
    return os.pathsep.join(str(path) for path in (folder, helpers, helpers.parents[1]))


def to_unit(labels: np.ndarray) -> np.ndarray:
    """Physical labels to t."""
    low, high = LABELS.to_network(LABELS.bounds.T)
    return (LABELS.to_network(labels) - low) / (high - low) - 0.5


def from_unit(t: np.ndarray) -> np.ndarray:
    low, high = LABELS.to_network(LABELS.bounds.T)
    return LABELS.from_network((t + 0.5) * (high - low) + low)


def noiseless(labels: np.ndarray, rv: float = 0.0) -> np.ndarray:
    """Flux ``(n_spec, n_pix)`` on ``WAVELENGTH``: two lines a label, whose depth it sets."""
    depth = 0.4 + 0.4 * to_unit(np.atleast_2d(labels))
    flux = np.ones((len(depth), WAVELENGTH.size))
    for k, name in enumerate(LABELS.names):
        for centre in CENTRES[name]:
            profile = np.exp(-0.5 * ((WAVELENGTH - doppler(centre, rv)) / 0.3) ** 2)
            flux -= depth[:, k : k + 1] * profile
    return flux


def simulate(labels: Any, snr: float = 200.0, seed: int = 1, rv: float = 0.0) -> SpectrumBatch:
    """Noisy spectra; S/N per Angstrom."""
    flux = noiseless(np.asarray(labels, float), rv)
    sigma = np.full_like(flux, 1.0 / (snr * np.sqrt(0.08)))
    flux = flux + sigma * np.random.default_rng(seed).normal(size=flux.shape)
    ids = [f"star-{i}" for i in range(len(flux))]
    batch = SpectrumBatch.from_arrays(WAVELENGTH, flux, sigma, ids=ids, resolving_power=RESOLVING_POWER)
    batch.meta["rv"] = np.full(len(flux), rv)
    return batch


def write_text(path: Path, batch: SpectrumBatch) -> Path:
    """A header line of JSON, then wavelength, flux, sigma, flux, sigma, ..."""
    power = batch.resolving_power
    header = {
        "format": "toy",
        "id": list(batch.meta["id"]),
        "R": power,
        "rv": [float(v) for v in batch.meta["rv"]],
    }
    pairs = np.stack([batch.flux, batch.sigma], axis=1).reshape(-1, batch.wavelength.size)
    np.savetxt(path, np.vstack([batch.wavelength, pairs]).T, header=json.dumps(header))
    return path


class ToyReader(Reader):
    def recognises(self, path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(20).startswith(b'# {"format": "toy"')

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with path.open() as file:
            header = json.loads(file.readline()[1:])
        table = np.loadtxt(path).T
        batch = SpectrumBatch.from_arrays(
            table[0], table[1::2], table[2::2], ids=header["id"], path=str(path), resolving_power=header["R"]
        )
        batch.meta["rv"] = header["rv"]
        yield batch


class RestFrame(Preprocessor):
    """``velocity``: a number for all, ``"auto"`` to measure always, None to measure where meta has no rv."""

    stage = "velocity"
    takes_velocity = True

    def __init__(
        self, instrument: Instrument, templates: Templates, velocity: float | str | None = None
    ) -> None:
        self.templates, self.velocity = templates, velocity

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        meta = batch.meta.copy()
        if isinstance(self.velocity, float):
            meta["rv"] = self.velocity
        elif self.velocity == "auto":
            meta["rv"] = np.nan
        unknown = ~np.isfinite(np.asarray(meta["rv"], float))
        flux, sigma, mask = batch.flux.copy(), batch.sigma.copy(), batch.mask.copy()
        for i in range(len(batch)):
            if unknown[i]:
                meta["rv"][i] = self._measure(batch, i)
            rest = doppler(batch.wavelength, -meta["rv"][i])
            for out, values in ((flux, batch.flux), (sigma, batch.sigma)):
                out[i] = np.interp(batch.wavelength, rest, values[i])
            mask[i] = np.interp(batch.wavelength, rest, batch.mask[i].astype(float)) > 0
        meta["flags"] = np.where(unknown, meta["flags"] | np.uint32(Flag.RV_MEASURED), meta["flags"])
        return attrs.evolve(batch, flux=flux, sigma=sigma, mask=mask, meta=meta)

    def _measure(self, batch: SpectrumBatch, i: int) -> float:
        velocities = np.arange(-100.0, 101.0)
        template = self.templates
        shifted = np.array(
            [
                np.interp(batch.wavelength, doppler(template.wavelength, v), template.flux[0])
                for v in velocities
            ]
        )
        misfit = np.where(batch.mask[i], 0.0, (shifted - batch.flux[i]) ** 2).sum(axis=1)
        return float(velocities[misfit.argmin()])


class ToArms(Preprocessor):
    stage = "pixels"

    def __init__(self, instrument: Instrument, templates: Templates) -> None:
        self.instrument = instrument

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        parts = []
        for arm in self.instrument.arms:
            power = arm.resolving_power.at(arm.wavelength)
            matrix = resampling_matrix(batch.wavelength, batch.resolving_power, arm.wavelength, power)
            widths = pixel_widths(batch.wavelength), pixel_widths(arm.wavelength)
            parts.append(apply_resampling(matrix, widths, batch.flux, batch.sigma, batch.mask))
        flux, sigma, mask = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
        sigma = np.where(mask, 1.0, sigma)
        out = SpectrumBatch(self.instrument.wavelength, flux, sigma, mask, meta=batch.meta.copy(),
                            arms=self.instrument.slices, medium=batch.medium)  # fmt: skip
        for name, arm in self.instrument.slices.items():
            out.meta[f"snr_{name}"] = snr_per_angstrom(out, arm)
        return out


class DegradeSnr(Preprocessor):
    stage = "noise"

    def __init__(self, instrument: Instrument, templates: Templates, snr: float, seed: int) -> None:
        self.instrument, self.snr, self.seed = instrument, snr, seed

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        target = 1.0 / (self.snr * np.sqrt(42.0 / 159.0))
        extra = np.sqrt(np.clip(target**2 - batch.sigma**2, 0.0, None))
        noise = [
            np.random.default_rng([self.seed, int(row)]).normal(size=batch.wavelength.size)
            for row in batch.meta["key"]
        ]
        out = attrs.evolve(
            batch, flux=batch.flux + extra * noise, sigma=np.hypot(batch.sigma, extra), meta=batch.meta.copy()
        )
        for name, arm in self.instrument.slices.items():
            out.meta[f"snr_{name}"] = snr_per_angstrom(out, arm)
        return out


class Toy(Estimator):
    def __init__(self, tensors: Mapping[str, np.ndarray], header: dict[str, Any]) -> None:
        self.mean, self.response = tensors["mean"], tensors["response"]
        self.header = header
        self.labels = LabelSet.from_dicts(header["labels"])
        self.instrument = Instrument.from_dict(header["instrument"])
        self.preprocessing = tuple((name, dict(options)) for name, options in header["preprocessing"])
        mean = noiseless(from_unit(np.zeros((1, 4))))
        self.templates = Templates(WAVELENGTH, mean, {"all": slice(0, WAVELENGTH.size)}, RESOLVING_POWER)

    @classmethod
    def train(
        cls, config: Mapping[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None]
    ) -> Toy:
        """Regression of simulated spectra on t."""
        n = int(config.get("n", 40))
        t = np.random.default_rng(0).uniform(-0.5, 0.5, (n, len(LABELS)))
        batch = simulate(from_unit(t), snr=1e6)
        instrument = Instrument.from_toml(TOML)
        flux = ToArms(instrument, None)(batch).flux  # type: ignore[arg-type]
        solution, *_ = np.linalg.lstsq(np.column_stack([np.ones(n), t]), flux, rcond=None)
        progress({"epoch": 1, "epochs": 1, "loss": 0.0})
        header = {
            "format": "specinn model",
            "version": 1,
            "estimator": "toy",
            "name": "toy-model",
            "labels": LABELS.to_dicts(),
            "instrument": instrument.to_dict(),
            "preprocessing": [["rest-frame", {}], ["to-arms", {}]],
            "grid": {"code": "straight lines", "n_spectra": n},
            "training": {"snr_range": [10.0, 1000.0]},
            "metrics": {"snr_250": {name: {"mean": 0.0, "std": 0.01} for name in LABELS.names}},
            "versions": {"specinn": "0"},
        }
        return cls({"mean": solution[0], "response": solution[1:]}, header)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Toy:
        from specinn.models import read_header

        if device != "cpu":
            raise RuntimeError(f"no device {device}")
        return cls(load_file(path), read_header(path))

    def save(self, path: Path) -> None:
        save_file(
            {"mean": self.mean, "response": self.response},
            path,
            metadata={"specinn": json.dumps(self.header)},
        )

    def _gaussian(self, batch: SpectrumBatch, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of t."""
        weight = np.where(batch.mask[i], 0.0, 1.0 / batch.sigma[i] ** 2)
        covariance = np.linalg.inv((self.response * weight) @ self.response.T + np.eye(len(self.labels)))
        return covariance @ (self.response @ (weight * (batch.flux[i] - self.mean))), covariance

    def sample(self, batch: SpectrumBatch, n_samples: int, seed: int) -> Posterior:
        samples = np.empty((len(batch), n_samples, len(self.labels)), np.float32)
        for i, row in enumerate(batch.meta["key"]):
            mean, covariance = self._gaussian(batch, i)
            normal = np.random.default_rng([seed, int(row)]).normal(size=(n_samples, mean.size))
            samples[i] = from_unit(mean + normal @ np.linalg.cholesky(covariance).T)
        return Posterior(self.labels, samples, self.log_prob(batch, samples).astype(np.float32))

    def log_prob(self, batch: SpectrumBatch, labels: np.ndarray) -> np.ndarray:
        low, high = LABELS.to_network(LABELS.bounds.T)
        out = np.empty(labels.shape[:2])
        for i in range(len(batch)):
            mean, covariance = self._gaussian(batch, i)
            offset = to_unit(labels[i].astype(float)) - mean
            _, determinant = np.linalg.slogdet(2 * np.pi * covariance)
            out[i] = -0.5 * (offset * np.linalg.solve(covariance, offset.T).T).sum(axis=1) - 0.5 * determinant
        return out - np.log(high - low).sum()
