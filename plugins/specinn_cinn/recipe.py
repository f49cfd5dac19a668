"""The table ``[estimator]`` of a recipe: what can be chosen of a training."""

from __future__ import annotations

from typing import Any

import attrs

from specinn.config import structure
from specinn.errors import ConfigError, near
from specinn.simulation.disturbances import Disturbances
from specinn.spectra.continuum import ContinuumOptions

from .model_errors import Calibrator
from .network import PRESETS, Architecture
from .ood_fit import StrangersPlan
from .simulator import PhysicsError, Prior

LABELS = (
    "teff",
    "logg",
    "fe_h",
    "vbroad",
    "vmic",
    "ca_fe",
    "c_fe",
    "mg_fe",
    "mn_fe",
    "n_fe",
    "si_fe",
    "ti_fe",
    "a_li",
)


@attrs.frozen
class Schedule:
    """``steps`` batches of ``batch`` spectra; each noiseless spectrum is observed ``repeats`` times. The
    weights that count are a running mean (``average`` per step). Every ``validate_every`` steps the loss on
    the grid's validation spectra is taken; ``patience`` validations without gain end the training.
    ``backward`` weighs the paper's second loss: latent variables are jittered by ``jitter``, and the squared
    distance of what comes back counts (None: 0 for the preset default, 1 for paper)."""

    steps: int = 6000
    batch: int = 512
    repeats: int = 3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    average: float = 0.998
    backward: float | None = None
    jitter: float = 0.01
    clip: float = 5.0
    validate_every: int = 250
    patience: int = 12
    seed: int = 0


@attrs.frozen
class Masking:
    """Pixels at which any calibrator's residual exceeds ``limit`` are never used, nor what lies within
    ``around`` km/s of a synthetic line that is too deep by more than ``wrong``: no star has it, so rotation
    would bring its wings in. Those of the windows ``keep`` (label: low, high; Angstrom) are used always: 6707
    is lithium's only line."""

    limit: float = 0.05
    wrong: float = 0.15
    around: float = 30.0
    keep: dict[str, tuple[float, float]] = attrs.field(factory=lambda: {"a_li": (6706.5, 6709.0)})


@attrs.frozen
class Config:
    """The ``[estimator]`` table of a training file; see docs/training.md for every key."""

    name: str
    instrument: str
    arms: list[str]
    grid: list[str]
    emulator: str = ""
    synthesizer: str = "emulator"
    preset: str = "default"
    start: str = ""
    labels: list[str] = attrs.field(factory=lambda: list(LABELS))
    device: str = "cpu"
    real_fraction: float = 0.05
    architecture: dict[str, Any] = attrs.field(factory=dict)
    schedule: Schedule = attrs.field(factory=Schedule)
    disturbances: Disturbances = attrs.field(factory=Disturbances)
    prior: Prior = attrs.field(factory=Prior)
    physics: PhysicsError = attrs.field(factory=PhysicsError)
    masking: Masking = attrs.field(factory=Masking)
    continuum: ContinuumOptions = attrs.field(factory=ContinuumOptions)
    calibrators: list[Calibrator] = attrs.field(factory=list)
    strangers: StrangersPlan = attrs.field(factory=StrangersPlan)


@attrs.frozen
class _Sizes:
    architecture: Architecture


def architecture(settings: Config) -> Architecture:
    """The preset with the sizes that the configuration changes.

    Raises ``ConfigError`` for an unknown preset or size.
    """
    if settings.preset not in PRESETS:
        raise ConfigError(f"$.preset is {settings.preset!r}; {near(settings.preset, PRESETS)}")
    sizes = {**attrs.asdict(PRESETS[settings.preset]), **settings.architecture}
    return structure({"architecture": sizes}, _Sizes, "training configuration").architecture
