"""The structure of alpha-enhanced atmospheres."""

from __future__ import annotations

import gzip
from pathlib import Path

import attrs
import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from specinn_turbospectrum.abundances import LABELS, alpha_fe
from specinn_turbospectrum.atmospheres import Atmosphere, Atmospheres
from specinn_turbospectrum.enhancement import Enhancement
from specinn_turbospectrum.kurucz import KuruczModels
from specinn_turbospectrum.synthesizer import Settings, Turbospectrum

from specinn.errors import ConfigError, SynthesisError

DEPTHS = np.arange(-5.0, 1.3, 0.1)


@pytest.fixture(scope="module")
def enhancement() -> Enhancement:
    return Enhancement()


def model(teff: float, logg: float, fe_h: float, at: float = 0.0) -> Atmosphere:
    log_t = np.log10(teff) + 0.05 * DEPTHS
    structure = np.stack([DEPTHS, log_t, 1.0 + 0.5 * DEPTHS, 4.0 + 0.5 * DEPTHS, 1e10 * DEPTHS])
    return Atmosphere(teff, logg, fe_h, DEPTHS, structure, at)


@pytest.mark.slow
@given(
    st.floats(2500.0, 8000.0),
    st.floats(-0.5, 5.5),
    st.floats(-5.0, 1.0),
    st.floats(-0.6, 1.0),
    st.floats(-0.4, 0.4),
)
def test_linear_in_alpha_everywhere(enhancement, teff, logg, fe_h, alpha, at):
    base = model(teff, logg, fe_h, at)
    assert np.array_equal(enhancement(base, at).structure, base.structure)
    once = enhancement(base, alpha)
    assert once.alpha_fe == alpha
    assert np.isfinite(once.structure).all()
    np.testing.assert_allclose(enhancement(once, at).structure, base.structure, atol=1e-12)
    assert np.array_equal(once.structure[[0, 4]], base.structure[[0, 4]])
    assert np.abs(once.temperature / base.temperature - 1.0).max() < 0.4 * abs(alpha - at) + 1e-12


def test_published_models(enhancement):
    """The gas pressure of the giant's models ap00k2odfnew and ap00ak2odfnew at [M/H] = -1, read off by hand:
    at Rosseland depth 0.01 that of the enhanced one is lower by the factor 0.752."""
    changed = enhancement(model(4750.0, 2.0, -1.0), 0.4).structure - model(4750.0, 2.0, -1.0).structure
    at = np.argmin(np.abs(DEPTHS + 2.0))
    assert changed[3, at] == pytest.approx(-0.124, abs=0.002)
    assert changed[2, at] == pytest.approx(0.136, abs=0.002)  # more electrons from magnesium and silicon
    assert abs(changed[1, at]) < 0.002


def test_mean_of_the_alpha_elements():
    assert alpha_fe({"teff": 5000.0, "mg_fe": 0.4, "si_fe": 0.2, "o_fe": 0.9}) == pytest.approx(0.3)
    assert alpha_fe({"teff": 5000.0, "o_fe": 0.9}) == 0.0


def test_models_that_are_enhanced_themselves(tmp_path, monkeypatch):
    """MARCS's standard composition has [alpha/Fe] = 0.4 at [M/H] = -1: nothing is added there."""
    names = {
        fe_h: f"p5750_g+4.5_m0.0_t01_x3_z{fe_h:+.2f}_a{alpha:+.2f}_c+0.00_n+0.00_o+0.00_r+0.00_s+0.00.mod"
        for fe_h, alpha in ((-1.0, 0.4), (-0.5, 0.2))
    }
    atmospheres = Atmospheres({(5750.0, 4.5, fe_h): tmp_path / name for fe_h, name in names.items()})
    alphas = {-1.0: 0.4, -0.5: 0.2}
    monkeypatch.setattr(
        atmospheres, "_read", lambda node: attrs.evolve(model(*node), alpha_fe=alphas[node[2]])
    )
    assert atmospheres(5750.0, 4.5, -1.0).alpha_fe == pytest.approx(0.4)
    assert atmospheres(5750.0, 4.5, -0.75).alpha_fe == pytest.approx(0.3)


