"""Priors: every distribution is what it says, and a draw goes on where a shorter one ended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from specinn.config import structure
from specinn.errors import ConfigError
from specinn.grids import priors
from specinn.grids.priors import Draw, Polygon, Share, Trend

N = 4096
numbers = st.floats(-5, 5).map(lambda x: round(x, 3))
widths = st.floats(0.05, 5).map(lambda x: round(x, 3))


def drawn(*tables: Draw, n: int = N, seed: int = 1, first: int = 0) -> dict[str, np.ndarray]:
    priors.check(tables, "test")
    return priors.draw(tables, n, seed=seed, first=first)


def ks(values: np.ndarray, distribution) -> float:
    """Largest difference of cumulative distributions; about 1 / n for a Sobol sequence."""
    return stats.kstest(values, distribution.cdf).statistic


@pytest.mark.slow
@given(low=numbers, width=widths, seed=st.integers(0, 2**31))
def test_uniform(low, width, seed):
    values = drawn(Draw(labels=["fe_h"], uniform=(low, low + width)), n=256, seed=seed)["fe_h"]
    assert low <= values.min() and values.max() <= low + width
    assert ks(values, stats.uniform(low, width)) < 0.02


@pytest.mark.slow
@given(mean=numbers, sigma=widths, below=st.floats(-3, 3), width=widths)
def test_normal_within_bounds(mean, sigma, below, width):
    low, high = mean + below * sigma, mean + below * sigma + width
    try:
        values = drawn(Draw(labels=["fe_h"], normal=(mean, sigma), bounds=(low, high)), n=256)["fe_h"]
    except ConfigError:
        assert stats.norm(mean, sigma).cdf(high) - stats.norm(mean, sigma).cdf(low) < 2e-6
        return
    assert low <= values.min() and values.max() <= high
    expected = stats.truncnorm((low - mean) / sigma, (high - mean) / sigma, mean, sigma)
    assert ks(values, expected) < 0.02


def test_normal_without_bounds():
    values = drawn(Draw(labels=["vmic"], normal=(1.5, 0.2)))["vmic"]
    assert ks(values, stats.norm(1.5, 0.2)) < 2e-3


@pytest.mark.slow
@given(share=st.floats(0.05, 0.95), order=st.booleans())
def test_mixture(share, order):
    parts = [Share(weight=2 * share, uniform=(-1.0, 0.5)), Share(weight=2 * (1 - share), normal=(-2.0, 0.3))]
    values = drawn(Draw(labels=["fe_h"], mixture=parts if order else parts[::-1]), n=1024)["fe_h"]
    grid = np.linspace(-3.2, 0.6, 300)
    cdf = share * stats.uniform(-1, 1.5).cdf(grid) + (1 - share) * stats.norm(-2, 0.3).cdf(grid)
    empirical = np.searchsorted(np.sort(values), grid) / len(values)
    assert abs(empirical - cdf).max() < 0.01


@pytest.mark.slow
@given(rho=st.floats(-0.45, 0.97))
def test_correlation_leaves_each_distribution_alone(rho):
    names = ["mg_fe", "si_fe", "ca_fe"]
    result = drawn(Draw(labels=names, normal=(0.1, 0.2), correlation=round(rho, 3)))
    measured = np.corrcoef([result[name] for name in names])[np.triu_indices(3, 1)]
    np.testing.assert_allclose(measured, round(rho, 3), atol=0.02)
    for name in names:
        assert ks(result[name], stats.norm(0.1, 0.2)) < 0.02


def test_correlated_uniform_labels_stay_uniform():
    result = drawn(Draw(labels=["mg_fe", "si_fe"], uniform=(-0.3, 0.3), correlation=0.8))
    assert ks(result["si_fe"], stats.uniform(-0.3, 0.6)) < 0.02
    assert stats.spearmanr(result["mg_fe"], result["si_fe"]).statistic == pytest.approx(0.786, abs=0.02)


def test_trend_is_added_and_bounds_stay():
    alpha = Draw(
        labels=["mg_fe"], normal=(0.0, 0.05), bounds=(-0.2, 0.45),
        trend=Trend(label="fe_h", points=[(-1.0, 0.4), (0.0, 0.0)]),
    )  # fmt: skip
    result = drawn(Draw(labels=["fe_h"], uniform=(-3.0, 0.5)), alpha)
    expected = np.interp(result["fe_h"], [-1, 0], [0.4, 0.0])
    rest = result["mg_fe"] - expected
    away = result["fe_h"] > -0.5
    assert abs(rest[away]).max() < 0.25 and rest[away].std() == pytest.approx(0.05, rel=0.05)
    assert result["mg_fe"].max() <= 0.45 and abs(np.corrcoef(rest[away], result["fe_h"][away])[0, 1]) < 0.05


def inside(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Even-odd rule, with a hair of tolerance: independent of the code under test."""
    from matplotlib.path import Path

    closed = np.vstack([corners, corners[:1]])
    path = Path(closed)
    return path.contains_points(points, radius=1e-9) | path.contains_points(points, radius=-1e-9)


