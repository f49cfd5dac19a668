"""Faults seen with real files: the list of them by number. Each has tests that begin with its number
(``test_A7_...``), here or where the subject is tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

import specinn
from specinn.inference.run import example_files

# wrong without a word (A), not read or with a message that points elsewhere (B), what operators, attackers
# and newcomers meet (D)
FAULTS = {
    "A1": "errors of single pixels are not heeded",
    "A2": "air or vacuum is wrong, and the velocity off by 83 km/s",
    "A3": "the flux of one column goes with the error of another",
    "A4": "columns and extensions that say something about pixels are dropped",
    "A5": "an output is an input",
    "A6": "the first thing in a file is taken for all there is",
    "A7": "masks and units of astropy objects are ignored",
    "A8": "errors of velocities are too small for rotators",
    "A9": "velocities in headers that stand for nothing, or for another one",
    "A10": "the frame of the wavelengths is not known",
    "A11": "velocities of the user match no spectrum",
    "A12": "M dwarfs below the grid come back clean",
    "A13": "arms disagree",
    "A14": "a gap is filled with a constant",
    "A15": "masked pixels move the answer",
    "B1": "images with BSCALE, BZERO and BLANK",
    "B2": "units of the axis that contradict themselves, or are unusual",
    "B3": "echelle files with one order a row",
    "B4": "columns of variable length, ASCII tables, packed files",
    "B5": "text with decimal commas, UTF-16, a broken line, wrong counts, order numbers",
    "B6": "a wrong unit: the message lacks the range",
    "B7": "lists, tables and folders of files",
    "B8": "a run that read nothing leaves a catalogue",
    "B9": "names of files that are not UTF-8",
    "B10": "arguments in Python",
    "B11": "one exposure in several files",
    "D1": "one bad item costs more than itself",
    "D2": "files that declare more than they hold",
    "D3": "combine joins by the stem of files",
    "D4": "schedulers of clusters",
    "D5": "control characters reach the terminal",
    "D6": "catalogues in other programs",
    "D7": "lithium that the model's documentation does not trust has only a flag for information",
    "D8": "models of others in report and resimulate",
    "D9": "estimators that cannot tell what is out of distribution",
    "D10": "what authors of estimators copied",
    "D11": "a wrong resolving power: the message lacks the options",
    "D12": "plurals, a minus before 0, what numbers on the terminal are",
    "D13": "one big file is one shard",
    "D14": "what newcomers missed: plots, instruments, units of text",
    "D15": "headers tell where the files of the user lie",
}


def test_every_fault_has_a_test_by_its_number() -> None:
    numbers: set[str] = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        for name in re.findall(r"^def test_((?:[ABD]\d+_)+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            numbers.update(name.strip("_").split("_"))
    assert numbers == set(FAULTS)


@pytest.fixture
def distrusted() -> Any:
    """The bundled model, as if its lithium were not to be trusted."""
    model = specinn.load_model()
    model.header = {**model.header, "doubtful": {"a_li": "its line is blended with one that no star shows"}}
    return model


@pytest.mark.slow
def test_D7_lithium_that_is_not_to_be_trusted_is_masked_or_warned_of(distrusted: Any) -> None:
    (star,) = (path for path in example_files() if path.stem == "dwarf-g")
    row = specinn.infer(str(star), model=distrusted, samples=256).catalogue[0]
    assert np.ma.is_masked(row["a_li"]) or row["flag_warn"]


@pytest.mark.slow
def test_D7_samples_and_model_spectra_have_the_labels_that_are_masked(distrusted: Any) -> None:
    (star,) = (path for path in example_files() if path.stem == "dwarf-g")
    result = specinn.infer(star, model=distrusted, samples=256)
    table = result.catalogue
    assert table.meta["masked"] == "a_li, li_fe"
    columns = [name for name in table.colnames if name.startswith(("a_li", "li_fe"))]
    assert len(columns) == 24 and all(np.ma.is_masked(table[name][0]) for name in columns)
    assert not any(np.ma.is_masked(table[name][0]) for name in ("teff", "teff_std", "mg_fe", "mg_fe_p16"))
    assert np.isfinite(result.posterior.samples).all()
    model = result.resimulate(0, draws=20)
    assert model.labels["a_li"] == pytest.approx(1.05 + model.labels["fe_h"], abs=1e-6)
    assert np.isfinite(model.model[model.used]).all() and np.isfinite(model.bands[:, model.used]).all()


@pytest.mark.slow
def test_D7_spectra_with_the_physics_of_the_grid_keep_their_lithium(distrusted: Any) -> None:
    (star,) = (path for path in example_files() if path.stem == "dwarf-g")
    table = specinn.infer(star, model=distrusted, samples=256, synthetic=True).catalogue
    assert "masked" not in table.meta and not np.ma.is_masked(table["a_li"][0])


def test_D11_a_wrong_resolving_power_names_what_to_say() -> None:
    from specinn_cinn.ood import ALTERATIONS

    assert "--instrument" in ALTERATIONS["blur"] and "--resolving-power" in ALTERATIONS["blur"]


def test_D12_counts_have_their_plural() -> None:
    from specinn.texts import plural

    assert (
        plural(1, "spectrum", "spectra") == "1 spectrum" and plural(2, "spectrum", "spectra") == "2 spectra"
    )


def test_D12_zero_has_no_minus() -> None:
    from specinn.cli._tables import decimals, figure
    from specinn.posterior.display import value_with_errors

    assert figure(-0.001, decimals("dex")) == "0.00" and figure(-0.4, "+" + decimals("K")) == "+0"
    assert figure(-0.012, decimals("dex")) == "-0.01"
    assert value_with_errors(-0.0004, -0.03, 0.03) == "0.000 -0.030 +0.030"


def test_D12_the_table_on_the_terminal_says_what_its_numbers_are(capsys: pytest.CaptureFixture[str]) -> None:
    from specinn.cli._result_table import show
    from specinn.labels import LabelSet

    show(Table(), LabelSet(()))
    assert capsys.readouterr().out.startswith("maximum a posteriori (MAP), and from it to the 16 and 84")


def test_D12_room_for_samples_is_that_of_the_files() -> None:
    from specinn.cli.run import _size_of_samples

    words = _size_of_samples(4096, 4096, 13, 8)
    assert "8 files" in words and "MB for 8 files" in words and "per million spectra" in words