def kurucz_text(teff: float, logg: float, fe_h: float) -> str:
    head = f"TEFF{teff:7.0f}.  GRAVITY{logg:8.5f} LTE \nTITLE  made by a test\n"
    scale = f"ABUNDANCE SCALE {10.0**fe_h:9.5f} ABUNDANCE CHANGE 1 0.92040 2 0.07834\n"
    deck = "READ DECK6  3 RHOX,T,P,XNE,ABROSS,ACCRAD,VTURB, FLXCNV,VCONV,VELSND\n"
    rows = [(1.0, 4000.0, 10.0, 1e10, 0.1), (2.0, 4500.0, 20.0, 2e10, 0.2), (4.0, 5000.0, 40.0, 4e10, 0.3)]
    body = "".join(
        f"{column:15.8E}{t:9.1f}{p:10.3E}{electrons:10.3E}{opacity:10.3E}-1.000E-02 2.000E+05\n"
        for column, t, p, electrons, opacity in rows
    )
    return head + scale + deck + body + "PRADK 1.0E-01\n"


@pytest.fixture
def kurucz(tmp_path: Path) -> Path:
    nodes = [(4750.0, 2.0, -1.0, 0.0), (4750.0, 2.0, -1.0, 0.4)]
    texts = [kurucz_text(*node[:3]) for node in nodes]
    columns = list(zip(*nodes, strict=True))
    Table(
        {
            "nlines": [text.count("\n") for text in texts],
            **dict(zip(("teff", "logg", "metal", "alpha"), columns, strict=True)),
        }
    ).write(tmp_path / "kurucz_index.fits")
    with gzip.open(tmp_path / "kurucz_data.txt.gz", "wt", encoding="ascii") as file:
        file.write("".join(texts))
    return tmp_path


def test_kurucz_models(kurucz):
    models = KuruczModels(kurucz)
    assert (4750.0, 2.0, -1.0, 0.4) in set(models)
    depth, temperature, electrons, gas = 10.0 ** models.structure((4750.0, 2.0, -1.0, 0.4))
    np.testing.assert_allclose(depth, [0.1, 0.25, 0.75])
    np.testing.assert_allclose(temperature, [4000.0, 4500.0, 5000.0])
    np.testing.assert_allclose(gas, [10.0, 20.0, 40.0])
    np.testing.assert_allclose(electrons[0], 1.380649e-16 * 1e10 * 4000.0)
    with pytest.raises(SynthesisError, match="has no model at"):
        models.structure((4750.0, 2.5, -1.0, 0.4))


def test_a_model_that_the_index_misnames(kurucz):
    index = Table.read(kurucz / "kurucz_index.fits")
    index["logg"] = 2.5
    index.write(kurucz / "kurucz_index.fits", overwrite=True)
    with pytest.raises(SynthesisError, match=r"is for Teff, log g, \[M/H\] = \(4750.0, 2.0, -1.0\)"):
        KuruczModels(kurucz).text((4750.0, 2.5, -1.0, 0.4))


def test_the_setting():
    with pytest.raises(ConfigError, match='enhancement is "yes", expected "shipped" or "none"'):
        Settings(enhancement="yes")


@pytest.mark.slow
def test_what_the_code_makes_of_it(installed):
    """The green lines of an enhanced giant become deeper, as on Castelli and Kurucz' own structure
    (benchmarks/alpha_atmospheres.py); solar ratios are untouched."""
    labels = (*LABELS[:4], "mg_fe", "si_fe", "ca_fe", "ti_fe")
    narrow = {"segments": {"green": [5166.0, 5175.0]}}
    flux = {}
    for how in ("shipped", "none"):
        code = Turbospectrum(Settings(**narrow, enhancement=how), labels)
        flux[how] = code([[4750.0, 2.0, -1.0, 1.6, *[alpha] * 4] for alpha in (0.0, 0.4)])
        recorded = code.provenance["atmospheres"]["alpha_enhancement"]
        assert recorded == "none" if how == "none" else recorded["sha256"] == Enhancement().sha256
    assert np.array_equal(flux["shipped"][0], flux["none"][0])
    assert -0.03 < np.mean(flux["shipped"][1] - flux["none"][1]) < -0.005