@pytest.mark.slow
@given(
    radii=st.lists(st.floats(0.2, 1.0), min_size=3, max_size=9),
    turn=st.floats(0, 6.28),
    seed=st.integers(0, 1000),
)
def test_region_is_filled_evenly(radii, turn, seed):
    """Star-shaped polygons, convex or not: all inside, every half of the plane has its share of the area."""
    angle = turn + 2 * np.pi * np.arange(len(radii)) / len(radii)
    corners = np.round(
        np.column_stack([5000 + 1000 * np.cos(angle) * radii, 2.5 + 2 * np.sin(angle) * radii]), 6
    )
    assume(np.unique(corners[:, 0]).size == len(corners))
    result = drawn(Draw(labels=["teff", "logg"], region=[tuple(c) for c in corners]), seed=seed)
    points = np.column_stack([result["teff"], result["logg"]])
    scaled = (points - [5000, 2.5]) / [1000, 2]
    assert inside((corners - [5000, 2.5]) / [1000, 2], scaled).all()
    triangles = []  # areas of the fan around the centre, from which it is star-shaped
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        u, v = (np.array([a, b]) - [5000, 2.5]) / [1000, 2]
        triangles.append(abs(u[0] * v[1] - u[1] * v[0]))
    share = np.array(triangles) / sum(triangles)
    sector = ((np.arctan2(scaled[:, 1], scaled[:, 0]) - turn) % (2 * np.pi)) // (2 * np.pi / len(radii))
    counts = np.bincount(sector.astype(int).clip(0, len(radii) - 1), minlength=len(radii)) / N
    np.testing.assert_allclose(counts, share, atol=0.02)


def test_region_with_a_notch_and_upright_edges():
    u_shape = [(0, 0), (4, 0), (4, 3), (3, 3), (3, 1), (1, 1), (1, 3), (0, 3), (0, 0)]
    points = Polygon.of(u_shape)(priors.sobol(2, N, seed=3))
    assert not ((points[:, 0] > 1) & (points[:, 0] < 3) & (points[:, 1] > 1)).any()
    for box, area in (((0, 1, 0, 3), 3), ((1, 3, 0, 1), 2), ((3, 4, 1, 3), 2)):
        in_box = (points[:, 0] >= box[0]) & (points[:, 0] < box[1])
        in_box &= (points[:, 1] >= box[2]) & (points[:, 1] < box[3])
        assert in_box.mean() == pytest.approx(area / 8, abs=5e-3)


EVERYTHING = (
    Draw(labels=["teff", "logg"], region=[(3700, 5), (3700, 0), (5000, 0), (7200, 3.5), (7200, 5)]),
    Draw(labels=["fe_h"], mixture=[Share(weight=3, uniform=(-1, 0.5)), Share(weight=1, uniform=(-3, -1))]),
    Draw(labels=["mg_fe", "si_fe"], normal=(0, 0.1), bounds=(-0.3, 0.8), correlation=0.9,
         trend=Trend(label="fe_h", points=[(-1, 0.4), (0, 0)])),
    Draw(labels=["vmic"], value=1.0),
    Draw(labels=["na_fe", "al_fe"], uniform=(-0.3, 0.3)),
)  # fmt: skip


@pytest.mark.slow
@given(n=st.integers(1, 200), more=st.integers(0, 200), seed=st.integers(0, 2**31))
def test_a_draw_is_reproducible_and_goes_on(n, more, seed):
    whole = drawn(*EVERYTHING, n=n + more, seed=seed)
    again, rest = drawn(*EVERYTHING, n=n, seed=seed), drawn(*EVERYTHING, n=max(more, 1), seed=seed, first=n)
    assert list(whole) == ["teff", "logg", "fe_h", "mg_fe", "si_fe", "vmic", "na_fe", "al_fe"]
    for name, values in whole.items():
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values[:n], again[name])
        np.testing.assert_array_equal(values[n:], rest[name][:more])


