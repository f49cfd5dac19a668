"""Damaged files of every format: spectra without a number that is none, or one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import fuzz_readers
import numpy as np
import pytest
from spectrum_files import write_linear_fits, write_polarbase

from specinn.errors import ReadError
from specinn.plugins import Plugins
from specinn.spectra import readers


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return fuzz_readers.whole_files(tmp_path_factory.mktemp("whole"))


def test_whole_files_are_read(plugins: Plugins, whole: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
        assert fuzz_readers.look(tmp_path / name, plugins) == ("read", []), name


def test_a_file_of_a_seed_is_always_the_same(whole: dict[str, bytes]) -> None:
    assert fuzz_readers.damaged(whole, 1, 17) == fuzz_readers.damaged(whole, 1, 17)
    changed = [fuzz_readers.damaged(whole, 1, i)[1] != content for i, content in enumerate(whole.values())]
    assert np.mean(changed) > 0.8


def test_damaged_files(plugins: Plugins, whole: dict[str, bytes], tmp_path: Path) -> None:
    outcomes = []
    for number in range(4 * len(whole)):
        name, content = fuzz_readers.damaged(whole, 0, number)
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(content)
        outcome, faults = fuzz_readers.look(path, plugins)
        assert not faults, f"{number} {name}: {faults}"
        outcomes.append(outcome == "read")
    assert 0.15 < np.mean(outcomes) < 0.85  # neither is all refused nor the damage of no account


def _with_card(content: bytes, keyword: str, value: str, n: int = 1) -> bytes:
    """The ``n``-th card of ``keyword`` with another value (as it stands in the file)."""
    at = [match.start() for match in re.finditer(keyword.ljust(8).encode() + b"= ", content)][n - 1]
    return content[:at] + f"{keyword:8s}= {value:>20s}".encode().ljust(80) + content[at + 80 :]


@pytest.mark.parametrize(
    ("keyword", "value", "n"),
    [
        ("NAXIS2", "'1D'", 1),
        ("NAXIS2", "1.5", 1),
        ("TFORM1", "'NOPE'", 1),
        ("TFIELDS", "'x'", 1),
        ("NAXIS1", "T", 1),
    ],
)
def test_headers_that_contradict_themselves(
    plugins: Plugins, tmp_path: Path, keyword: str, value: str, n: int
) -> None:
    """They raised errors of astropy's: KeyError, TypeError, AttributeError."""
    path = write_polarbase(tmp_path / "a.fits", *fuzz_readers.star())
    path.write_bytes(_with_card(path.read_bytes(), keyword, value, n))
    with pytest.raises(ReadError, match=re.escape(str(path))):
        list(readers.read(path, plugins))


def test_a_size_that_is_declared_is_not_taken(plugins: Plugins, tmp_path: Path) -> None:
    path = write_linear_fits(tmp_path / "a.fits", *fuzz_readers.star())
    path.write_bytes(_with_card(path.read_bytes(), "NAXIS1", "4000000000"))
    with pytest.raises(ReadError, match="truncated"):
        list(readers.read(path, plugins))
