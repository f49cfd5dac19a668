"""Corrections of line data: the table, its use by the synthesizer, and the fit to reference stars (with
spectra that the code makes of lines whose log gf were changed, where Turbospectrum is installed)."""

from __future__ import annotations

import gzip
import hashlib

import attrs
import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from specinn_turbospectrum import abundances, corrections, linelists
from specinn_turbospectrum.corrections import SHIPPED, Corrections, changed
from specinn_turbospectrum.line_fit import solve
from specinn_turbospectrum.line_fit.fit import fit_lines
from specinn_turbospectrum.line_fit.lines import Lines
from specinn_turbospectrum.line_fit.recipe import Prior, Recipe
from specinn_turbospectrum.line_fit.result import as_table, verdicts, write
from specinn_turbospectrum.line_fit.spectra import Broadening, grids
from specinn_turbospectrum.line_fit.syntheses import Job, Syntheses
from specinn_turbospectrum.strength import opacity_ratio
from specinn_turbospectrum.synthesizer import Settings, Turbospectrum

from specinn.errors import ConfigError, SynthesisError
from specinn.plugins import Plugins

LINE = "  5147.100  3.884 -1.130   -7.420    7.0  5.01E+07  'p' 'd'   0.0    1.0 'Fe I a'"
ABO = "  5150.000  1.848 -0.613 2006.342    4.0  6.61E+07 'p' 'd'   0.0    1.0 'Li I'"
FACTOR = "  5151.000  2.000 -2.000    2.500    9.0  2.45E+08  'x' 'x'   0.0    1.0 'Fe II'"
IRON = f"'  26.000            '    1         2\n'Fe I'\n{LINE}\n{FACTOR}\n"


# Lines -----------------------------------------------------------------------------------------------


def test_log_gf_and_damping_of_a_line():
    assert changed(LINE, 0.25).split()[:4] == ["5147.100", "3.884", "-0.880", "-7.420"]
    assert changed(LINE, 0.0, 0.1).split()[2:4] == ["-1.130", "-7.320"]
    assert changed(ABO, -0.1, 0.1).split()[2:4] == ["-0.713", "2525.342"]  # the exponent stays
    assert float(changed(FACTOR, 0.0, np.log10(2.0)).split()[3]) == pytest.approx(5.0, abs=0.001)
    assert changed(LINE, 0.25).endswith("'Fe I a'")
    with pytest.raises(SynthesisError, match="expected wavelength, excitation"):
        changed("5147.1", 0.1)


@given(st.floats(-3, 1).map(lambda x: round(x, 3)))
def test_a_correction_and_its_opposite_give_the_line_again(change):
    back = changed(changed(LINE, change), -change)
    assert back.split()[2] == "-1.130"


def table_of(rows, lists):
    table = Table(
        rows=rows,
        names=["code", "ion", "wavelength", "chi", "log_gf", "log_gf_corrected", "damping", "verdict"],
    )
    table.meta["line_lists"] = lists
    return table


@pytest.fixture
def file(tmp_path):
    rows = [
        ("26.000", 1, 5147.1, 3.884, -1.13, -0.93, 0.0, "corrected"),
        ("26.000", 1, 5148.0, 2.5, np.nan, -3.0, 0.0, "added"),
    ]
    path = tmp_path / "lines.ecsv"
    write(table_of(rows, {"iron": "abc"}), path)
    return path


def test_corrected_and_empirical_lines(file, tmp_path):
    (tmp_path / "iron.list").write_text(IRON)
    read = Corrections.read(file)
    species = read.apply(linelists.read(tmp_path / "iron.list"), 5146.0, 5160.0)
    assert [line.split()[2] for line in species[0].lines] == ["-0.930", "-2.000"]
    assert species[1].name == "empirical"
    assert species[1].lines[0].split()[:3] == ["5148.000", "2.500", "-3.000"]
    assert len(read.apply(linelists.read(tmp_path / "iron.list"), 5149.0, 5160.0)) == 1  # not in the window
    # what is written is what Turbospectrum reads
    assert linelists.write(species, tmp_path / "cut") == 3
    assert len(linelists.read(tmp_path / "cut")) == 2