def test_seeds_differ_and_leading_parts_fill_the_space():
    one, other = (drawn(*EVERYTHING, n=64, seed=seed)["teff"] for seed in (0, 1))
    assert not np.intersect1d(one, other).size
    for first in (0, 64, 128):
        u = priors.sobol(5, 64, seed=0, first=first)
        assert (np.histogram2d(u[:, 1], u[:, 3], bins=8, range=[[0, 1], [0, 1]])[0].sum(axis=0) == 8).all()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"uniform": [1, 0]}, r"\$\.prior\[0\]\.uniform: expected \[low, high\] with low < high, found \[1"),
        ({"normal": [0, 0]}, r"\$\.prior\[0\]\.normal: the standard deviation 0 is not positive"),
        ({}, r"\$\.prior\[0\]: expected one of uniform, normal, mixture, region, value, found none"),
        ({"uniform": [0, 1], "value": 2.0}, "found uniform and value"),
        ({"uniform": [0, 1], "bounds": [0, 1]}, r"bounds: only normal"),
        ({"mixture": []}, "it has no parts"),
        ({"mixture": [{"weight": 0.0, "uniform": [0, 1]}]}, r"mixture\[0\]: .* weight above 0"),
        ({"mixture": [{"weight": 1.0, "uniform": [2, 1]}]}, r"mixture\[0\]\.uniform: expected"),
        ({"uniform": [0, 1], "correlation": 0.5}, "correlation: it takes several labels"),
        (
            {"labels": ["mg_fe", "si_fe", "ca_fe"], "uniform": [0, 1], "correlation": -0.5},
            "between -0.5 and 1",
        ),
        ({"region": [[0, 0], [1, 0], [0, 1]]}, "region: expected two labels and no trend"),
        ({"labels": ["teff", "logg"], "region": [[0, 0], [1, 1]]}, "three or more corners .* found 2"),
        ({"labels": ["teff", "logg"], "region": [[0, 0], [1, 1], [2, 2]]}, "around an area"),
        (
            {"labels": ["teff", "logg"], "region": [[0, 0], [1, 1], [1, 0], [0, 1]]},
            "edges cross between 0 and 1",
        ),
        (
            {"uniform": [0, 1], "trend": {"label": "teff", "points": [[0, 1]]}},
            "'teff' is not a label of the tab",
        ),
        ({"uniform": [0, 1], "trend": {"label": "teff", "points": [[0, 1], [0, 2]]}}, "increasing values"),
        ({"labels": ["fe_h", "fe_h"], "uniform": [0, 1]}, "fe_h is drawn twice"),
        ({"labels": [], "uniform": [0, 1]}, "names no label"),
        ({"value": 1.0}, "every model would be the same"),
        ({"uniform": [0, "1"]}, r"expected a number, found '1' @ \$\.prior\[0\]\.uniform"),
        ({"uniform": [0]}, r"@ \$\.prior\[0\]\.uniform|\$\.prior\[0\]\.uniform"),
        ({"unifrom": [0, 1]}, r"unifrom.*\$\.prior\[0\]"),
        ({"uniform": [0, 1], "labels": "fe_h"}, r"expected a list, found 'fe_h' @ \$\.prior\[0\]\.labels"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(table, words):
    import attrs

    @attrs.frozen
    class File:
        prior: list[Draw]

    with pytest.raises(ConfigError, match=words) as raised:
        priors.check(
            structure({"prior": [{"labels": ["fe_h"], **table}]}, File, "grid.toml").prior, "grid.toml"
        )
    assert "grid.toml" in str(raised.value) and "\n" not in str(raised.value)


def test_bounds_that_leave_nothing():
    with pytest.raises(
        ConfigError, match="the bounds 3 to 4 leave nothing of a normal distribution around 0 "
    ):
        drawn(Draw(labels=["fe_h"], normal=(0, 0.1), bounds=(3, 4)))


def test_a_sequence_has_an_end():
    with pytest.raises(ConfigError, match="1073741824 models, 1073741825 are asked for"):
        priors.sobol(2, 1, seed=0, first=1 << 30)
