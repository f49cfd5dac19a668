"""specinn's own HDF5 layout, offered as a loader so that it can be used wherever another layout can."""

from __future__ import annotations

from pathlib import Path

import h5py

from specinn.grids import Grid
from specinn.grids.grid import FORMAT
from specinn.plugins import GridLoader


class SpecinnGrid(GridLoader):
    """A file that ``specinn grid import`` wrote."""

    def recognises(self, path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            with h5py.File(path, "r") as file:
                return bool(file.attrs.get("format") == FORMAT)
        except OSError:
            return False

    def load(self, path: Path) -> Grid:
        return Grid.open(path)
