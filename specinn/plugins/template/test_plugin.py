"""Every record of the plugin leads to what it names."""

import plugin_name

from specinn import testing


def test_plugin():
    testing.check_plugin(plugin_name)