def test_corrections_of_another_list(file):
    read = Corrections.read(file)
    read.check({"iron": "abc"})
    with pytest.raises(SynthesisError, match=r"are for iron with SHA-256 abc, the list in use has def"):
        read.check({"iron": "def"})
    with pytest.raises(
        SynthesisError, match=r'are for the lists iron, not for other: set corrections = "none"'
    ):
        read.check({"other": "abc"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("wavelength 5000", "is not a table of specinn synthesis fit-lines"),
        (b"\x1f\x8b broken", "is not a table"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_table_of_corrections(tmp_path, content, said):
    path = tmp_path / "x.ecsv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SynthesisError, match=said):
        Corrections.read(path)


def test_a_table_without_a_column_or_a_number(file, tmp_path):
    table = Table.read(file, format="ascii.ecsv")
    lacking = table.copy()
    lacking.remove_column("damping")
    write(lacking, tmp_path / "lacking.ecsv")
    with pytest.raises(SynthesisError, match="has no column damping"):
        Corrections.read(tmp_path / "lacking.ecsv")
    table["log_gf_corrected"][0] = np.nan
    write(table, tmp_path / "nan.ecsv.gz")
    with pytest.raises(SynthesisError, match="a number is not finite"):
        Corrections.read(tmp_path / "nan.ecsv.gz")


def test_packed_tables_are_the_same_bytes_again(file, tmp_path):
    table = Table.read(file, format="ascii.ecsv")
    for name in ("a.ecsv.gz", "b.ecsv.gz"):
        write(table, tmp_path / name)
    assert (tmp_path / "a.ecsv.gz").read_bytes() == (tmp_path / "b.ecsv.gz").read_bytes()
    assert len(Corrections.read(tmp_path / "a.ecsv.gz").table) == len(table)


@pytest.mark.slow
def test_shipped_corrections():
    """They are whole, small, and within the bounds of the fit; elements of few lines moved by at most 0.06
    dex in the mean, which is more than it should be."""
    assert SHIPPED.stat().st_size < 2_000_000
    table = Corrections.read(SHIPPED).table
    wavelength = np.asarray(table["wavelength"])
    inside = np.zeros(len(table), bool)
    for low, high in ((3913, 4368), (5141, 5747), (6087, 6802)):
        inside |= (wavelength >= low) & (wavelength <= high)
    assert inside.all()
    listed = table["verdict"] != corrections.ADDED
    moved = np.where(listed, table["log_gf_corrected"] - table["log_gf"], 0.0)
    assert moved.min() >= -3.01 and moved.max() <= 1.01
    elements = np.array([name.split()[0] for name in table["species"]])
    for element in ("Li", "O", "Al", "Sr", "Y", "Zr", "Ba", "Ce", "Eu"):
        rows = listed & (elements == element) & (table["verdict"] == "corrected")
        if rows.any():
            assert abs(moved[rows].mean()) < 0.0451, element


# The settings of the synthesizer -------------------------------------------------------------------------


def test_where_corrections_come_from(file):
    assert Settings(line_lists=["mine.list"]).read_corrections({"mine": "x"}) is None  # the user's own
    assert Settings(corrections="none").read_corrections({"iron": "abc"}) is None
    assert Settings(corrections=str(file)).read_corrections({"iron": "abc"}).source == "lines.ecsv"
    with pytest.raises(SynthesisError, match="not for mine"):  # unless they are asked for
        Settings(corrections=str(file), line_lists=["mine.list"]).read_corrections({"mine": "x"})


def test_steps_by_segment():
    settings = Settings(segments={"a": [5146.0, 5150.0], "b": [6100.0, 6110.0]}, steps={"b": 0.05})
    assert [settings.step_of(name) for name in settings.segments] == [0.02, 0.05]
    with pytest.raises(ConfigError, match="steps: c is not a segment, which are a"):
        Settings(segments={"a": [5146.0, 5150.0]}, steps={"c": 0.05})


def test_titanium_oxide_is_for_cool_stars():
    assert "TiO" not in Settings().lists_for(5146.0)
    assert Settings().lists_of_cool_stars() == ["TiO"]
    assert Settings(molecules=["CN"]).lists_of_cool_stars() == []


# The fit ------------------------------------------------------------------------------------------------


@given(st.floats(0.3, 3.0), st.floats(0.0, 20.0))
def test_broadening_keeps_what_lines_take(sigma, vsini):
    flux = np.ones(601)
    flux[300] = 0.0
    broad = Broadening(sigma, vsini)(flux)
    assert (1.0 - broad).sum() == pytest.approx(1.0, abs=1e-6)
    centre = ((1.0 - broad) * np.arange(601)).sum()
    assert centre == pytest.approx(300.0, abs=0.01)


def test_width_of_the_broadening():
    """A rotator's profile reaches to v sin i; its variance is that of Gray's profile with limb darkening
    0.6."""
    flux = np.ones(601)
    flux[300] = 0.0
    profile = 1.0 - Broadening(0.6, 40.0)(flux)
    assert profile[300 - 43] < 1e-4 < profile[300 - 36]
    variance = (profile * (np.arange(601) - 300.0) ** 2).sum()
    y = np.linspace(-1, 1, 20001)
    gray = 2 * 0.4 * np.sqrt(1 - y**2) + 0.5 * np.pi * 0.6 * (1 - y**2)
    assert variance == pytest.approx(40.0**2 * (gray * y**2).sum() / gray.sum() + 0.36, rel=0.02)


def test_least_squares_find_lines_that_overlap():
    """Two of three lines overlap; the third has no pixel, and keeps its prior."""
    rng = np.random.default_rng(1)
    pixels = np.arange(200.0)
    shapes = np.stack([np.exp(-0.5 * ((pixels - at) / 4) ** 2) for at in (80.0, 86.0)], axis=1)
    jacobian = -0.3 * np.column_stack([shapes, np.zeros(200)])
    truth = np.array([0.2, -0.3, 0.0])
    residual = jacobian @ truth + rng.normal(0, 0.002, 200)
    residual[10:20] = np.nan
    from scipy.sparse import csr_matrix

    equations = [solve.Equations(residual, csr_matrix(jacobian))]
    sigma = np.full(3, 0.6)
    banded, right = solve.normal_equations(equations, np.zeros(3), sigma, 0.002, 1.0)
    x, error = solve.step(banded, right), solve.uncertainty(banded)
    assert np.abs(x - truth)[:2].max() < 4 * error[:2].max() < 0.02
    assert x[2] == 0.0 and error[2] == pytest.approx(0.6)


def test_responses_belong_to_the_line_with_the_strongest_wing():
    grid = np.arange(0, 200) / 299_792.458 + np.log(5000.0)
    owner = solve.attribute(np.full(200, 0.01), grid, grid[[60, 70]], np.array([1.0, 100.0]))
    assert owner[60] == 0 and owner[70] == 1
    assert owner[50] == 1  # nearer to the weak line, but in the wing of the strong one
    assert owner[199] == -1  # too far from both
    assert (solve.attribute(np.zeros(200), grid, grid[[60]], np.ones(1)) == -1).all()


def test_priors_by_species_and_depth(tmp_path):
    (tmp_path / "iron.list").write_text(IRON)
    lines = Lines.of({"green": linelists.read(tmp_path / "iron.list")})
    priors = [Prior(0.05, ["Li", "Fe 2"]), Prior(0.3, deeper=0.5), Prior(0.5, ["Fe"])]
    assert lines.prior(priors, np.array([0.9, 0.1])).tolist() == [0.3, 0.5]
    assert lines.prior([], np.zeros(2)).tolist() == [0.6, 0.6]
    assert lines.species.tolist() == ["Fe 1", "Fe 1"]


STAR = """
[windows]
green = [{window}]
[[stars]]
name = "Sun"
path = "{path}"
resolving_power = {power}
labels = {{ {labels} }}
{more}
"""
LABELS = "teff = 5771.0, logg = 4.44, fe_h = 0.0, vmic = 1.0"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"labels": "teff = 5771.0, logg = 4.44"}, "reference star Sun has no fe_h, vmic"),
        ({"power": 20000.0}, "has a resolving power of 20000, expected at least 30000"),
        ({"path": "nowhere.fits"}, "nowhere.fits is not a file"),
        (
            {"more": 'fit = ["teff"]'},
            "teff cannot be fitted with the lines, expected vbroad, vmic or an abundance such as c_fe",
        ),
        ({"more": '[[priors]]\nspecies = ["Xx"]\nsigma = 0.1'}, "'Xx', expected such as Fe, Fe 2 or CN"),
        ({"more": "[[priors]]\nsigma = 0.0"}, "sigma = 0 dex"),
        (
            {"window": "6180, 6150"},
            "window green: 6180 to 6150 Angstrom is no range of wavelengths: give the lower end first",
        ),
        ({"window": "-1, 6150"}, "window green: -1 to 6150 Angstrom is no range"),
        (
            {"window": "6150, 6160"},
            "window green, 6150 to 6160 Angstrom, is too narrow for a continuum: expected at least 29",
        ),
        ({"more": "excluded = [[6160, 6155]]"}, "Sun: excluded: 6160 to 6155 Angstrom is no"),
        (
            {"more": '[synthesizer]\ncorrections = "shipped"'},
            r"\$\.synthesizer\.corrections is not allowed here",
        ),
    ],
)
def test_recipes_that_cannot_be(tmp_path, values, said):
    (tmp_path / "star.txt").write_text("5000 1\n")
    known = {"path": str(tmp_path / "star.txt"), "power": 80000.0, "labels": LABELS, "more": ""}
    known["window"] = "6150, 6180"
    (tmp_path / "recipe.toml").write_text(STAR.format(**{**known, **values}))
    with pytest.raises(ConfigError, match=said):
        Recipe.read(tmp_path / "recipe.toml")


