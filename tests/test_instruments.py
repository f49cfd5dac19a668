"""The shipped instruments, and how instrument files are read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import specinn_instruments

from specinn.errors import ConfigError
from specinn.inference.sources import by_instrument
from specinn.instruments import Instrument, ResolvingPower
from specinn.plugins import Plugins, load_factory
from specinn.spectra import SpectrumBatch
from specinn.testing import check_instrument


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    result = Plugins(entry=[], extra={"instruments": specinn_instruments})
    assert not result.failures
    return result


def instrument(plugins: Plugins, name: str) -> Instrument:
    return Instrument.from_toml(plugins.record("instrument", name).toml)


def test_records_agree_with_the_files(plugins):
    names = [offer.record.name for offer in plugins.offers("instrument")]
    assert names == [
        "4most-hr", "elodie", "espadons", "espresso", "feros", "fies", "foces", "giraffe", "harps", "harps-n",
        "hermes-galah", "hermes-mercator", "hires", "mike", "narval", "pepsi", "sophie", "uves",
    ]  # fmt: skip
    vacuum = []
    for offer in plugins.offers("instrument"):
        result = check_instrument(offer.record.toml)
        assert (result.name, result.summary) == (offer.record.name, offer.record.summary)
        if result.medium == "vacuum":
            vacuum.append(result.name)
    assert vacuum == ["espresso", "hires"]


def test_every_reader_can_be_imported(plugins):
    for offer in plugins.offers("reader"):
        reader = load_factory(offer.record)()
        assert callable(reader.recognises) and callable(reader.read)


def test_records_are_light():
    code = (
        "import sys, specinn_instruments as s; s.specinn_instruments(); "
        "print(*(m for m in ('numpy', 'astropy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("arm", "ends", "steps", "windows"),
    [
        ("blue", (3919.74, 4360.03), (0.0788, 0.0638), ()),
        ("green", (5151.36, 5737.31), (0.1047, 0.0853), ((5354, 5361), (5448, 5460))),
        ("red", (6096.99, 6792.55), (0.1246, 0.1009), ((6190, 6210),)),
    ],
)
def test_4most_arms(plugins, arm, ends, steps, windows):
    result = instrument(plugins, "4most-hr").arm(arm)
    wave = result.wavelength
    step = np.diff(wave)
    assert wave.shape == (6144,)
    assert wave[[0, -1]] == pytest.approx(ends, abs=0.01)
    assert step[[0, -1]] == pytest.approx(steps, abs=1e-3)
    assert wave[0] < result.range[0] and result.range[1] < wave[-1]  # the detector reaches beyond the range
    assert result.snr_windows == windows
    assert all(result.range[0] <= low < high <= result.range[1] for low, high in result.snr_windows)
    pixels = wave.mean() / result.resolving_power.at(wave).mean() / step.mean()
    assert pixels == pytest.approx(2.85, abs=0.1)  # per resolution element


def test_4most_pixels_are_those_of_the_exposure_time_calculator(plugins, shared):
    raster = np.loadtxt(shared / "data" / "instruments" / "raster_hrs.txt", usecols=0)
    arms = np.split(raster, np.flatnonzero(np.diff(raster) > 1) + 1)
    for arm, wanted in zip(instrument(plugins, "4most-hr").arms, arms, strict=True):
        assert len(wanted) == arm.pixels.n
        assert np.abs(arm.wavelength - wanted).max() < 0.085


@pytest.mark.parametrize(("name", "power"), [("uves", 80000), ("narval", 65000), ("foces", 40600)])
def test_archive_instruments_cover_the_4most_arms(plugins, name, power):
    result = instrument(plugins, name)
    for arm in instrument(plugins, "4most-hr").arms:
        assert result.arms[0].contains(np.array(arm.range)).all()
    assert result.resolving_power_at(np.array([5000.0, 6000.0])).tolist() == [power, power]
    with pytest.raises(ConfigError, match="no fixed pixel grid"):
        _ = result.arms[0].wavelength


# Wavelength (Angstrom), R there, frame: as the manuals and papers have them that the files cite.
FACTS = [
    ("harps", 5500, 115000, "barycentric"),
    ("harps-n", 5500, 115000, "barycentric"),
    ("feros", 5500, 48000, "barycentric"),
    ("mike", 4000, 25000, None),
    ("mike", 6000, 19000, None),
    ("hermes-galah", 6600, 28000, "barycentric"),
    ("hermes-mercator", 5500, 85000, None),
    ("fies", 5500, 67000, None),
    ("hires", 5500, 45000, "heliocentric"),
    ("espadons", 5500, 68000, "heliocentric"),
    ("giraffe", 5500, 19000, None),
    ("espresso", 5500, 140000, "barycentric"),
    ("pepsi", 5500, 50000, None),
    ("sophie", 5500, 40000, "barycentric"),
    ("elodie", 5500, 42000, None),
]


@pytest.mark.parametrize(("name", "wavelength", "power", "frame"), FACTS)
def test_D14_facts_of_the_instruments(plugins, name, wavelength, power, frame):
    result = instrument(plugins, name)
    assert result.resolving_power_at(np.array([float(wavelength)])).tolist() == [power]
    assert any(arm.contains(np.array([wavelength])).all() for arm in result.arms)
    assert result.frame == frame
    assert result.source and result.note.endswith("\n")


OWN = """
name = "mine"
summary = "a spectrograph in a cellar"
medium = "vacuum"
frame = "topocentric"
note = "for this test"

