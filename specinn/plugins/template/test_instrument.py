"""The rules of specinn for this part."""

from pathlib import Path

import plugin_name

from specinn import testing


def test_instrument():
    instrument = testing.check_instrument(Path(plugin_name.__file__).with_name("instrument.toml"))
    assert instrument.arm("green").wavelength[0] == 5155.0
