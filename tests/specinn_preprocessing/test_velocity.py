"""Velocities of simulated stars with the bundled model's templates: errors that hold, and what is said where
something is wrong (numbers in names are those of the list of faults that this was written against)."""

import re

import attrs
import numpy as np
import pytest
from specinn_preprocessing.rest_frame import RestFrame
from velocity_pulls import observe

import specinn
from specinn.flags import Flag
from specinn.plugins import Plugins
from specinn.simulation.mock_survey import SimulatedSurvey
from specinn.wavelengths import air_to_vacuum, doppler, vacuum_to_air

# teff, logg, [Fe/H], vbroad
DWARF, CLUMP = (5800.0, 4.4, 0.0, 3.0), (4800.0, 2.5, -0.1, 3.0)
KINDS = {
    "slow": [DWARF, (4600.0, 4.6, 0.0, 3.0), CLUMP, (4100.0, 1.2, -0.3, 4.0)],
    "rotators": [(5800.0, 4.4, 0.0, 30.0), (5800.0, 4.4, 0.0, 60.0), (6300.0, 4.3, 0.0, 100.0),
                 (4800.0, 2.5, -0.1, 90.0)],
    "metal-poor": [(4700.0, 1.4, -2.5, 4.0), (6200.0, 4.2, -2.5, 4.0), (5800.0, 4.5, -1.5, 4.0),
                   (4500.0, 1.5, -1.5, 4.0)],
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return specinn.load_model("4most-hr")


@pytest.fixture(scope="module")
def survey():
    return SimulatedSurvey(Plugins())


@pytest.fixture(scope="module")
def rest_frame(model):
    return RestFrame(model.instrument, model.templates)


def has(batch, flag):
    return (np.asarray(batch.meta["flags"]) & flag) != 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr", [20.0, 50.0, 100.0])
def test_A8_errors_of_velocities_hold(survey, rest_frame, kind, snr):
    batch, truth = observe(survey, KINDS[kind], snr, n=40, seed=11)
    out = rest_frame(batch)
    sure = ~has(out, Flag.RV_UNCERTAIN)
    pull = ((out.meta["rv"] - truth) / out.meta["rv_error"])[sure]
    assert sure.mean() > 0.95
    # 0.15, and three times the uncertainty of a scatter of 160
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1.0, abs=0.15 + 3 * 0.056)
    assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1.0, abs=0.35)
    assert np.abs(pull).max() < 6.0


def test_A8_rotators_are_measured_where_they_are(survey, rest_frame):
    clump, _ = observe(survey, [(4800.0, 2.5, -0.1, 90.0)], 100.0, n=30, rv=61.4)
    dwarf, _ = observe(survey, [(5800.0, 4.4, 0.0, 60.0)], 100.0, n=30, rv=12.3)
    for batch, truth, scatter in ((clump, 61.4, 1.5), (dwarf, 12.3, 0.7)):  # were 3.7 and 1.3
        off = rest_frame(batch).meta["rv"] - truth
        assert np.sqrt(np.mean(off**2)) < scatter


def test_A8_a_maximum_at_the_edge_of_the_search_is_uncertain(survey, rest_frame):
    batch, _ = observe(survey, [DWARF], 100.0, rv=0.0)
    for velocity, uncertain in ((560.0, False), (598.0, True), (640.0, True)):
        far = attrs.evolve(batch, wavelength=doppler(batch.wavelength, velocity))
        assert has(rest_frame(far), Flag.RV_UNCERTAIN) == [uncertain], velocity


def test_A9_a_stated_velocity_that_the_spectrum_contradicts_is_said(survey, rest_frame):
    batch, _ = observe(survey, [DWARF], 50.0, n=4, rv=12.3)
    batch.meta["rv"] = [12.0, -20.0, 999.0, np.nan]
    out = rest_frame(batch)
    assert has(out, Flag.RV_CONTRADICTED).tolist() == [False, True, True, False]
    assert np.asarray(out.meta["rv"])[:3].tolist() == [12.0, -20.0, 999.0]  # said, and not changed
    assert re.match(
        r"the velocity is stated as -20\.0 km/s, the spectrum has 12\.[1-5] \+- 0\.1 km/s",
        out.meta["message"][1],
    )
    assert out.meta["message"][0] == out.meta["message"][3] == ""


