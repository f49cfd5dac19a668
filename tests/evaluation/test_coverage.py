"""Ranks, bands and coverage: against theory, simulation and sbi.diagnostics on a posterior that is known."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from specinn.evaluation.coverage import (
    binomial_interval,
    ecdf_band,
    ecdf_difference,
    points_for,
    ranks,
    tarp_ranks,
    uniformity,
)

N, SAMPLES = 400, 300
NOISE = np.array([0.3, 1.0, 2.0])


def problem(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels from a standard normal prior and data with Gaussian errors of ``NOISE``."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 3))
    return truth, truth + NOISE * rng.normal(size=(n, 3))


def posterior(data: np.ndarray, width: float = 1.0, shift: float = 0.0, seed: int = 1) -> np.ndarray:
    """Samples ``(n, SAMPLES, 3)`` of the exact posterior, or off by ``width`` and ``shift`` (sigmas)."""
    std = NOISE / np.sqrt(1 + NOISE**2)
    normal = np.random.default_rng(seed).normal(size=(len(data), SAMPLES, 3))
    return (data / (1 + NOISE**2))[:, None] + std * (width * normal + shift)


def places(truth: np.ndarray, samples: np.ndarray, seed: int = 2) -> np.ndarray:
    return ranks(samples, truth, np.random.default_rng(seed).random(truth.shape))


def tarp(truth: np.ndarray, samples: np.ndarray, seed: int = 3) -> np.ndarray:
    """With references drawn around each posterior."""
    rng = np.random.default_rng(seed)
    mean, std = samples.mean(axis=1), samples.std(axis=1)
    references = rng.uniform(-3, 3, truth.shape)
    scaled = (samples - mean[:, None]) / std[:, None]
    return tarp_ranks(scaled, (truth - mean) / std, references, rng.random(len(truth)))


# Ranks


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20), st.floats(0, 1))
def test_a_rank_is_within_its_place(below: int, above: int, equal: int, jitter: float) -> None:
    samples = np.concatenate([np.full(below, -1.0), np.zeros(equal), np.ones(above), np.full(7, -9.0)])
    inside = np.arange(samples.size) < below + equal + above
    (rank,) = ranks(samples[None, :, None], np.zeros((1, 1)), np.full((1, 1), jitter), inside[None])[0]
    n = below + equal + above
    if n == 0:
        assert np.isnan(rank)
    else:
        assert below / (n + 1) <= rank <= (below + equal + 1) / (n + 1)


@settings(max_examples=5)
@given(st.integers(1, 6))
def test_ranks_are_uniform_however_few_samples_there_are(n_samples: int) -> None:
    rng = np.random.default_rng(n_samples)
    values = rng.normal(size=(20000, n_samples + 1, 1))
    result = ranks(values[:, 1:], values[:, 0], rng.random((20000, 1)))[:, 0]
    assert np.abs(ecdf_difference(result, points_for(20000))).max() < 0.015
    rounded = np.round(values)  # ties everywhere
    result = ranks(rounded[:, 1:], rounded[:, 0], rng.random((20000, 1)))[:, 0]
    assert np.abs(ecdf_difference(result, points_for(20000))).max() < 0.015


def test_distances_take_the_place_of_values() -> None:
    samples = np.array([[[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]])
    reference, jitter = np.zeros((1, 2)), np.array([0.5])
    for distance, expected in ((0.5, 0.125), (1.5, 0.375), (9.0, 0.875)):
        assert tarp_ranks(samples, np.array([[distance, 0.0]]), reference, jitter) == pytest.approx(expected)
    far = np.array([[True, False, False]])
    assert tarp_ranks(samples, np.array([[1.5, 0.0]]), reference, jitter, far) == pytest.approx(0.75)


# Bands


@pytest.mark.slow
@pytest.mark.parametrize("n", [30, 306])
def test_a_band_holds_everywhere_at_once(n: int) -> None:
    points = points_for(n)
    low, high = ecdf_band(n, points, 0.95)
    rng = np.random.default_rng(n)
    kept = p_small = 0
    for _ in range(1000):
        uniform = rng.random(n)
        difference = ecdf_difference(uniform, points)
        kept += bool(((difference >= low - 1e-12) & (difference <= high + 1e-12)).all())
    for _ in range(200):
        p_small += uniformity(rng.random(n), points) <= 0.25
    assert 0.93 < kept / 1000 < 0.99
    assert p_small / 200 == pytest.approx(0.25, abs=0.1)
    pointwise = binom.ppf(0.025, n, points) / n - points
    assert (low <= pointwise + 1e-12).all() and (low < pointwise - 1e-12).any()


@pytest.mark.slow
def test_the_picture_and_the_probability_agree() -> None:
    points = points_for(100)
    low, high = ecdf_band(100, points, 0.95)
    rng = np.random.default_rng(4)
    for power in (0.7, 1.0, 1.3):
        for _ in range(30):
            uniform = rng.random(100) ** power
            difference = ecdf_difference(uniform, points)
            leaves = bool(((difference < low - 1e-12) | (difference > high + 1e-12)).any())
            p = uniformity(uniform, points)
            assert leaves == (p < 0.05) or abs(p - 0.05) < 0.005, p


@pytest.mark.slow
def test_the_exact_posterior_is_acquitted_and_wrong_ones_are_found_guilty() -> None:
    truth, data = problem()
    points = points_for(N)
    low, high = ecdf_band(N, points, 0.99)
    exact = places(truth, posterior(data))
    narrow = places(truth, posterior(data, width=0.6))
    wide = places(truth, posterior(data, width=1.6))
    shifted = places(truth, posterior(data, shift=0.4))
    for k in range(3):
        assert uniformity(exact[:, k], points) > 0.01
        curve = ecdf_difference(exact[:, k], points)
        assert ((curve >= low) & (curve <= high)).all()
        for wrong in (narrow, wide, shifted):
            assert uniformity(wrong[:, k], points) < 1e-4
        left, right = (points > 0.05) & (points < 0.3), (points > 0.7) & (points < 0.95)
        assert ecdf_difference(narrow[:, k], points)[left].min() > 0.02 > -0.02 > (
            ecdf_difference(narrow[:, k], points)[right].max())  # fmt: skip
        assert ecdf_difference(wide[:, k], points)[left].max() < 0
        assert (ecdf_difference(shifted[:, k], points)[10:90] > 0).all()
    assert uniformity(tarp(truth, posterior(data)), points) > 0.01
    for wrong in (posterior(data, width=0.6), posterior(data, width=1.6), posterior(data, shift=0.8)):
        assert uniformity(tarp(truth, wrong), points) < 1e-4
    below = ecdf_difference(tarp(truth, posterior(data, width=0.6)), points)
    assert below[20:80].max() < 0  # too narrow: balls of any credibility hold the truth too seldom


# Coverage


@given(st.integers(0, 50), st.integers(1, 50))
def test_the_interval_of_a_fraction(k: int, n: int) -> None:
    k = min(k, n)
    low, high = binomial_interval(k, n)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1 and low < high
    mirrored = binomial_interval(n - k, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)


def test_the_interval_holds_as_often_as_it_says() -> None:
    for n, p in ((306, 0.68), (40, 0.95)):
        k = np.arange(n + 1)
        low, high = binomial_interval(k, n)
        assert binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum() == pytest.approx(0.683, abs=0.06)
    assert np.isnan(binomial_interval(0, 0)).all()


# Another implementation


class Known:
    """The problem's posterior as sbi wants it: samples that were drawn before."""

    def __init__(self, samples: np.ndarray) -> None:
        import torch

        self.samples = torch.as_tensor(samples.transpose(1, 0, 2), dtype=torch.float32)

    def sample_batched(self, shape: Any, x: Any, **_: Any) -> Any:
        assert shape[0] == SAMPLES and len(x) == N
        return self.samples


