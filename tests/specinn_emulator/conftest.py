"""What the tests of both emulators share."""

from __future__ import annotations

import pytest
import tiny_grid

from specinn.grids import Grid


@pytest.fixture(scope="module")
def grid_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "tiny.h5"
    tiny_grid.make_grid().save(path)
    return path


@pytest.fixture(scope="module")
def grid(grid_file):
    return Grid.open(grid_file)
