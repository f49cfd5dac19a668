"""Everything that the author of a plugin needs, and the loading of plugins.

    from specinn.plugins import Preprocessor, Record, hookimpl

Hooks and records, the classes to implement, the nouns of specinn, its errors, and what authors would
otherwise copy from one another: reading of TOML, weights and model files, checkpoints, simulated training
spectra. Heavy modules are imported when a name is first used, so a module with hooks stays light.

:class:`Plugins` loads what plugins offer, one at a time, so that a broken one costs nothing else.

>>> from specinn.plugins import Plugins
>>> plugins = Plugins()
>>> "uves" in [offer.record.name for offer in plugins.offers("instrument")]
True
>>> reader = plugins.load("reader", "4most")()  # the object that its factory makes
>>> plugins.record("instrument", "uvs")
Traceback (most recent call last):
    ...
specinn.errors.PluginError: no instrument is called 'uvs'...uves...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specinn.plugins.hookspecs import (
    EstimatorRecord,
    InstrumentRecord,
    ReaderRecord,
    Record,
    SynthesizerRecord,
    hookimpl,
)
from specinn.plugins.manager import Plugins, load_factory

if TYPE_CHECKING:
    from specinn.config import read_toml, structure
    from specinn.errors import (
        ConfigError,
        GridError,
        ModelError,
        OutputError,
        PluginError,
        ReadError,
        SpecinnError,
        SpectrumWarning,
        SynthesisError,
    )
    from specinn.files import replacing
    from specinn.flags import Flag, flags_of, raise_flag
    from specinn.grids import Grid
    from specinn.grids import load as load_grid
    from specinn.instruments import Instrument
    from specinn.labels import LabelSet, make_label
    from specinn.plugins.interfaces import (
        BenchmarkStars,
        Component,
        Correction,
        Estimator,
        GridLoader,
        LeaveOneOut,
        OODScore,
        Preprocessor,
        Reader,
        Synthesizer,
        Templates,
    )
    from specinn.plugins.model_file import ModelParts, open_model, save_model
    from specinn.posterior import Posterior, Summary
    from specinn.simulation.disturbances import Disturbances, Noise
    from specinn.simulation.observer import ModelGrid, Observer
    from specinn.simulation.training_spectra import TrainingSpectra
    from specinn.spectra import SpectrumBatch, snr_per_angstrom
    from specinn.spectra.continuum import ContinuumFit, ContinuumOptions
    from specinn.spectra.resample import Resampler, pixel_widths
    from specinn.training.checkpoint import fingerprint, load_checkpoint, one_cycle, save_checkpoint
    from specinn.wavelengths import doppler, to_medium
    from specinn.weights import fitting, load_weights, save_weights

_NAMES = {
    "config": "read_toml structure",
    "errors": "ConfigError GridError ModelError OutputError PluginError ReadError SpecinnError "
    "SpectrumWarning SynthesisError",
    "files": "replacing",
    "flags": "Flag flags_of raise_flag",
    "grids": "Grid load_grid",
    "instruments": "Instrument",
    "labels": "LabelSet make_label",
    "plugins.interfaces": "BenchmarkStars Component Correction Estimator GridLoader LeaveOneOut OODScore "
    "Preprocessor Reader Synthesizer Templates",
    "plugins.model_file": "ModelParts open_model save_model",
    "posterior": "Posterior Summary",
    "simulation.disturbances": "Disturbances Noise",
    "simulation.observer": "ModelGrid Observer",
    "simulation.training_spectra": "TrainingSpectra",
    "spectra": "SpectrumBatch snr_per_angstrom",
    "spectra.continuum": "ContinuumFit ContinuumOptions",
    "spectra.resample": "Resampler pixel_widths",
    "training.checkpoint": "fingerprint load_checkpoint one_cycle save_checkpoint",
    "wavelengths": "doppler to_medium",
    "weights": "fitting load_weights save_weights",
}
_LAZY = {name: f"specinn.{module}" for module, names in _NAMES.items() for name in names.split()}
_CALLED = {"load_grid": "load"}  # there
_FORMER = {"Strangeness": "specinn.plugins.interfaces"}  # which says what replaces the name

__all__ = [
    "BenchmarkStars",
    "Component",
    "ConfigError",
    "ContinuumFit",
    "ContinuumOptions",
    "Correction",
    "Disturbances",
    "Estimator",
    "EstimatorRecord",
    "Flag",
    "Grid",
    "GridError",
    "GridLoader",
    "Instrument",
    "InstrumentRecord",
    "LabelSet",
    "LeaveOneOut",
    "ModelError",
    "ModelGrid",
    "ModelParts",
    "Noise",
    "OODScore",
    "Observer",
    "OutputError",
    "PluginError",
    "Plugins",
    "Posterior",
    "Preprocessor",
    "ReadError",
    "Reader",
    "ReaderRecord",
    "Record",
    "Resampler",
    "SpecinnError",
    "SpectrumBatch",
    "SpectrumWarning",
    "Summary",
    "SynthesisError",
    "Synthesizer",
    "SynthesizerRecord",
    "Templates",
    "TrainingSpectra",
    "doppler",
    "fingerprint",
    "fitting",
    "flags_of",
    "hookimpl",
    "load_checkpoint",
    "load_factory",
    "load_grid",
    "load_weights",
    "make_label",
    "one_cycle",
    "open_model",
    "pixel_widths",
    "raise_flag",
    "read_toml",
    "replacing",
    "save_checkpoint",
    "save_model",
    "save_weights",
    "snr_per_angstrom",
    "structure",
    "to_medium",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    module = _LAZY.get(name) or _FORMER.get(name)
    if module is not None:
        import importlib

        return getattr(importlib.import_module(module), _CALLED.get(name, name))
    raise AttributeError(f"module 'specinn.plugins' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With what is imported when it is first used, which notebooks complete."""
    return sorted({*globals(), *__all__})
