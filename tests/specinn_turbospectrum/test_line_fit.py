"""The fit of line data without the code: Gaussian lines in its place, and spectra that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from specinn_turbospectrum import linelists
from specinn_turbospectrum.corrections import empirical
from specinn_turbospectrum.line_fit import fit
from specinn_turbospectrum.line_fit.lines import check_covered
from specinn_turbospectrum.line_fit.page import write_page
from specinn_turbospectrum.line_fit.recipe import Recipe, ReferenceStar
from specinn_turbospectrum.line_fit.result import as_table
from specinn_turbospectrum.line_fit.spectra import Broadening, ObservedStar, grids

from specinn.errors import ConfigError
from specinn.plugins import Plugins

WINDOW = {"red": (6150.0, 6190.0)}
GRID = grids(WINDOW)["red"]
AT = 6151.0 + 1.7 * np.arange(23)
LABELS = {"teff": 5771.0, "logg": 4.44, "fe_h": 0.0, "vmic": 1.0}


def gaussians(wavelength, centres, log_gf):
    """Flux of lines of which one with log gf = 0 has an optical depth of 1."""
    distance = np.log(wavelength[:, None] / centres) * 299_792.458
    return np.exp(-(10.0**log_gf * np.exp(-0.5 * (distance / 3.0) ** 2)).sum(axis=1))


# Spectra that cannot be used ---------------------------------------------------------------------------


def observed(folder, wavelength, flux, **more):
    np.savetxt(folder / "star.txt", np.column_stack([wavelength, flux]), fmt="%.6f")
    star = ReferenceStar("Sun", str(folder / "star.txt"), 60_000.0, LABELS, medium="air")
    return ObservedStar(star, grids(WINDOW), [], Plugins())


def test_a_star_without_overlap(tmp_path):
    wavelength = np.arange(5000.0, 5050.0, 0.05)
    with pytest.raises(ConfigError, match=r"star Sun: its spectrum \(5000 to 5050 Angstrom\) has no overlap"):
        observed(tmp_path, wavelength, gaussians(wavelength, AT - 1145.0, -0.5))


@pytest.mark.parametrize("outside", [1.0, 0.5])
def test_a_star_without_lines(tmp_path, outside):
    wavelength = np.arange(6100.0, 6240.0, 0.05)
    flux = np.where((wavelength > 6150) & (wavelength < 6190), 1.0, outside)
    with pytest.raises(ConfigError, match="is the same at every wavelength of the windows: give an observed"):
        observed(tmp_path, wavelength, flux)


def test_a_continuum_that_cannot_be_followed(tmp_path):
    wavelength = np.exp(GRID)
    model = gaussians(wavelength, AT, -0.5)
    noise = np.random.default_rng(1).lognormal(0.0, 0.5, GRID.size)
    star = observed(tmp_path, wavelength, model * noise)
    with pytest.raises(ConfigError, match=r"Sun: its continuum cannot be followed \(observed over synthetic"):
        star.aligned({"red": model})


def test_parts_of_a_spectrum_without_lines_tell_no_velocity(tmp_path):
    """The observed half that was filled with ones, and a model without any line."""
    wavelength = np.exp(GRID)
    model = gaussians(wavelength, AT, -0.5)
    star = observed(tmp_path, wavelength, np.where(wavelength < 6172.0, model, 1.0))
    star.velocity = 0.0
    left = wavelength < 6170.0
    assert np.nanmax(np.abs(star.aligned({"red": model})["red"] - model)[left]) < 0.01
    assert np.isnan(star.aligned({"red": np.ones(GRID.size)})["red"]).all()


def test_ringing_beside_pixels_without_flux_is_not_used(tmp_path):
    wavelength = np.exp(GRID)
    model = gaussians(wavelength, AT, -0.5)
    flux = model.copy()
    flux[700:705] = 0.0
    flux[697:700], flux[705:708] = 0.5, 1.5
    star = observed(tmp_path, wavelength, flux)
    star.velocity = 0.0
    found = star.aligned({"red": model})["red"]
    assert np.isnan(found[697:708]).all() and np.isfinite(found[690:696]).all()
    assert np.nanmax(np.abs(found - model)) < 0.01


def test_a_window_that_no_list_covers():
    def lists(wavelength, code="26.000"):
        n = len(wavelength)
        return {"red": empirical([code] * n, [1] * n, wavelength, [2.5] * n, [-1.0] * n)}

    windows = {"red": (9150.0, 9250.0)}
    check_covered(lists(np.arange(9145.0, 9255.0, 19.0)), windows)
    with pytest.raises(
        ConfigError, match=r"window red, 9150 to 9250 .*: no line list has atoms from 9200 to"
    ):
        check_covered(lists(np.arange(9145.0, 9201.0, 5.0)), windows)
    with pytest.raises(
        ConfigError, match=r"no line list has atoms from 9150 to 9250 Angstrom: give a window"
    ):
        check_covered(lists(np.arange(9145.0, 9255.0, 1.0), "0607.012014"), windows)


# The fit with Gaussian lines ---------------------------------------------------------------------------


DEPTH, SCALE = -0.5, 2.225  # log of the optical depth of the lines; of one at 2.5 eV with log gf = 0


class Gaussians:
    """In place of the syntheses and of the synthesizer: every star shows the same lines."""

    data = None

    def __init__(self, synthesizer, windows, folder, plugins, processes, progress):
        folder.mkdir(exist_ok=True)
        self.synthesizer, self.arms = self, {"red": slice(None)}
        self.provenance = {"line_lists": {"iron": "abc"}, "code": "Gaussians"}
        self.wavelength = np.arange(*WINDOW["red"], 0.02)

    def lines(self, name):
        n = len(AT)
        return empirical(["26.000"] * n, [1] * n, AT, [2.5] * n, np.full(n, DEPTH - SCALE))

    def atmosphere(self, *labels):
        return None

    def __call__(self, jobs, what=""):
        out = []
        for job in jobs:
            rows = [line.split()[:3] for one in linelists.read(Path(job.lists[0])) for line in one.lines]
            centres, chi, log_gf = np.array(rows, float).T
            out.append(gaussians(self.wavelength, centres, log_gf - 0.75 * chi + 4.1))
        return out


CONTRADICTED, ALONE = 10, 15  # numbers of lines
LACKING = {5: "ab", 18: "ac"}  # numbers of lines behind which there is another, and the stars that show it


def recipe_of(folder):
    """Two stars that agree, a third that contradicts them in one line and alone shows (the others have a gap
    there) that another does not exist, and one that is not fitted. Two lines are in no list."""
    text = "[windows]\nred = [6150, 6190]\n[method]\ngroups = 4\nrobust = 1.0\n[[priors]]\nsigma = 1.5\n"
    change = np.zeros(len(AT))
    for name in ("a", "b", "c & d", "other"):
        change[CONTRADICTED], change[ALONE] = (-0.5, -3.0) if name == "c & d" else (0.3, 0.0)
        more = [AT[line] + 0.85 for line, stars in LACKING.items() if name[0] in stars]
        log_tau = np.concatenate([change + DEPTH, np.full(len(more), -0.7)])
        flux = Broadening(2.0)(gaussians(np.exp(GRID), np.concatenate([AT, more]), log_tau))
        np.savetxt(folder / f"{name}.txt", np.column_stack([np.exp(GRID), flux]), fmt="%.6f")
        kind = "validation" if name == "other" else "stars"
        text += f'[[{kind}]]\nname = "{name}"\npath = "{folder / name}.txt"\nresolving_power = 60000.0\n'
        text += 'medium = "air"\nlabels = { teff = 5771.0, logg = 4.44, fe_h = 0.0, vmic = 1.0 }\n'
        if name in "ab":
            text += f"excluded = [[{AT[ALONE] - 0.5}, {AT[ALONE] + 0.5}]]\n"
    (folder / "recipe.toml").write_text(text)
    return Recipe.read(folder / "recipe.toml")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    recipe = recipe_of(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "Syntheses", Gaussians)
        patch.setattr(fit, "opacity_ratio", lambda *args: np.maximum(10.0 ** (args[4] + SCALE), 0.1))
        return recipe, fit.fit_lines(recipe, folder / "work", Plugins(), leave_one_out=True)


@pytest.mark.slow
def test_a_star_that_is_left_out_says_nothing_of_lines(fitted):
    """Left out is what the others say: of the line that they show otherwise, and of the one that they do not
    show, which keeps the strength of the list although the whole fit has removed it."""
    result = fitted[1]
    assert list(result.left_out) == ["a", "b", "c & d"]
    arm = result.spectra["c & d"]["red"]
    truth = np.full(len(AT), DEPTH)
    truth[CONTRADICTED] += 0.3
    of_others = result.broadening["c & d"](gaussians(np.exp(GRID), AT, truth))
    for line in (CONTRADICTED, ALONE):
        near = np.abs(arm["wavelength"] - AT[line]) < 0.05
        assert np.abs(arm["left_out"] - of_others)[near].max() < 0.015
        assert np.abs(arm["after"] - of_others)[near].max() > 0.05
    assert result.d_log_gf[ALONE] < -1.5
    left_out, after = result.left_out["c & d"]["red"], result.after["c & d"]["red"]
    assert left_out.mean > 2.0 * after.mean and left_out.wrong > after.wrong
    # of the others each has one that agrees, and one that does not
    near = np.abs(arm["wavelength"] - AT[CONTRADICTED]) < 0.05
    a = result.spectra["a"]["red"]
    assert (a["left_out"] - a["observed"])[near].min() > (a["after"] - a["observed"])[near].min() + 0.01


@pytest.mark.slow
def test_lines_in_no_list_that_only_the_star_shows_are_left_out_with_it(fitted):
    result = fitted[1]
    found = np.array([one["wavelength"] for one in result.features])
    away = np.abs(found[:, None] - AT[list(LACKING)] - 0.85)
    assert away.min(axis=0).max() < 0.03 and away.min(axis=1).max() < 0.1
    for line, stars in LACKING.items():
        for name in ("a", "b", "c & d"):
            arm = result.spectra[name]["red"]
            pixel = np.abs(arm["wavelength"] - AT[line] - 0.85).argmin()
            assert arm["after"][pixel] < 0.95 < 0.99 < arm["before"][pixel]
            assert (arm["left_out"][pixel] > 0.99) == (name[0] in stars)


@pytest.mark.slow
def test_the_page_of_a_fit(fitted, tmp_path):
    recipe, result = fitted
    write_page(result, recipe, as_table(result, recipe), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name, role in (("a", "fitted"), ("b", "fitted"), ("c &amp; d", "fitted"), ("other", "not fitted")):
        assert f"<td>{name} ({role})</td>" in text and f"<h3>{name}</h3>" in text
        assert f'alt="{name}, red"' in text
    assert "fitted to a, b, c &amp; d: " in text and text.count(", left out ") == 3
    assert re.search(r"<h2>The worst \d+ features</h2>", text)
    worst = re.search(r'alt="(c &amp; d|a|b) (\d{4}\.\d\d) Å: [+-]0\.\d\d', text)
    assert worst and float(worst[2]) == pytest.approx(AT[CONTRADICTED], abs=0.05)
    assert text.count("data:image/png;base64,iVBOR") == 5
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]