def test_broadening_is_always_fitted(tmp_path):
    (tmp_path / "star.txt").write_text("5000 1\n")
    more = {"window": "6150, 6180", "more": 'fit = ["vbroad", "vmic"]'}
    text = STAR.format(path=tmp_path / "star.txt", power=80000.0, labels=LABELS, **more)
    (tmp_path / "recipe.toml").write_text(text)
    assert Recipe.read(tmp_path / "recipe.toml").stars[0].fit == ["vmic"]


def test_strengths_are_those_of_the_code(installed):
    """Iron lines of the Sun within a factor of five of what the code's spectrum shows, in the right order."""
    code = Turbospectrum(
        Settings(segments={"a": [6165.0, 6180.0]}, molecules=[], corrections="none"),
        ("teff", "logg", "fe_h", "vmic"),
    )
    weak = [(6165.360, 4.143, -1.474), (6173.334, 2.223, -2.880)]
    ratio = opacity_ratio(
        np.array([26, 26]),
        np.array([1, 1]),
        *np.array(weak).T,
        code.atmosphere(5771, 4.44, 0.0),
        {26: 7.5},
        1.0,
        code.data,
    )
    assert 1.0 < ratio[0] < ratio[1]
    assert opacity_ratio(
        np.array([26]), np.array([1]), np.array([6165.36]), np.array([4.143]), np.array([-6.474]),
        code.atmosphere(5771, 4.44, 0.0), {26: 7.5}, 1.0, code.data,
    )[0] == pytest.approx(1e-5 * ratio[0])  # fmt: skip