def test_A9_a_velocity_that_lacks_the_barycentric_correction(survey, rest_frame):
    batch, _ = observe(survey, [DWARF], 50.0, n=2, rv=12.3)
    batch.meta["rv"] = [33.7, 12.3]
    batch.meta["barycentric_correction"] = [21.4, 21.4]
    said = rest_frame(batch).meta["message"]
    assert (
        "the difference is the barycentric correction of 21.4 km/s: it was not applied, or was applied twice"
        in said[0]
    )
    assert said[1] == ""


def test_A9_a_given_velocity_is_compared_too(survey, model):
    batch, _ = observe(survey, [DWARF], 50.0, rv=12.3)
    for velocity, said in ((12.0, False), (20.0, True)):
        out = RestFrame(model.instrument, model.templates, velocity)(batch)
        assert has(out, Flag.RV_CONTRADICTED) == [said]


def test_A10_the_frame_of_the_observer(survey, rest_frame):
    batch, _ = observe(survey, [DWARF], 50.0, n=4, rv=12.3)
    batch.meta["frame"] = ["topocentric", "barycentric", "", "topocentric"]
    batch.meta["rv"] = [np.nan, np.nan, np.nan, 30.0]
    out = rest_frame(batch)
    assert has(out, Flag.RV_TOPOCENTRIC).tolist() == [True, False, False, True]
    # a stated velocity is barycentric, and does not fit these wavelengths
    assert np.asarray(out.meta["rv"]) == pytest.approx(np.full(4, 12.3), abs=0.4)
    assert has(out, Flag.RV_MEASURED).all() and not has(out, Flag.RV_CONTRADICTED).any()


@pytest.mark.parametrize(("mistake", "was"), [(air_to_vacuum, "vacuum"), (vacuum_to_air, "air")])
def test_A2_wavelengths_of_the_wrong_medium_are_recognised(survey, rest_frame, mistake, was):
    batch, truth = observe(survey, [CLUMP], 150.0, n=25, rv=5.0, seed=3)
    assert not has(rest_frame(batch), Flag.MEDIUM_SUSPECT).any()
    wrong = attrs.evolve(batch, wavelength=mistake(batch.wavelength))
    out = rest_frame(wrong)
    suspect = has(out, Flag.MEDIUM_SUSPECT)
    assert suspect.mean() > 0.9
    message = out.meta["message"][np.argmax(suspect)]
    assert f"as if wavelengths in {was} were taken" in message and f"try --medium {was}" in message
    assert np.abs(out.meta["rv"] - truth) == pytest.approx(np.full(25, 83.7), abs=0.6)


@pytest.mark.slow
def test_A2_fast_stars_are_not_of_the_wrong_medium(survey, rest_frame):
    batch, _ = observe(survey, [DWARF, CLUMP, (4700.0, 1.4, -2.5, 4.0)], 100.0, n=40, seed=4)
    for velocity in (83.2, -83.2):
        moved = attrs.evolve(batch, wavelength=doppler(batch.wavelength, velocity))
        assert has(rest_frame(moved), Flag.MEDIUM_SUSPECT).mean() <= 0.01


def test_A2_a_stated_velocity_that_is_off_by_the_refraction_of_air(survey, rest_frame):
    batch, _ = observe(survey, [DWARF], 30.0, rv=12.3)
    wrong = attrs.evolve(batch, wavelength=air_to_vacuum(batch.wavelength))
    wrong.meta["rv"] = [12.3]
    out = rest_frame(wrong)
    assert has(out, Flag.MEDIUM_SUSPECT).all() and has(out, Flag.RV_CONTRADICTED).all()
    assert "try --medium vacuum" in out.meta["message"][0]


def test_double_lined_binaries_are_said(survey, rest_frame):
    stars = [(5800.0, 4.4, 0.0, 3.0), (5300.0, 4.5, 0.0, 3.0)]
    near, _ = observe(survey, stars, 100.0, rv=-60.0)
    far, _ = observe(survey, stars[::-1], 100.0, rv=60.0)
    both = attrs.evolve(near, flux=0.55 * near.flux + 0.45 * far.flux, mask=near.mask | far.mask)
    both.meta["rv"] = [-60.0, np.nan]
    out = rest_frame(both)
    assert has(out, Flag.RV_UNCERTAIN).all()
    assert all("two sets of lines" in message for message in out.meta["message"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_single_stars_have_one_set_of_lines(survey, rest_frame, kind):
    for snr in (20.0, 100.0):
        batch, _ = observe(survey, KINDS[kind], snr, n=20, seed=5)
        meta = rest_frame(batch).meta
        assert "message" not in meta.colnames or not any("two sets" in said for said in meta["message"])
