"""The examples in docstrings run and print what they say, and what people meet first has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import specinn

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("specinn", "plugins", "instruments")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# What a newcomer calls first, besides the names of specinn itself.
FIRST = [
    *(f"specinn.{name}" for name in specinn.__all__ if not name.startswith("__")),
    "specinn.spectra.snr_per_angstrom",
    "specinn.spectra.readers.read",
    "specinn.spectra.resample.resampling_matrix",
    "specinn.spectra.resample.Resampler",
    "specinn.spectra.continuum.ContinuumFit",
    "specinn.instruments.Instrument",
    "specinn.labels.LabelSet",
    "specinn.labels.make_label",
    "specinn.flags.Flag",
    "specinn.flags.is_bad",
    "specinn.flags.names",
    "specinn.posterior.Summary",
    "specinn.grids.Grid",
    "specinn.catalogue.combine.combine_gaussians",
    "specinn.simulation.observer.Observer",
    "specinn.wavelengths.air_to_vacuum",
    "specinn.wavelengths.doppler",
    "specinn.weights.save_weights",
    "specinn.plugins.Plugins",
]
CHAPTERS = ["catalogue", "evaluation", "grids", "inference", "parallel", "plugins", "posterior"]
CHAPTERS += ["resimulation", "simulation", "spectra", "survey", "testing", "training"]


def modules() -> list[str]:
    """All modules with an example in them, found without an import."""
    out = []
    for folder in FOLDERS:
        top = ROOT if folder == "specinn" else ROOT / folder
        for path in sorted((ROOT / folder).rglob("*.py")):
            if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
                parts = path.relative_to(top).with_suffix("").parts
                out.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return out


MODULES = [
    pytest.param(name, marks=pytest.mark.slow) if name == "specinn.api" else name for name in modules()
]


@pytest.mark.parametrize("name", MODULES)  # those of the whole way load the model and infer
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for what examples write
    module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    with np.printoptions(legacy=False):
        for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
            runner.run(example, out=report.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("path", FIRST)
def test_what_is_called_first_has_an_example(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert ">>> " in (inspect.getdoc(getattr(importlib.import_module(module), name)) or "")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_begins_with_an_example(name: str) -> None:
    assert ">>> " in (importlib.import_module(f"specinn.{name}").__doc__ or "")


def test_an_example_that_is_wrong_is_found() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    report: list[str] = []
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(wrong, out=report.append).failed == 1
    assert "Expected:" in "".join(report)
