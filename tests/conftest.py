"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("specinn", deadline=None)  # tests share machines with other work
settings.load_profile("specinn")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data: SPECINN_SHARED, or ``shared`` beside the checkout."""
    given = os.environ.get("SPECINN_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no development data at {folder}: set SPECINN_SHARED to the folder that has them")
    return folder
