"""The bundled model on real stars, on spectra of the grid that it never saw, and on the shipped examples.

Thresholds are the project's requirements, not what a run happened to give.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import specinn
from specinn import models
from specinn.evaluation import comparison
from specinn.evaluation.stars import read_benchmarks, star_metrics, star_summary
from specinn.grids import load
from specinn.inference import run
from specinn.plugins import Plugins

pytestmark = pytest.mark.slow

# Standard deviation of MAP - truth at S/N 250 per Angstrom in Ksoll et al. (2026); lithium is there [Li/Fe].
PAPER = {
    "teff": 33, "logg": 0.16, "fe_h": 0.12, "vbroad": 1.3, "vmic": 0.27, "ca_fe": 0.10, "mg_fe": 0.11,
    "li_fe": 0.51,
}  # fmt: skip


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="module")
def model(plugins):
    return models.load(plugins, models.find(plugins, None))


@pytest.fixture(scope="module")
def stars(shared: Path, plugins, model):
    path = shared / "data" / "spectra" / "stars.csv"
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
    rows = [row for row in stars if row["in_range"]]
    assert len(rows) >= 7
    for row in rows:
        assert not row["flag_bad"], row["star"]
        assert _difference(row, "teff") < 200, row["star"]
        assert _difference(row, "logg") < 0.4, row["star"]
        assert _difference(row, "fe_h") < 0.2, row["star"]


def test_medians_of_validation_stars(stars):
    summary = star_summary(stars)
    assert summary["teff"]["median"] < 60
    assert summary["logg"]["median"] < 0.10
    assert summary["fe_h"]["median"] < 0.07


def test_held_out_grid_spectra(shared: Path, plugins, model):
    grid = load([shared / "data" / "grid"], plugins=plugins)
    rows = comparison.grid_metrics(model, grid, snr=(250.0,), n_samples=1024, plugins=plugins)
    every = {row["label"]: row for row in rows if row["scope"] == "all"}
    assert set(model.labels.names) <= set(every)
    for label, published in PAPER.items():
        assert every[label]["std"] < published, label


@pytest.mark.parametrize("snr", [20.0, 50.0, 100.0, 250.0])
def test_posteriors_are_as_wide_as_they_claim(shared: Path, plugins, model, snr):
    """Required is 0.02 for every label; 306 stars tell it to 0.03 (one sigma) for one, and hardly better for
    the mean, since labels of a star err together. Two draws of noise and disturbances for each star."""
    grid = load([shared / "data" / "grid"], plugins=plugins)
    inside: dict[str, list[tuple[float, float]]] = {}
    for seed in (0, 1):
        for row in comparison.grid_metrics(
            model, grid, snr=(snr,), n_samples=1024, seed=seed, plugins=plugins, disturbed=True
        ):
            if row["scope"] == "all":
                inside.setdefault(row["label"], []).append((row["inside_68"], row["inside_95"]))
    coverage = {label: np.mean(draws, axis=0) for label, draws in inside.items()}
    for label, (inside_68, inside_95) in coverage.items():
        assert inside_68 == pytest.approx(0.68, abs=0.02 + 3 * 0.027), label
        assert inside_95 == pytest.approx(0.95, abs=0.02 + 3 * 0.013), label
    assert np.mean(list(coverage.values()), axis=0) == pytest.approx([0.68, 0.95], abs=0.04)


def test_errors_of_the_physics_make_observed_spectra_less_certain(shared: Path, plugins, model):
    grid = load([shared / "data" / "grid"], plugins=plugins)
    widths = {}
    for observed in (True, False):
        result = comparison.compare(
            model, grid, snr=(250.0,), n_samples=256, plugins=plugins, as_observed=observed
        ).summaries[0]
        widths[observed] = np.nanmedian(result.std, axis=0)
    assert (widths[True] > widths[False])[:3].all()  # Teff, logg, [Fe/H]


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
