"""The rules of specinn for this part."""

from plugin_name.synthesizer import Synthesis

from specinn import testing


def test_synthesizer():
    testing.check_synthesizer(Synthesis.from_config({}, Synthesis.labels))
