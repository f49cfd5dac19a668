"""The table ``[estimator]`` of a recipe: all options of a network and of its training."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from specinn.config import structure
from specinn.errors import ConfigError, near
from specinn.simulation.disturbances import Disturbances
from specinn.spectra.continuum import ContinuumOptions

BLOCK = 96  # stars simulated at once for the signs of spectra out of distribution
FORMER = {"calibrators": "reference_stars", "strangers": "ood"}  # tables of recipes by their former names
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
class Architecture:
    """Sizes of a network.

    ``projection``: width of a first linear layer that starts from :class:`Filters` (0 = none); ``features``:
    widths of the fully connected layers, the last of which is the condition of the flow; ``activation``
    between layers (and in the flow, where ``flow_activation`` names no other: relu costs less than silu in
    sampling); ``gaussian``: whether the flow begins with an amortised Gaussian (a mean and a full triangular
    scale from the condition); ``blocks`` conditional GLOW coupling blocks whose sub-networks have ``depth``
    hidden layers of ``width``.
    """

    projection: int = 256
    features: tuple[int, ...] = (512, 512, 512, 128)
    activation: Literal["silu", "relu"] = "silu"
    flow_activation: Literal["", "silu", "relu"] = ""
    gaussian: bool = True
    blocks: int = 4
    depth: int = 1
    width: int = 64


PRESETS = {
    "default": Architecture(),
    "paper": Architecture(
        projection=0,
        features=(2048, 1024, 512, 256),
        activation="relu",
        gaussian=False,
        blocks=8,
        depth=3,
        width=512,
    ),
}
BACKWARD = {"default": 0.0, "paper": 1.0}  # weight of the paper's second loss, by preset


@attrs.frozen
class Schedule:
    """``steps`` batches of ``batch`` spectra; each noiseless spectrum is observed ``repeats`` times. The
    weights that count are a running mean (``average`` per step). Every ``validate_every`` steps the loss on
    the grid's validation spectra is computed; ``patience`` validations without improvement end the training.
    ``backward`` weighs the paper's second loss: latent variables are jittered by ``jitter``, and the squared
    distance of the resulting labels is added (None: 0 for the preset default, 1 for paper). ``workers``
    batches are simulated at a time, by threads; what is drawn does not depend on it."""

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
    workers: int = 1


@attrs.frozen
class Filters:
    """With what the projection starts: for each of ``kinds`` of stars a filter for each label, by ridge
    regression on ``spectra`` simulated observations with S/N per Angstrom in ``snr`` (fewer kinds where the
    projection has no room for more), and principal components. The learning rate of the projection is
    ``rate`` times that of the rest: full steps, in thousands of pixels, would undo the filters at once."""

    kinds: int = 14
    spectra: int = 40_000
    snr: tuple[float, float] = (80.0, 500.0)
    rate: float = 0.02


@attrs.frozen
class Prior:
    """Labels of training spectra.

    Stellar parameters come from one model of the grid's training split, abundances from another (they were
    drawn independently), both blurred by ``blur`` standard deviations of the grid; values outside the
    grid's bounds are drawn again. With ``recipe``, the TOML that a grid is made from, they are drawn from its
    prior instead, within the bounds of the emulator: then no model need be in the grid but those of the
    validation. vbroad is log-uniform in ``vbroad`` km/s.
    """

    recipe: str = ""
    blur: float = 0.1
    vbroad: tuple[float, float] = (0.5, 100.0)


@attrs.frozen
class PhysicsError:
    """Structured errors of model spectra: without them every real star comes out 0.4 dex too low in logg.

    The residuals, synthetic minus observed, of reference stars are scaled with the depth
    of a simulated star's own lines, and where it has none with their mean depth: missing and
    spurious lines are weak in a metal-poor star. Every simulated spectrum gets

    - their mean, weighted by similarity (a Gaussian of ``reach`` in Teff, logg and [Fe/H]), times a factor
      between 0.5 and 1.5 of ``common``: errors that similar stars share are errors of line data, and are
      present in this one;
    - a random combination of them, whose normal weights (standard deviation ``amplitude``) vary along the
      spectrum with a coherence of ``wander`` km/s: the network would find out weights that are the same
      everywhere, and subtract them;
    - an individual error of every line, ``line`` times their root mean square and coherent over ``width``
      km/s (neither of these two applies in the windows that are kept in spite of large residuals);
    - if it was emulated, ``emulator`` times the error of the emulator for a similar star, with weights that
      wander, too.

    Two more errors grow with -[Fe/H] and have a known sign; each is drawn between 0 and twice the given
    value. Metal lines are excited as in a cooler star, by ``excitation`` K per dex: in LTE the temperature
    from the excitation of iron is low by 200 K for giants at -2.5 and by less for warmer stars (Frebel et al.
    2013, ApJ 769, 57). Lines of neutral metals are weaker, as by an abundance lower by ``overionisation`` dex
    per dex (Lind et al. 2012, MNRAS 427, 50; Bergemann et al. 2012, MNRAS 427, 27); 0 for a grid in NLTE.

    Wings of hydrogen lines are those of a star warmer or cooler by ``balmer`` K (standard deviation): models
    of one dimension in LTE need other temperatures for them than for metal lines (Amarsi et al. 2018, A&A
    615, A139).

    What looks like a change of labels no network can tell from one. Each of ``shifts`` is a direction in the
    space of labels, with the standard deviation of every label that it moves. They are no part of the
    training: posteriors of spectra that are not declared synthetic get wider by them (:mod:`.shifts`).

    A fraction ``synthetic`` of spectra has none of these errors but the emulator's, and the network receives
    this information: the posterior of a spectrum computed with the physics of the grid may be as narrow as
    its noise allows, that of an observed one may not.
    """

    amplitude: float = 0.4
    common: float = 1.0
    reach: tuple[float, float, float] = (700.0, 2.5, 2.5)
    wander: float = 1500.0
    line: float = 0.4
    width: float = 25.0
    emulator: float = 1.0
    excitation: float = 60.0
    overionisation: float = 0.08
    balmer: float = 0.0
    shifts: list[dict[str, float]] = attrs.field(factory=list)
    synthetic: float = 0.3


@attrs.frozen
class ReferenceStar:
    """A star with known parameters. ``labels`` gives the emulator's labels; abundances that it leaves out are
    solar ([X/Fe] = 0, A(Li) = 1.05 + [Fe/H] for stars that have not destroyed it). vbroad is fitted."""

    name: str
    path: str
    resolving_power: float
    labels: dict[str, float]
    fit: tuple[str, ...] = ()


@attrs.frozen
class Masking:
    """Pixels at which any reference star's residual exceeds ``limit`` are never used, nor are those within
    ``around`` km/s of a synthetic line that is too deep by more than ``wrong``: no star has it, so rotation
    would bring its wings in. Those of the windows ``keep`` (label: low, high; Angstrom) are always used:
    lithium has only the line at 6707."""

    limit: float = 0.05
    wrong: float = 0.15
    around: float = 30.0
    keep: dict[str, tuple[float, float]] = attrs.field(factory=lambda: {"a_li": (6706.5, 6709.0)})


@attrs.frozen
class OODOptions:
    """Numbers of simulated stars: noiseless ones for the decoder, observed ones for the signs (each of which
    is also altered in ``alterations`` ways), observed ones for the thresholds, at which ``false_alarms`` of
    the spectra of the training are flagged. Half of the stars for the signs have errors of the physics
    ``wider`` times those of the training, and waves of 2 % on their continua: errors for stars unlike the
    reference stars may be larger. Each of the networks is trained for ``steps`` of ``learning_rate``. With
    ``signs = 0`` a model gets no signs."""

    decoder: int = 6144
    signs: int = 16384
    alterations: int = 4
    thresholds: int = 4096
    false_alarms: float = 0.01
    wider: float = 1.5
    steps: int = 4000
    learning_rate: float = 2e-3
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        few = self.signs and min(self.decoder, self.signs, self.thresholds, 48 * self.alterations) < BLOCK
        if few or not 0 < self.false_alarms < 0.5:
            raise ConfigError(
                f"ood: expected at least {BLOCK} stars each for decoder, signs (or 0 for none) and "
                "thresholds, 2 alterations, and false_alarms between 0 and 0.5"
            )


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
    filters: Filters = attrs.field(factory=Filters)
    disturbances: Disturbances = attrs.field(factory=Disturbances)
    prior: Prior = attrs.field(factory=Prior)
    physics: PhysicsError = attrs.field(factory=PhysicsError)
    masking: Masking = attrs.field(factory=Masking)
    continuum: ContinuumOptions = attrs.field(factory=ContinuumOptions)
    reference_stars: list[ReferenceStar] = attrs.field(factory=list)
    ood: OODOptions = attrs.field(factory=OODOptions)


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
