"""Contract checks: call them from the tests of a plugin.

Each check raises an ``AssertionError`` that names the rule that was broken and where it is documented.
They take what a plugin's factory makes, together with data that the author chooses, and need no test runner.

>>> from specinn.plugins import Plugins
>>> from specinn.testing import check_instrument
>>> check_instrument(Plugins().record("instrument", "uves").toml).name
'uves'
"""

from specinn.testing.corrections import check_correction, check_fit
from specinn.testing.estimators import check_estimator, check_training
from specinn.testing.flows import check_invertible, check_log_density
from specinn.testing.grid_loaders import check_grid_loader
from specinn.testing.instruments import check_instrument
from specinn.testing.preprocessors import check_preprocessor
from specinn.testing.readers import check_reader
from specinn.testing.records import check_plugin
from specinn.testing.synthesizers import check_synthesizer

__all__ = [
    "check_correction",
    "check_estimator",
    "check_fit",
    "check_grid_loader",
    "check_instrument",
    "check_invertible",
    "check_log_density",
    "check_plugin",
    "check_preprocessor",
    "check_reader",
    "check_synthesizer",
    "check_training",
]