@pytest.mark.slow
def test_sbi_finds_the_same() -> None:
    if importlib.util.find_spec("sbi") is None:
        pytest.skip("sbi is not installed: pip install '.[test]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        import torch
        from sbi.diagnostics import check_tarp, run_sbc, run_tarp
        from sbi.diagnostics.sbc import check_uniformity_frequentist

        truth, data = problem()
        points = points_for(N)
        thetas, xs = torch.as_tensor(truth, dtype=torch.float32), torch.as_tensor(data, dtype=torch.float32)
        references = torch.rand(N, 3, generator=torch.Generator().manual_seed(5)) * 6 - 3
        for width, shift, guilty in ((1.0, 0.0, False), (0.6, 0.0, True), (1.0, 0.4, True)):
            samples = posterior(data, width, shift)
            exact: Any = Known(samples)
            theirs, _ = run_sbc(thetas, xs, exact, SAMPLES, show_progress_bar=False)
            ours = places(truth, samples)
            assert np.abs(ours - theirs.numpy() / SAMPLES).max() <= 1 / SAMPLES + 1e-6
            p_theirs = check_uniformity_frequentist(theirs, SAMPLES).numpy()
            p_ours = np.array([uniformity(ours[:, k], points) for k in range(3)])
            assert ((p_theirs < 0.01) == guilty).all() and ((p_ours < 0.01) == guilty).all()

            ecp, alpha = run_tarp(thetas, xs, exact, references, SAMPLES, show_progress_bar=False,
                                  num_bins=40, z_score_theta=False)  # fmt: skip
            own_ranks = tarp_ranks(samples, truth, references.numpy(), np.zeros(N))
            expected = [(own_ranks <= a * SAMPLES / (SAMPLES + 1)).mean() for a in alpha.numpy()]
            assert np.abs(ecp.numpy() - expected)[1:-1].max() < 0.02
            if width < 1:
                assert check_tarp(ecp, alpha)[0] < -0.005  # their area to the curve: too narrow
            assert (uniformity(own_ranks, points) < 0.01) == guilty
