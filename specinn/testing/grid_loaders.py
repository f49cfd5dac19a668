"""The contract of grid loaders."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from specinn.grids import Grid
from specinn.plugins.interfaces import GridLoader
from specinn.testing.rules import close, quiet, section

_require = section("grid-loaders")


def check_grid_loader(loader: GridLoader, path: str | Path) -> Grid:
    """A grid loader, on a file or folder of its layout. Returns the grid."""
    path = Path(path)
    _require(loader.recognises(path), f"{path} is not recognised")
    grid = loader.load(path)
    _require(isinstance(grid, Grid), f"load gave {type(grid).__name__}, not a Grid")
    _require(len(grid) > 0, "the grid is empty")
    _require("code" in grid.provenance, "the provenance does not say which code computed the spectra")
    for name, arm in grid.arms.items():
        _require((np.diff(grid.wavelength[arm]) > 0).all(), f"the wavelengths of {name!r} do not increase")
    sound = np.flatnonzero([i not in grid.defects for i in grid.ids.tolist()])
    rows = sound[np.unique([0, len(sound) // 2, len(sound) - 1])]
    flux = grid.flux(rows)
    shape = (len(rows), grid.wavelength.size)
    _require(flux.shape == shape, f"flux has shape {flux.shape}: expected {shape}")
    _require(close(grid.flux(rows[::-1])[::-1], flux, 0), "rows asked for in another order differ")
    _require(close(grid.flux(rows[-1:]), flux[-1:], 0), "a row asked for alone differs")
    _require((flux >= 0).all(), "negative flux was not rejected")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "noise").write_bytes(bytes(range(256)))
        for other, kind in (
            (folder, "a strange folder"),
            (folder / "noise", "a strange file"),
            (folder / "x", "nothing"),
        ):
            _require(not quiet(loader.recognises, other), f"{kind} is recognised")
    return grid
