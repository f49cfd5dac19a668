"""Shards of a Turbospectrum library in HDF5: labels, 16-bit normalised flux in segments, provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from specinn.errors import GridError
from specinn.grids import Grid
from specinn.grids.grid import HDF5Flux, open_hdf5, read_segments
from specinn.plugins import GridLoader

FORMAT = "turbospectrum library, one shard"
_SUFFIXES = (".h5", ".hdf5")


class TurbospectrumLibrary(GridLoader):
    """One shard, or a folder of shards that continue one another.

    Layout of a shard: file attributes ``format``, ``flux_scale``, ``resolving_power``, ``medium`` and the
    provenance; ``labels/<name> (n,)`` with the attribute ``order``; ``id (n,)``, unique in the library;
    ``segments/<arm>/wavelength (n_pix,)`` in Angstrom and ``segments/<arm>/flux (n, n_pix)`` uint16.
    """

    def recognises(self, path: Path) -> bool:
        files = shards(path)
        return bool(files) and _format_of(files[0]) == FORMAT

    def load(self, path: Path) -> Grid:
        files = shards(path)
        if not files:
            raise GridError(f"{path}: expected an HDF5 file or a folder of them, found neither")
        grids = [_load(file) for file in files]
        return Grid.concatenate(grids, [file.name for file in files])


def shards(path: Path) -> list[Path]:
    """The HDF5 files of a folder in order of their names, or the file itself."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and not p.name.startswith("."))
    return [path] if path.is_file() else []


def _format_of(path: Path) -> str:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("format", ""))
    except OSError:
        return ""


def _load(path: Path) -> Grid:
    with open_hdf5(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise GridError(f"{path}: format is {file.attrs.get('format')!r}, expected {FORMAT!r}")
        try:
            names = tuple(str(name) for name in file["labels"].attrs["order"])
            values = np.column_stack([file[f"labels/{name}"][:] for name in names]).astype(float)
            ids = np.array([str(name) for name in file["id"][:]])
            arms, wavelength = read_segments(file)
            for name, arm in arms.items():
                shape = file[f"segments/{name}/flux"].shape
                expected = (len(ids), arm.stop - arm.start)
                if shape != expected:
                    raise GridError(f"{path}: flux of segment {name} has shape {shape}, expected {expected}")
            about = {key: _plain(value) for key, value in file.attrs.items()}
            if "solar_log_eps" in file:
                solar = file["solar_log_eps"]
                about["solar_log_eps"] = dict(
                    zip(map(str, solar.attrs["elements"]), solar[:].tolist(), strict=True)
                )
            scale, resolving_power = float(about.pop("flux_scale")), float(about.pop("resolving_power"))
            medium = str(about.pop("medium"))
        except KeyError as error:
            raise GridError(f"{path}: {error.args[0]} (the shard is incomplete: copy it again)") from None
        except ValueError as error:
            raise GridError(f"{path}: {error}: the datasets of the shard differ in length") from None
    del about["format"]
    about["files"] = [path.name]
    return Grid(
        names, values, ids, wavelength, arms, HDF5Flux(path, arms, scale), resolving_power, medium, about
    )


def _plain(value: Any) -> Any:
    """An HDF5 attribute as a JSON value."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
