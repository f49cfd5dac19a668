"""The bundled model on real stars, on Turbospectrum spectra that neither it nor its emulator has seen, and on
the shipped examples.

Thresholds of synthetic spectra are the project's requirements, not what a run happened to give. Those of
real stars guard what is reached; what is required of them and not reached is marked.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

import specinn
from specinn import models
from specinn.errors import SpectrumWarning
from specinn.evaluation import comparison
from specinn.evaluation.ksoll2026 import PUBLISHED_STD, published_std
from specinn.evaluation.stars import read_benchmarks, star_metrics, star_summary
from specinn.grids import Grid, load
from specinn.inference import run
from specinn.plugins import Plugins

pytestmark = pytest.mark.slow

REFERENCE = ("Sun", "Procyon", "Arcturus", "alf Cen B")  # stars of the training
COLUMNS = ("file", "star", "instrument", "resolving_power", "teff", "logg", "fe_h")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="module")
def model(plugins):
    return models.load(plugins, models.find(plugins, None))


@pytest.fixture(scope="module")
def unseen(plugins) -> Grid:
    return load([Path(__file__).parent / "data" / "4most-hr-unseen.h5"], plugins=plugins)


@pytest.fixture(scope="module")
def stars(shared: Path, plugins, model, tmp_path_factory):
    """All spectra of stars with known parameters; those of the training's reference stars do not count."""
    known = []
    for folder in ("spectra", "spectra2"):
        with (shared / "data" / folder / "stars.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["role"] != "stranger":
                    role = "reference" if row["star"] in REFERENCE else "validation"
                    path = shared / "data" / folder / row["file"]
                    known.append({name: row[name] for name in COLUMNS} | {"file": path, "role": role})
    path = tmp_path_factory.mktemp("stars") / "stars.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*COLUMNS, "role"])
        table.writeheader()
        table.writerows(known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpectrumWarning)  # bands of a file that are left out
        return star_metrics(
            model, read_benchmarks(path, model.labels), plugins=plugins, snr=250.0, seeds=3, n_samples=4096
        )


def _difference(row, label: str) -> float:
    return abs(row[f"{label}_difference"])


def test_the_sun(stars):
    sun = next(row for row in stars if row["star"] == "Sun")
    assert _difference(sun, "teff") < 100
    assert _difference(sun, "logg") < 0.15
    assert _difference(sun, "fe_h") < 0.10


def test_every_star_in_range(stars):
    rows = [row for row in stars if not row["flag_bad"]]
    assert len(rows) >= 15
    for row in rows:
        assert _difference(row, "teff") < 250, row["star"]
        assert _difference(row, "logg") < 0.4, row["star"]
        assert _difference(row, "fe_h") < 0.2, row["star"]


def test_medians_of_validation_stars(stars):
    summary = star_summary(stars)
    assert summary["teff"]["median"] < 100
    assert summary["logg"]["median"] < 0.13
    assert summary["fe_h"]["median"] < 0.10


@pytest.mark.xfail(strict=True, reason="the medians are 85 K, 0.09 and 0.08, of which three are HD 122563")
def test_required_medians_of_validation_stars(stars):
    summary = star_summary(stars)
    assert summary["teff"]["median"] < 40
    assert summary["logg"]["median"] < 0.06
    assert summary["fe_h"]["median"] < 0.03


@pytest.mark.parametrize("label", ["teff", "logg", "fe_h"])
def test_uncertainties_of_validation_stars_hold(stars, label):
    """The scatter of their differences in units of the stated uncertainties."""
    rows = [row for row in stars if row["role"] == "validation" and row[f"{label}_std"] is not None]
    pulls = np.array([row[f"{label}_difference"] / row[f"{label}_std"] for row in rows])
    assert len(pulls) >= 9
    assert 0.7 < np.sqrt(np.square(pulls).mean()) < 1.3


@pytest.mark.parametrize("snr", [10.0, 20.0, 50.0, 100.0, 250.0])
def test_unseen_spectra(unseen, plugins, model, snr):
    """Below the figures of Ksoll et al. (2026)."""
    rows = comparison.grid_metrics(model, unseen, snr=(snr,), split="all", n_samples=1024, plugins=plugins)
    every = {row["label"]: row for row in rows if row["scope"] == "all"}
    assert set(model.labels.names) <= set(every)
    for label in PUBLISHED_STD:
        assert every[label]["std"] < published_std(label, snr), label


@pytest.mark.parametrize("snr", [20.0, 50.0, 100.0, 250.0])
def test_posteriors_are_as_wide_as_they_claim(unseen, plugins, model, snr):
    """Required is 0.02 for every label; 64 stars tell it to 0.06 (one sigma) for one, and hardly better for
    the mean, since labels of a star err together. Four draws of noise and disturbances for each star."""
    inside: dict[str, list[tuple[float, float]]] = {}
    for seed in range(4):
        for row in comparison.grid_metrics(
            model, unseen, snr=(snr,), split="all", n_samples=1024, seed=seed, plugins=plugins, disturbed=True
        ):
            if row["scope"] == "all":
                inside.setdefault(row["label"], []).append((row["inside_68"], row["inside_95"]))
    coverage = {label: np.mean(draws, axis=0) for label, draws in inside.items()}
    for label, (inside_68, inside_95) in coverage.items():
        assert inside_68 == pytest.approx(0.68, abs=0.02 + 3 * 0.058), label
        assert inside_95 == pytest.approx(0.95, abs=0.02 + 3 * 0.027), label
    assert np.mean(list(coverage.values()), axis=0) == pytest.approx([0.68, 0.95], abs=0.04)


def test_errors_of_the_physics_make_observed_spectra_less_certain(unseen, plugins, model):
    widths = {}
    for observed in (True, False):
        result = comparison.compare(
            model, unseen, snr=(250.0,), split="all", n_samples=256, plugins=plugins, as_observed=observed
        ).summaries[0]
        widths[observed] = np.nanmedian(result.std, axis=0)
    assert (widths[True] > widths[False])[:3].all()  # Teff, logg, [Fe/H]


def test_the_header_of_a_catalogue_says_what_real_stars_add_to_errors():
    file = str(run.example_files()[0])
    observed, synthetic = (
        specinn.infer(file, samples=300, synthetic=told).catalogue for told in (False, True)
    )
    assert observed.meta["shifts"].startswith("teff 80, logg 0.134, fe_h 0.086, vmic 0.1")
    assert "shifts" not in synthetic.meta
    assert observed["teff_std"][0].value > 75.0 > synthetic["teff_std"][0].value


def test_the_examples_come_out_as_they_went_in():
    files = run.example_files()
    catalogue = specinn.infer([str(f) for f in files], samples=1024).catalogue
    with (files[0].parent / "truth.csv").open() as file:
        truth = {row["file"]: row for row in csv.DictReader(file)}
    assert len(catalogue) == len(truth) == 5
    assert not catalogue["flag_bad"].any()
    for row, path in zip(catalogue, files, strict=True):
        expected = truth[path.name]
        assert float(row["rv"].value) == pytest.approx(float(expected["rv"]), abs=1.0)
        for label, unit in (("teff", 30.0), ("logg", 0.05), ("fe_h", 0.03)):
            width = max(unit, float(row[f"{label}_std"].value))
            assert abs(float(row[f"{label}_median"].value) - float(expected[label])) < 4 * width, (
                path.name,
                label,
            )
