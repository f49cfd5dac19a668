"""TOML into classes: every wrong value is named by its path."""

import attrs
import numpy as np
import pytest

from specinn.config import read_toml, structure
from specinn.errors import ConfigError
from specinn.instruments import Instrument, ResolvingPower

GOOD = """
name = "spectrograph"
summary = "for tests"
medium = "air"
source = "this test"

[[arms]]
name = "green"
range = [5160, 5730.0]
resolving_power = [[5160, 18500], [5730, 21000]]
pixels = {n = 100, polynomial = [5150.0, 590.0]}
snr_windows = [[5354, 5361]]

[[arms]]
name = "red"
range = [6100, 6790]
resolving_power = 20000
"""


def load(tmp_path, text):
    path = tmp_path / "instrument.toml"
    path.write_text(text)
    return Instrument.from_toml(path)


def test_instrument_round_trip(tmp_path):
    instrument = load(tmp_path, GOOD)
    assert instrument.arm("green").resolving_power.at(np.array([5445.0]))[0] == pytest.approx(19750)
    assert instrument.arm("red").pixels is None
    assert Instrument.from_dict(instrument.to_dict()) == instrument


def test_resolving_power_of_the_arm_that_covers_or_is_nearest(tmp_path):
    instrument = load(tmp_path, GOOD)
    result = instrument.resolving_power_at(np.array([5160.0, 5730.0, 5740.0, 6090.0, 6500.0, 9000.0]))
    assert result == pytest.approx([18500, 21000, 21000, 20000, 20000, 20000])


def test_pixels_and_slices_of_selected_arms(tmp_path):
    instrument = load(tmp_path, GOOD).select(["green"])
    assert instrument.wavelength[[0, -1]] == pytest.approx([5150, 5740])
    assert instrument.slices == {"green": slice(0, 100)}
    with pytest.raises(ConfigError, match="arm red has no fixed pixel grid"):
        _ = load(tmp_path, GOOD).wavelength
    with pytest.raises(ConfigError, match="spectrograph has no arm 'blue'; it has green, red"):
        load(tmp_path, GOOD).select(["blue"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("5730.0]", "'5730']", r"expected a number, found '5730' @ \$\.arms\[0\]\.range\[1\]"),
        ("5730.0]", "nan]", r"expected a finite number, found nan @ \$\.arms\[0\]\.range\[1\]"),
        ("5730.0]", "true]", r"expected a number, found True @ \$\.arms\[0\]\.range\[1\]"),
        ("[5160, 5730.0]", "[5160]", r"\$\.arms\[0\]\.range"),
        (
            "[5160, 5730.0]",
            "[5730, 5160]",
            r"arm green: range \(5730.0, 5160.0\) is not increasing.*arms\[0\]",
        ),
        ('medium = "air"', 'medium = "water"', r"found 'water'; there are air, vacuum @ \$\.medium"),
        ('name = "red"', "name = 3", r"expected a string, found 3 @ \$\.arms\[1\]\.name"),
        ('name = "red"', 'name = "green"', "needs arms with different names"),
        ('name = "red"', "", r"required field missing @ \$\.arms\[1\]\.name"),
        ('name = "red"', 'nane = "red"', r"unknown key 'nane'; did you mean 'name'\? @ \$\.arms\[1\]"),
        ("= 20000", '= "high"', r"resolving power 'high': expected a number or .* @ \$\.arms\[1\]"),
        ("= 20000", "= [[1, 2], [3]]", r"resolving power .*: expected a number or"),
        ("= 20000", "= 0.5", r"needs R > 1 at increasing wavelengths @ \$\.arms\[1\]\.resolving_power"),
        ("= 20000", "= [[2, 20000], [1, 20000]]", "increasing wavelengths"),
        ("n = 100", "n = 1", r"pixels: n = 1 .* @ \$\.arms\[0\]\.pixels"),
        ("n = 100", "n = 1.5", r"expected an integer, found 1.5 @ \$\.arms\[0\]\.pixels\.n"),
        ("5150.0, 590.0", "5150.0, -590.0", "its pixel polynomial does not increase"),
    ],
)
def test_wrong_values_are_named_by_path(tmp_path, old, new, message):
    assert GOOD.count(old) >= 1
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert "instrument.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_several_wrong_values_are_all_named(tmp_path):
    with pytest.raises(ConfigError, match=r"\$\.summary.*; .*\$\.medium"):
        load(tmp_path, GOOD.replace('"for tests"', "1").replace('"air"', '"mud"'))


def test_keys_of_tables_read_as_in_toml():
    @attrs.frozen
    class Table:
        rows: dict[str, float]

    with pytest.raises(ConfigError, match=r"here: expected a number, found 'x' @ \$\.rows\.mg_fe$"):
        structure({"rows": {"mg_fe": "x"}}, Table, "here")


@pytest.mark.parametrize("data", [[], "text", 3, None])
def test_not_a_table(data):
    with pytest.raises(ConfigError, match="here: expected a table, found"):
        structure(data, Instrument, "here")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is a folder: give a TOML file"):
        read_toml(tmp_path)
    (tmp_path / "bad.toml").write_text("a = \nb = 1\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML: .*line 1"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "binary.toml")


@pytest.mark.parametrize("given", [20000, 20000.0, [[5000, 18000], [6000, 21000]]])
def test_resolving_power_round_trip(given):
    parsed = ResolvingPower.parse(given)
    assert ResolvingPower.parse(parsed.to_toml()) == parsed
    assert ResolvingPower.parse(parsed) is parsed


def test_resolving_power_in_words():
    assert str(ResolvingPower.parse(20000)) == "20000"
    assert str(ResolvingPower.parse([[5000, 18500], [6000, 21000]])) == "18500-21000"
