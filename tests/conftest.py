"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specinn_turbospectrum
import typer.testing
from astropy.units.format import Base
from hypothesis import settings
from typer.testing import CliRunner, Result

from specinn.cli import app
from specinn.grids import Grid
from specinn.grids.priors import draw
from specinn.grids.recipe import Recipe
from specinn.plugins import Plugins

if "PYTEST_XDIST_WORKER" in os.environ:  # processes already share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background makes them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# typer builds all commands for each call, which takes a tenth of a second
typer.testing._get_command = functools.cache(typer.testing._get_command)
# and astropy compares dex with the names of all other units, for every column of a file that does not know it
if hasattr(Base, "_did_you_mean_units"):
    Base._did_you_mean_units = classmethod(functools.cache(Base._did_you_mean_units.__func__))

settings.register_profile("specinn", deadline=None)  # tests share machines with other work
settings.load_profile("specinn")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data: SPECINN_SHARED, or ``shared`` beside the checkout."""
    variable = os.environ.get("SPECINN_SHARED")
    folder = Path(variable) if variable else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no development data at {folder}: set SPECINN_SHARED to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def emulated() -> Grid:
    """A grid of 320 stars from the prior of the bundled emulator, with the spectra that it makes."""
    plugins = Plugins()
    recipe = Path(specinn_turbospectrum.__file__).parent / "recipes" / "4most-hr.toml"
    columns = draw(Recipe.read(recipe).prior, 400, seed=5)
    emulator = plugins.load("synthesizer", "emulator").load()
    values = np.stack([columns[name] for name in emulator.labels], axis=1)
    values = values[((values >= emulator.bounds[:, 0]) & (values <= emulator.bounds[:, 1])).all(axis=1)][:320]
    return Grid(
        emulator.labels,
        values,
        np.array([f"emulated-{i}" for i in range(len(values))]),
        emulator.wavelength,
        dict(emulator.arms),
        lambda rows: emulator(values[rows]),
        emulator.resolving_power,
        emulator.medium,
        emulator.provenance,
    )


@pytest.fixture
def specinn(plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in an empty folder, with the fixture ``plugins`` of the tests that ask for it."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any, others: Plugins | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], obj=others or plugins)

    return call
