"""One spectrum as read, as prepared and with its model: ``specinn plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import observe, plugins_in
from typer.testing import CliRunner, Result

from specinn import read
from specinn.cli import app
from specinn.inference.options import RunOptions
from specinn.inference.run import example_files, prepare
from specinn.plugins import Plugins
from specinn.resimulation.spectrum import follow

STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    return plugins_in(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return observe(tmp_path_factory.mktemp("made") / "two.txt", ["dwarf", "giant"], 120.0)


def run(plugins: Plugins, *arguments: Any) -> Result:
    return CliRunner().invoke(app, ["plot", *map(str, arguments)], obj=plugins)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", STARTS)
def test_D14_a_figure_of_the_kind_of_its_suffix(plugins, two, tmp_path, suffix):
    path = tmp_path / f"star{suffix}"
    result = run(plugins, two, "-i", "tiny", "-o", path)
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(STARTS[suffix])
    first = path.read_bytes()
    assert "exists" in run(plugins, two, "-i", "tiny", "-o", path).output
    run(plugins, two, "-i", "tiny", "-o", path, "--star", 1, "--overwrite")
    assert path.read_bytes() != first  # the other star
    run(plugins, two, "-i", "tiny", "-o", path, "--overwrite")
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--star", "7"], "has no spectrum '7': expected an id, or a number from 0 to 1"),
        (["-o", "star.jpg"], "use one of .png, .pdf, .svg"),
        (["--medium", "water"], "air or vacuum"),
        (["-i", "tiny.toml"], "tiny.toml"),
    ],
)
def test_mistakes_are_one_sentence(plugins, two, options, sentence):
    result = run(plugins, two, *options)
    assert result.exit_code and sentence in " ".join(result.output.split())


@pytest.mark.slow
def test_the_model_is_that_of_the_values():
    shipped = Plugins()
    (path,) = (path for path in example_files() if path.stem == "dwarf-g")
    (batch,) = read(path)
    as_read, star = follow(prepare(shipped, RunOptions(samples=1024)), batch, shipped)
    assert as_read.flux.shape == batch.flux.shape and star.note == ""
    assert star.labels["teff"] == pytest.approx(5790, abs=40)
    off = star.residual[star.used] / np.hypot(star.sigma[star.used], 0.01)
    assert off.size > 8000 and np.sqrt(np.mean(off**2)) < 1.1
    assert np.isnan(star.bands).all()


@pytest.mark.slow
def test_a_spectrum_without_values_is_drawn_as_far_as_it_came(plugins, two, tmp_path):
    job = prepare(plugins, RunOptions(instrument="tiny", resolving_power=3000.0))
    (batch,) = read(two, plugins=plugins)
    _, star = follow(job, batch[0], plugins)
    assert "resolving power" in star.note and np.isnan(star.model).all()
    result = run(plugins, two, "-i", "tiny", "--resolving-power", 3000, "-o", tmp_path / "low.png")
    assert result.exit_code == 0 and "resolving power" in result.output
    assert (tmp_path / "low.png").read_bytes().startswith(STARTS[".png"])