@pytest.mark.slow
def test_processes_give_the_spectra_that_one_gives(installed, tmp_path):
    window = {"red": (6170.0, 6174.0)}
    solar = (0.0,) * (len(abundances.LABELS) - 4)
    spectra = {}
    for processes in (1, 2):
        folder, said = tmp_path / f"{processes}", []
        code = Syntheses({"molecules": []}, window, folder, Plugins(), processes, said.append)
        lines = Lines.of({"red": code.synthesizer.lines("red")})
        lines.write(0, *np.zeros((2, len(lines))), tmp_path / "red.list")

        def job(*labels):
            return Job((*labels, 0.0, 1.0, *solar), (str(tmp_path / "red.list"),))

        spectra[processes] = code([job(5771.0, 4.44), job(5000.0, 4.5), job(5771.0, 4.44)], "stars")
        assert said == ["stars: 2 of 2 spectra"]
        with pytest.raises(SynthesisError, match="teff"):
            code([job(50_000.0, 4.44), job(50_001.0, 4.44)])
    assert np.array_equal(spectra[1], spectra[2])
    assert np.array_equal(spectra[1][0], spectra[1][2])
    assert not np.array_equal(spectra[1][0], spectra[1][1])


@pytest.mark.slow
def test_fit_finds_lines_that_were_changed(installed, tmp_path):
    """A star made of lines of which three strong ones were moved and one was added: the fit undoes that,
    leaves the others alone and says that a line is lacking."""
    window = {"red": [6150.0, 6186.0]}
    settings = Settings(segments=window, molecules=[], corrections="none")
    labels = ("teff", "logg", "fe_h", "vmic")
    code = Turbospectrum(settings, labels)
    lines = Lines.of({"red": code.lines("red")})
    moved = {6165.360: 0.3, 6173.334: -0.4, 6170.506: 0.25}
    change = np.zeros(len(lines))
    for wavelength, value in moved.items():
        row = np.flatnonzero((np.abs(lines.wavelength - wavelength) < 0.002) & (lines.code == "26.000"))
        assert row.size, wavelength
        change[row] = value
    truth = lines.with_empirical(
        "26.000", 1, np.array([6171.950]), np.array([2.5]), np.array([-3.0]), np.array([0])
    )
    truth.write(0, np.append(change, 0.0), np.zeros(len(truth)), tmp_path / "truth.list")
    stars = {"a": (5771.0, 4.44, 0.0, 1.0), "b": (5000.0, 4.5, 0.1, 1.0)}
    text = "[windows]\nred = [6150, 6186]\n[method]\ngroups = 4\njacobians = 1\nsteps = 4\n"
    text += "[synthesizer]\nmolecules = []\n"
    grid = grids(window)["red"]
    for name, values in stars.items():
        flux = code.with_lines({"red": tmp_path / "truth.list"})(np.array([values]))[0]
        fine = np.arange(np.log(6150.2), np.log(6185.8), 1 / 299792.458)
        seen = Broadening(2.0)(np.interp(fine, np.log(code.wavelength), flux))
        keep = (fine > grid[0] - 1e-5) & (fine < grid[-1] + 1e-5)
        np.savetxt(tmp_path / f"{name}.txt", np.column_stack([np.exp(fine), seen])[keep], fmt="%.5f")
        pairs = ", ".join(f"{label} = {value}" for label, value in zip(labels, values, strict=True))
        text += f'[[stars]]\nname = "{name}"\npath = "{tmp_path / name}.txt"\nresolving_power = 60000.0\n'
        text += f'medium = "air"\nlabels = {{ {pairs} }}\n'
    (tmp_path / "recipe.toml").write_text(text)
    recipe = Recipe.read(tmp_path / "recipe.toml")
    result = fit_lines(recipe, tmp_path / "work", Plugins())
    for name in stars:
        assert result.after[name]["red"].mean < 0.3 * result.before[name]["red"].mean
        assert result.after[name]["red"].wrong < 0.01 < 0.05 < result.before[name]["red"].wrong
    n = len(change)
    strong = np.flatnonzero(change)
    assert result.d_log_gf[strong] == pytest.approx(change[strong], abs=0.06)
    added = np.flatnonzero(result.lines.empirical)
    assert result.lines.wavelength[added] == pytest.approx([6171.95], abs=0.03)
    near = np.flatnonzero(np.abs(result.lines.wavelength - 6171.95) < 0.15)
    assert result.d_log_gf[np.setdiff1d(near, added)].max() < 0.2  # no neighbour was raised in its place
    others = np.setdiff1d(np.arange(n), strong)
    assert np.median(np.abs(result.d_log_gf[others])) < 0.02
    table = as_table(result, recipe)
    assert set(verdicts(result)) <= set(corrections.VERDICTS)
    write(table, tmp_path / "lines.ecsv.gz")
    # a second run finds its syntheses, and gives the same table
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work" / "spectra").iterdir()}
    again = fit_lines(recipe, tmp_path / "work", Plugins())
    assert {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "work" / "spectra").iterdir()
    } == before
    assert np.array_equal(again.d_log_gf, result.d_log_gf)
    # and the synthesizer takes it
    corrected = Turbospectrum(attrs.evolve(settings, corrections=str(tmp_path / "lines.ecsv.gz")), labels)
    was, now, should = (
        made(np.array([stars["a"]]))[0]
        for made in (code, corrected, code.with_lines({"red": tmp_path / "truth.list"}))
    )
    assert np.abs(now - should).mean() < 0.35 * np.abs(was - should).mean()
    assert (
        corrected.provenance["line_corrections"]["sha256"]
        == Corrections.read(tmp_path / "lines.ecsv.gz").sha256
    )
    assert gzip.decompress((tmp_path / "lines.ecsv.gz").read_bytes()).startswith(b"# %ECSV")


def test_doctor_tells_the_shipped_corrections():
    part = {part.name: part for part in Turbospectrum.components()}["turbospectrum line corrections"]
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert part.present and part.detail.startswith(f"{SHIPPED.name}, SHA-256 {digest[:12]}")
