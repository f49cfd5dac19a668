"""What spectra of the shipped examples do not determine, from the file to the catalogue and the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specinn import catalogue
from specinn.cli import app
from specinn.inference.run import example_files

pytestmark = pytest.mark.slow


def test_nitrogen_of_a_faint_hot_star_is_not_determined(tmp_path: Path) -> None:
    """At S/N 12 an F star shows neither N nor Mn nor Eu; Teff, [Fe/H] and [Ca/Fe] it does show."""
    (file,) = (path for path in example_files() if path.stem == "turn-off-f")
    out = tmp_path / "stars.ecsv"
    arguments = ["run", "-i", "4most-hr", "--degrade-snr", "12", "--samples", "1024", "-o", out, file]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (row,) = catalogue.read(out)
    lost = row["undetermined"].split()
    assert {"n_fe", "mn_fe", "eu_fe"} <= set(lost) and not {"teff", "fe_h", "ca_fe"} & set(lost)
    for name in lost:
        assert np.ma.is_masked(row[name]) and np.ma.is_masked(row[f"{name}_median"])
        assert f"{name}_upper" not in row.colnames or np.ma.is_masked(row[f"{name}_upper"])
    low, high = row["n_fe_p2_5"], row["n_fe_p97_5"]
    assert low < -0.3 and high > 0.7  # of the prior, from -0.6 to 1.2
    assert np.isfinite(row["ca_fe"]) and row["ca_fe_p16"] < row["ca_fe"] < row["ca_fe_p84"]
    line = next(line for line in result.output.splitlines() if line.startswith("not determined"))
    assert " N, " in line and line.endswith("Eu")
    assert not any(line.startswith("n_fe") for line in result.output.splitlines())
