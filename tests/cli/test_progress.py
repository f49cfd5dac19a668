"""What a run says on standard error: remarks on files once, and at the end of how many they hold."""

from __future__ import annotations

import warnings

import pytest

from specinn.cli._progress import Watch
from specinn.errors import SpectrumWarning


def test_D5_remarks_are_said_once_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    with Watch(quiet=True):
        for i in range(30):
            warnings.warn(
                SpectrumWarning(f"night/{i}.fits: the columns SKY{i} are not understood"), stacklevel=1
            )
        warnings.warn(SpectrumWarning("night/7.fits: no\x1b[31m errors"), stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "specinn: night/0.fits: the columns SKY0 are not understood"
    assert lines[1] == "specinn: night/7.fits: no\\x1b[31m errors"
    assert lines[2] == (
        "specinn: 30 files: the columns SKY0 are not understood (night/0.fits, night/1.fits, night/2.fits, "
        "night/3.fits, night/4.fits and 25 more)"
    )
    assert len(lines) == 3 and warnings.showwarning is before