[[arms]]
name = "all"
range = [4000, 9000]
resolving_power = [[4000, 50000], [9000, 60000]]
"""


def test_an_instrument_is_read_once_and_again_when_its_file_changes(plugins, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(OWN)
    first = plugins.instrument(str(path))
    assert plugins.instrument(str(path)) is first
    path.write_text(OWN.replace("topocentric", "rest"))
    os.utime(path, ns=(5, 5))
    assert plugins.instrument(str(path)).frame == "rest"
    path.unlink()
    with pytest.raises(ConfigError, match=r"my\.toml"):
        plugins.instrument(str(path))


def test_D14_an_instrument_of_the_user_says_what_files_do_not(plugins, tmp_path):
    (tmp_path / "my.toml").write_text(OWN)
    result = plugins.instrument(str(tmp_path / "my.toml"))
    assert Instrument.from_dict(result.to_dict()) == result
    wave = np.linspace(5000.0, 5100.0, 200)
    meta = {"medium_from": ["assumed"], "frame": ["unknown"], "frame_from": ["not stated"]}
    batch = SpectrumBatch.from_arrays(wave, np.ones(200), ids=["a"], medium="air")
    for name, values in meta.items():
        batch.meta[name] = values
    out = by_instrument(batch, result)
    assert out.medium == "vacuum" and out.meta["medium_from"][0] == "the instrument mine"
    assert out.meta["frame"][0] == "topocentric" and out.meta["frame_from"][0] == "the instrument mine"
    assert batch.medium == "air" and batch.meta["frame"][0] == "unknown"
    batch.meta["medium_from"], batch.meta["frame"] = ["CTYPE1 AWAV"], ["barycentric"]
    assert by_instrument(batch, result) is batch  # what a file states goes before


def test_a_wrong_frame_is_named_with_its_path(plugins):
    data = instrument(plugins, "harps").to_dict() | {"frame": "galactic"}
    with pytest.raises(ConfigError, match="frame"):
        Instrument.from_dict(data, "mine.toml")


def test_resolving_power_may_be_a_table(plugins):
    data = instrument(plugins, "4most-hr").to_dict()
    data["arms"][1]["resolving_power"] = [[5160, 18500], [5730, 21000]]
    result = Instrument.from_dict(data)
    assert result.resolving_power_at(np.array([5445.0]))[0] == pytest.approx(19750)
    assert Instrument.from_dict(result.to_dict()) == result
    with pytest.raises(ConfigError, match="increasing wavelengths"):
        ResolvingPower.parse([[5730, 18500], [5160, 21000]])


def test_a_wrong_value_is_named_with_its_path(plugins):
    data = instrument(plugins, "4most-hr").to_dict()
    data["arms"][2]["pixels"]["n"] = "many"
    with pytest.raises(ConfigError, match=r"arms.*2.*pixels.*n"):
        Instrument.from_dict(data, "mine.toml")


def test_D14_ranges_of_an_instrument_in_nm_are_refused(tmp_path: Path) -> None:
    arm = 'name = "a"\nsummary = "b"\n[[arms]]\nname = "c"\nrange = [400, 900]\nresolving_power = 9000\n'
    (tmp_path / "my.toml").write_text(arm)
    with pytest.raises(ConfigError, match=r"my.toml: arm c: range 400 to 900: expected Angstrom"):
        Instrument.from_toml(tmp_path / "my.toml")
