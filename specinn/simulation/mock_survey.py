"""Simulated surveys of any size, in the layout of 4MOST level-1 files of many spectra.

They serve timing and rehearsals: stars from a simple prior, spectra from the emulator, noise from the
simulator. A star is the same whatever the size of the survey, and the same seed gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs
import numpy as np
import torch
from astropy.io import fits

from specinn.errors import ConfigError, OutputError
from specinn.files import replacing, write_error
from specinn.instruments import Instrument, PixelGrid
from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.observer import ModelGrid, Observer
from specinn.training.checkpoint import fingerprint

if TYPE_CHECKING:
    from specinn.plugins import Plugins

__all__ = ["PER_FILE", "STEP", "SimulatedSurvey", "draw_stars", "telescope"]

PER_FILE = 800  # about the fibres of the high-resolution spectrograph
STEP = 0.1  # Angstrom; as many pixels in the arms as the detectors have
_LAYOUT = 1  # to be incremented with every change of the files
_BLOCK = 50  # stars drawn and observed at a time: a star depends on its number and not on the file
_FITS = 2880
_VELOCITY = 150.0  # km/s at most: model spectra reach 200 km/s beyond the arms
_SCALE = (1e-15, 1e-13)  # of the flux, erg / (s cm2 Angstrom)
_ALPHA = ("ca_fe", "mg_fe", "si_fe", "ti_fe", "o_fe")


def telescope(
    plugins: Plugins, instrument: Instrument, synthesizer: str = "emulator"
) -> tuple[Any, Observer]:
    """The synthesizer of that name, as its plugin provides it, on the model grid of an instrument, and the
    observer of its spectra."""
    emulator = plugins.load("synthesizer", synthesizer).load()
    grid = ModelGrid.of(instrument, emulator.wavelength, emulator.arms)
    operator = grid.operator(emulator.wavelength, emulator.arms, emulator.resolving_power)
    return emulator.resampled(grid.wavelength, dict(grid.arms), operator), Observer(instrument, grid)


def draw_stars(n: int, names: Iterable[str], bounds: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """``n`` dwarfs and giants: labels ``names``, within ``bounds (n_labels, 2)``, and vbroad, rv (km/s) and
    S/N per Angstrom (log-uniform from 20 to 300). Each value is ``(n,)``."""
    giant = rng.random(n) < 0.4
    teff = np.where(giant, rng.uniform(4000.0, 5200.0, n), rng.uniform(4500.0, 6700.0, n))
    logg = np.where(giant, 1.0 + (teff - 4000.0) / 520.0, 4.6 - (teff - 4500.0) / 4400.0)
    logg = logg + 0.15 * rng.standard_normal(n)
    fe_h = -0.4 + 0.5 * rng.standard_normal(n)
    vmic = 1.1 + 1e-4 * (teff - 5500.0) + 0.3 * (4.4 - logg) + 0.1 * rng.standard_normal(n)
    a_li = np.where(giant, rng.uniform(-0.3, 1.5, n), rng.uniform(0.5, 3.0, n))
    values = {"teff": teff, "logg": logg, "fe_h": fe_h, "vmic": vmic, "a_li": a_li}
    plateau = (-0.35 * fe_h).clip(0.0, 0.35)
    stars: dict[str, Any] = {}
    for name, (low, high) in zip(names, bounds, strict=True):
        value = values.get(name)
        if value is None:
            value = (plateau if name in _ALPHA else 0.0) + 0.08 * rng.standard_normal(n)
        margin = 0.02 * (high - low)
        stars[name] = np.clip(value, low + margin, high - margin)
    stars["vbroad"] = np.exp(rng.uniform(np.log(1.5), np.log(30.0), n))
    stars["rv"] = (50.0 * rng.standard_normal(n)).clip(-_VELOCITY, _VELOCITY)
    stars["snr"] = np.exp(rng.uniform(np.log(20.0), np.log(300.0), n))
    return stars


class SimulatedSurvey:
    """Spectra number 0, 1, 2, ... of the survey with that ``seed``.

    ``instrument`` is the one observed (its arms must lie within the emulator's), by default 4MOST HR. Its
    pixels are replaced by those of a linear axis.

    Raises ``ModelError`` where the emulator does not cover an arm, ``ConfigError`` for a negative seed.
    """

    def __init__(self, plugins: Plugins, instrument: Instrument | None = None, seed: int = 0) -> None:
        if seed < 0:
            raise ConfigError(f"seed {seed}: expected a number that is not negative")
        if instrument is None:
            instrument = Instrument.from_toml(plugins.record("instrument", "4most-hr").toml)
        self.seed, self.first = seed, min(arm.range[0] for arm in instrument.arms)
        self.n_pix = int((max(arm.range[1] for arm in instrument.arms) - self.first) / STEP + 1e-6) + 1
        self.instrument = attrs.evolve(instrument, arms=tuple(map(self._on_axis, instrument.arms)))
        self.emulator, self.observer = telescope(plugins, self.instrument)
        plan = Disturbances(gaps=0, arm_loss=0.0, snr_arm_scatter=0.0)
        self.noise = Noise(self.instrument, plan)
        self.pixels = np.concatenate([np.round((arm.wavelength - self.first) / STEP).astype(int)
                                      for arm in self.instrument.arms])  # fmt: skip
        self.row = np.dtype([("FLUX", ">f4", (self.n_pix,)), ("FLUX_IVAR", ">f4", (self.n_pix,)),
                             ("QUAL", ">i4", (self.n_pix,)), ("SPECUID", ">i8")])  # fmt: skip
        what = [_LAYOUT, seed, STEP, self.instrument.to_dict(), attrs.asdict(plan), self.emulator.header]
        self.identity = fingerprint(what)

    def _on_axis(self, arm: Any) -> Any:
        """The arm with the pixels of the common axis that lie within its range."""
        low = int(np.ceil((arm.range[0] - self.first) / STEP - 1e-6))
        high = int(np.floor((arm.range[1] - self.first) / STEP + 1e-6))
        return attrs.evolve(
            arm, pixels=PixelGrid(high - low + 1, (self.first + STEP * low, STEP * (high - low)))
        )

    def write(
        self,
        n: int,
        folder: str | Path,
        per_file: int = PER_FILE,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Path]:
        """The files of the first ``n`` spectra, ``per_file`` in each; ``progress`` is called with the number
        written.

        Existing complete files of this survey are kept. A file appears whole or not at all. Raises
        ``OutputError`` where one cannot be written, or where another file has its name, and ``ConfigError``
        for numbers below 1.
        """
        for name, number in (("spectra", n), ("per_file", per_file)):
            if number < 1:
                raise ConfigError(f"{name} {number}: expected a number above 0")
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        parts = [
            (folder / f"survey-{self.seed}-{number:05d}.fits", first, min(per_file, n - first))
            for number, first in enumerate(range(0, n, per_file))
        ]
        missing = [part for part in parts if not self._is_there(*part)]
        needed = sum(size for *_, size in missing) * self.row.itemsize
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OutputError(
                f"{folder}: the survey takes {needed / 1e9:.1f} GB more, but the disk has {free / 1e9:.1f} "
                "GB: free some space or choose another folder"
            )
        done = n - sum(size for *_, size in missing)
        for path, first, size in missing:
            with replacing(path) as temporary, temporary.open("wb") as file:
                self._write(file, first, size)
            done += size
            progress(done)
        return [path for path, *_ in parts]

    def _is_there(self, path: Path, first: int, size: int) -> bool:
        if not path.exists():
            return False
        try:
            header = fits.getheader(path)
        except OSError:
            header = fits.Header()
        if header.get("SURVEY") is None:
            raise OutputError(
                f"{path} is not a file of a simulated survey: move it away or choose another folder"
            )
        values = tuple(header.get(key) for key in ("SURVEY", "FIRST", "SPECTRA", "BYTES"))
        return values == (self.identity, first, size, path.stat().st_size)

    def _write(self, file: BinaryIO, first: int, size: int) -> None:
        primary = fits.PrimaryHDU()
        primary.header.update({"ORIGIN": "specinn", "INSTRUME": "QMOST", "SPECSYS": "HELIOCEN",
                               "SPEC_RES": 20_000.0, "SURVEY": self.identity, "FIRST": first,
                               "SPECTRA": size, "BYTES": 0})  # fmt: skip
        primary.header["COMMENT"] = "Simulated by specinn.simulation.mock_survey; not an observation."
        file.write(primary.header.tostring().encode("ascii"))
        _write_table(file, "OBMETATAB", [_observation()])
        axis = {"1CTYP1": "AWAV", "1CUNI1": "Angstrom", "1CRVL1": self.first, "1CDLT1": STEP, "1CRPX1": 1.0,
                "TUNIT1": "erg/(s*cm^2*Angstrom)"}  # fmt: skip
        stars: list[np.ndarray] = []
        _write_table(file, "SPECTAB", self._rows(first, size, stars), axis, self.row, size)
        truth = np.concatenate(stars)
        _write_table(file, "FIBMETATAB", [_fibres(truth)])
        _write_table(file, "TRUTH", [truth])
        primary.header["BYTES"] = file.tell()
        file.seek(0)
        file.write(primary.header.tostring().encode("ascii"))

    def _rows(self, first: int, size: int, truth: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Rows of SPECTAB for the stars ``first`` to ``first + size``, a block at a time; those of TRUTH are
        appended to ``truth``."""
        for number in range(first // _BLOCK, (first + size - 1) // _BLOCK + 1):
            start = number * _BLOCK
            wanted = slice(max(first - start, 0), min(first + size - start, _BLOCK))
            rows, stars = self.block(number)
            truth.append(stars[wanted])
            yield rows[wanted]

    @torch.no_grad()
    def block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of SPECTAB and of TRUTH (labels, vbroad, rv, snr, by SPECUID) of a block of stars."""
        rng = np.random.default_rng([self.seed, number])
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        emulator = self.emulator
        drawn = draw_stars(_BLOCK, emulator.labels, emulator.bounds, rng)
        uid = number * _BLOCK + np.arange(_BLOCK)
        labels = torch.as_tensor(np.stack([drawn[name] for name in emulator.labels], axis=1)).float()
        vbroad, rv, snr = (torch.as_tensor(drawn[name]).float() for name in ("vbroad", "rv", "snr"))
        model = self.observer(emulator(labels), vbroad, rv)
        level = snr[:, None].expand(-1, len(self.instrument.arms))
        flux, sigma, _, _ = self.noise(model, generator, level)
        scale = np.exp(rng.uniform(np.log(_SCALE[0]), np.log(_SCALE[1]), (_BLOCK, 1)))
        rows = np.zeros(_BLOCK, self.row)
        rows["QUAL"] = 1  # between the arms, where flux and inverse variance are 0
        rows["FLUX"][:, self.pixels] = flux.numpy() * scale
        rows["FLUX_IVAR"][:, self.pixels] = (sigma.numpy() * scale) ** -2.0
        rows["QUAL"][:, self.pixels] = 0
        rows["SPECUID"] = uid
        stars = np.zeros(_BLOCK, [("SPECUID", ">i8"), *((name, ">f8") for name in drawn)])
        stars["SPECUID"] = uid
        for name, values in drawn.items():
            stars[name] = values
        return rows, stars


def _observation() -> np.ndarray:
    kinds = [("MEDSNR", ">f4"), ("EXPTIME", ">f4"), ("MJD-OBS", ">f8")]
    return np.array([(80.0, 1200.0, 61_000.0)], kinds)


def _fibres(stars: np.ndarray) -> np.ndarray:
    kinds = [("SPECUID", ">i8"), ("OBJ_UID", ">i8"), ("OBJ_NME", "S30"), ("FIB_USE", ">i4"),
             ("FIB_ROOT", ">i4"), ("SNR", ">f4")]  # fmt: skip
    fibres = np.zeros(len(stars), kinds)
    fibres["SPECUID"], fibres["SNR"] = stars["SPECUID"], stars["snr"]
    fibres["OBJ_UID"] = 5_000_000_000 + stars["SPECUID"]
    fibres["OBJ_NME"] = [f"star {number}".encode() for number in stars["SPECUID"]]
    fibres["FIB_USE"], fibres["FIB_ROOT"] = 1, 3  # a science fibre of the high-resolution spectrograph
    return fibres


def _write_table(
    file: BinaryIO,
    name: str,
    blocks: Iterable[np.ndarray],
    keys: dict[str, Any] | None = None,
    row: np.dtype | None = None,
    size: int | None = None,
) -> None:
    """A binary table, block by block: astropy would need all of it in memory. ``row`` and ``size`` are type
    and number of its rows, where there is more than one block."""
    if row is None or size is None:
        (block,) = blocks = list(blocks)
        row, size = block.dtype, len(block)
    header = fits.BinTableHDU(np.zeros(0, row), name=name).header
    header["NAXIS2"] = size
    header.update(keys or {})
    file.write(header.tostring().encode("ascii"))
    for block in blocks:
        file.write(block.astype(block.dtype.newbyteorder(">"), copy=False).tobytes())
    file.write(b"\0" * (-size * row.itemsize % _FITS))
