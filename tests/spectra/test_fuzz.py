"""Damaged files of every format: spectra without a number that is none, or one sentence."""

from __future__ import annotations

from pathlib import Path

import fuzz_catalogue
import fuzz_readers
import numpy as np
import pytest

import specinn
from specinn.plugins import Plugins


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return fuzz_readers.whole_files(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_whole_files_are_read(plugins: Plugins, whole: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
        assert fuzz_readers.look(tmp_path / name, plugins) == ("read", []), name


@pytest.mark.slow
def test_a_file_of_a_seed_is_always_the_same(whole: dict[str, bytes]) -> None:
    assert fuzz_readers.damaged(whole, 1, 17) == fuzz_readers.damaged(whole, 1, 17)
    changed = [fuzz_readers.damaged(whole, 1, i)[1] != content for i, content in enumerate(whole.values())]
    assert np.mean(changed) > 0.8


@pytest.mark.slow
def test_damaged_files(plugins: Plugins, whole: dict[str, bytes], tmp_path: Path) -> None:
    outcomes = []
    # files of seed 0 at which astropy looped (NAXIS = 4294967296, SIMPLE = N and others), and the first ones
    for number in (20206, 20207, 10046, 10047, 287, 311, *range(4 * len(whole))):
        name, content = fuzz_readers.damaged(whole, 0, number)
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(content)
        outcome, faults = fuzz_readers.look(path, plugins)
        assert not faults, f"{number} {name}: {faults}"
        outcomes.append(outcome == "read")
    assert 0.15 < np.mean(outcomes) < 0.85  # neither is all refused nor the damage of no account


@pytest.mark.slow
def test_rows_of_damaged_files(tmp_path: Path) -> None:
    read = unwarned = 0
    for number, path, rows, faults in fuzz_catalogue.look(1, 0, 124, tmp_path):
        assert not faults, f"{number} {path.name}: {faults}"
        read += sum(not flags & 1 for flags in rows["flags"])
        unwarned += np.count_nonzero(~rows["flag_warn"])
    assert read >= 20 and unwarned >= 10  # of whose values something was asked


@pytest.mark.slow
def test_what_is_wrong_with_a_row_is_found(tmp_path: Path) -> None:
    (star,) = (path for path in specinn.example_files() if path.stem == "dwarf-g")
    labels = specinn.load_model("4most-hr").labels
    whole = fuzz_catalogue.run([star], tmp_path / "catalogue.fits")

    def faults(**changed: object) -> str:
        table = whole.copy()
        for name, value in changed.items():
            table[name] = np.ma.array(table[name])
            table[name][0] = value
        hidden = str(table.meta.get("masked", "")).split(", ")
        return "; ".join(fuzz_catalogue.faults_of_row(table[0], labels, hidden))

    assert faults() == ""
    assert "teff is {" in faults(teff=np.ma.masked)
    assert "mg_fe is {" in faults(mg_fe_p84=-3.0)
    assert "no message with ['out_of_distribution']" in faults(flags=65536)
    assert "flag_warn are not those" in faults(flags=256)
    assert "WRONG WITHOUT A WORD: teff is 6290" in faults(teff=6290.0)
