"""A(Li) in 3D NLTE: the table against breidablik's own numbers, its range, and the columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from specinn import catalogue
from specinn.catalogue.lithium import correction
from specinn.catalogue.result import Result
from specinn.labels import LabelSet, make_label
from specinn.models import in_lte
from specinn.posterior import Posterior

# Teff, log g, [Fe/H], A(Li) in 1D LTE, and what breidablik 1.5.1 (Wang et al. 2021) says:
# breidablik.interpolate.nlte.Nlte().nlte_correction(teff, logg, fe_h, a_li)
BREIDABLIK = {
    "Sun": (5771.0, 4.44, 0.0, 1.05, -0.059273),
    "HD 22879": (5868.0, 4.27, -0.88, 2.2, -0.070247),
    "iota Hor": (6227.0, 4.4, 0.19, 2.5, -0.041481),
    "DS Tuc A": (5428.0, 4.5, -0.08, 3.1, -0.254370),
    "HD 140283": (5788.0, 3.65, -2.48, 2.2, 0.002030),
    "HD 84937": (6356.0, 4.06, -2.0, 2.25, -0.021678),
    "giant": (4700.0, 2.5, -0.2, 1.0, -0.019218),
    "lithium-rich giant": (4700.0, 2.5, 0.03, 3.0, -0.321416),
}
# where breidablik itself is beyond its atmospheres, or at the edge of them
OUTSIDE = {
    "61 Cyg A": (4398.0, 4.63, -0.13, 1.0),
    "HD 122563": (4642.0, 1.32, -2.67, 0.0),
    "hot giant": (6500.0, 2.0, 0.0, 2.0),
    "A star": (7400.0, 4.2, 0.0, 2.0),
    "too much lithium": (5772.0, 4.44, 0.0, 4.1),
    "too little": (5772.0, 4.44, 0.0, -0.6),
    "too metal-rich": (5772.0, 4.44, 0.6, 1.0),
    "unknown": (np.nan, 4.44, 0.0, 1.0),
}
LABELS = LabelSet(
    make_label(name, bounds)
    for name, bounds in {"teff": (3700, 7200), "logg": (0, 5), "fe_h": (-3, 0.5), "a_li": (-0.5, 3.6)}.items()
)


@pytest.mark.parametrize("star", BREIDABLIK)
def test_the_table_is_breidablik(star: str) -> None:
    *labels, expected = BREIDABLIK[star]
    assert correction(*labels) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("star", OUTSIDE)
def test_nothing_is_extrapolated(star: str) -> None:
    assert np.isnan(correction(*OUTSIDE[star]))


@given(
    st.floats(4000, 7000), st.floats(1.5, 5), st.floats(-4, 0.5), st.floats(-0.4, 3.8), st.floats(0.01, 0.2)
)
def test_the_result_rises_with_lithium(
    teff: float, logg: float, fe_h: float, a_li: float, step: float
) -> None:
    """So that percentiles stay percentiles, and limits limits."""
    values = np.array([a_li, a_li + step])
    low, high = values + correction(teff, logg, fe_h, values)
    assert not np.isfinite(low) or high > low


def stars() -> Result:
    """The Sun; a metal-poor star with a limit; a K dwarf beyond the range."""
    rng = np.random.default_rng(1)
    centre = np.array([[5771.0, 4.44, 0.0, 1.05], [5800.0, 3.7, -2.0, 0.0], [4200.0, 4.6, 0.0, 1.0]])
    samples = centre[:, None] + rng.normal(size=(3, 4000, 4)) * [30.0, 0.05, 0.03, 0.08]
    samples[1, :, 3] = rng.uniform(-0.5, 0.3, 4000)  # reaches down to the bound
    log_prob = -0.5 * (((samples - centre[:, None]) / [30.0, 0.05, 0.03, 0.08]) ** 2).sum(axis=2)
    meta = Table({"id": ["Sun", "poor", "cool"], "flags": np.zeros(3, np.uint32), "message": [""] * 3})
    return Result(meta, Posterior(LABELS, samples, log_prob).summary())


def test_columns() -> None:
    result = stars()
    rows = catalogue.summarise(result, instrument="", model="")
    table = catalogue.build([rows], catalogue.schema(LABELS, [], lithium=True), {})
    assert table["a_li_3dnlte"].unit == "dex" and table["a_li_3dnlte"].mask.tolist() == [False, False, True]
    for end in ("", "_median", "_p2_5", "_p16", "_p84", "_p97_5"):
        changed = table[f"a_li_3dnlte{end}"][0] - table[f"a_li{end}"][0]
        assert changed == pytest.approx(-0.059, abs=0.008), end
    assert table["a_li_3dnlte_std"][0] == pytest.approx(table["a_li_std"][0], rel=0.05)
    # the limit of the second star is carried along, and the first has none
    assert table["a_li_upper"].mask.tolist() == [True, False, True]
    assert table["a_li_3dnlte_upper"].mask.tolist() == [True, False, True]
    expected = correction(*(table[n][1] for n in ("teff", "logg", "fe_h")), table["a_li_upper"][1])
    assert table["a_li_3dnlte_upper"][1] - table["a_li_upper"][1] == pytest.approx(float(expected), abs=1e-5)
    plain = catalogue.build([rows], catalogue.schema(LABELS, []), {})
    assert not [name for name in plain.colnames if "3dnlte" in name]
    without = LabelSet(LABELS.labels[:3])
    assert not [field.name for field in catalogue.schema(without, [], lithium=True) if "3dnlte" in field.name]


def test_only_of_models_in_lte() -> None:
    for grid, lte in (
        ({"code": "Turbospectrum 2020 (v20), LTE"}, True),
        ({"code": "Turbospectrum, NLTE"}, False),
        ({"code": "Korg"}, False),
        ({"provenance": {"code": "Turbospectrum", "nlte": {}}}, True),
        ({"provenance": {"code": "Turbospectrum", "nlte": {"Li": "atom"}}}, False),
    ):  # fmt: skip
        assert in_lte({"grid": grid}, "Li") == lte, grid


def test_the_tool_names_its_source() -> None:
    root = Path(__file__).resolve().parents[2]
    with np.load(root / "specinn" / "catalogue" / "lithium_3d_nlte.npz", allow_pickle=False) as table:
        assert "breidablik 1.5.1 (MIT)" in str(table["source"])
        assert (root / "tools" / "make_lithium_correction.py").is_file()
        assert table["correction"].shape == tuple(table[n].size for n in ("teff", "logg", "fe_h", "a_li"))
