"""What a plugin implements. Every method is batch-first."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from specinn.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from specinn.grids import Grid
    from specinn.instruments import Instrument
    from specinn.labels import LabelSet
    from specinn.posterior import Posterior, Summary
    from specinn.spectra import SpectrumBatch


class Reader(ABC):
    """Reads one file format."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether the file's content is of this format. Reads little, and never raises on files of other
        formats."""

    @abstractmethod
    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        """The spectra of the file, in file order, in batches of bounded size; wavelengths in Angstrom in the
        barycentric (or rest) frame. ``meta`` has ``id`` and ``path``, and ``rv`` where the file states it.

        Raises ``specinn.errors.ReadError`` with what was found and what was expected.
        """

    def count(self, path: Path) -> int | None:
        """The number of spectra in the file, if that is known without reading them; else None.

        It is used to divide runs over files of many spectra. A reader that counts implements ``read_rows``.
        """
        return None

    def read_rows(self, path: Path, start: int, stop: int) -> Iterator[SpectrumBatch]:
        """As ``read``, the spectra from number ``start`` to before ``stop``, with the same ``id`` each.

        Raises ``specinn.errors.ReadError`` as ``read`` does.
        """
        done = 0
        for batch in self.read(path):
            low, high = max(start - done, 0), min(stop - done, len(batch))
            if low < high:
                yield batch[low:high]
            done += len(batch)
            if done >= stop:
                return


@attrs.frozen(eq=False)
class Templates:
    """Model spectra for radial velocities: ``flux (n_templates, n_pix)`` on a grid uniform in ln(lambda).

    ``wavelength (n_pix,)`` Angstrom, in the pieces ``arms``; normalised; at the given resolving power.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    arms: Mapping[str, slice]
    resolving_power: float


Stage = Literal["mask", "velocity", "pixels", "noise", "continuum", "other"]


class Preprocessor(ABC):
    """One step from the spectra as they were read to the pixels of the model.

    ``instrument`` is the model's, with the arms it uses; ``templates`` serve the velocity. A step returns
    a new batch, never fewer spectra, sets bits in ``meta["flags"]`` instead of raising for a single bad
    spectrum, and treats simulated and observed spectra alike.

    Attributes
    ----------
    stage : the purpose of the step, which decides where simulated spectra enter a model's steps:
        ``mask`` (marks pixels to ignore), ``velocity`` (moves spectra to rest), ``pixels`` (puts them on the
        pixels and the resolving power of the instrument), ``noise`` (adds noise on purpose), ``continuum``
        (divides by the continuum), or ``other``.
    takes_velocity : whether the step has an option ``velocity``: a number in km/s for all spectra, ``"auto"``
        to measure all, or None to take what files state.
    """

    stage: ClassVar[Stage] = "other"
    takes_velocity: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch: ...


def first_of(stage: Stage, steps: Sequence[Preprocessor | type[Preprocessor]]) -> int | None:
    """The number of the first of the ``steps``, or of their classes, of that ``stage``; None without one."""
    return next((number for number, step in enumerate(steps) if step.stage == stage), None)


def needed_on_pixels(steps: Sequence[Preprocessor | type[Preprocessor]]) -> list[bool]:
    """``(n_steps,)`` which of the ``steps``, or of their classes, a spectrum that is on the pixels of the
    model still needs: those after the stage ``pixels``; without one, those of the stage ``continuum``."""
    pixels = first_of("pixels", steps)
    return [step.stage == "continuum" if pixels is None else i > pixels for i, step in enumerate(steps)]


class GridLoader(ABC):
    """Reads one layout of synthetic spectra."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether the file or folder has this layout."""

    @abstractmethod
    def load(self, path: Path) -> Grid:
        """The grid, its spectra read on request.

        Raises ``specinn.errors.GridError`` that names the defective file and the defect.
        """


@attrs.frozen
class Component:
    """A part of a synthesis code that is installed apart: its ``name``, whether it is ``present``, ``detail``
    where, or why not, and ``remedy`` the command that installs it ("" if nothing is to be done)."""

    name: str
    present: bool
    detail: str
    remedy: str = ""


class Synthesizer(ABC):
    """Labels in, noiseless spectra out: normalised flux at the resolving power ``resolving_power``.

    ``labels`` are the names it takes, in order; ``bounds (n_labels, 2)`` where it is valid; ``wavelength``
    ``(n_pix,)`` Angstrom in ``medium``; where that is in pieces, ``arms`` names them (name -> slice).
    ``provenance`` is the physics, which goes into the header of grids, models and catalogues (JSON values):
    ``code``, ``version``, ``nlte`` (by element), ``atmospheres``, ``line_lists`` (name -> SHA-256),
    ``line_corrections`` (source and SHA-256), ``solar_scale``, and whatever else is needed to reproduce
    the spectra. ``differentiable`` ones take and give tensors of torch through which gradients reach every
    label.
    """

    labels: tuple[str, ...]
    bounds: np.ndarray
    wavelength: np.ndarray
    resolving_power: float
    medium: str
    provenance: Mapping[str, Any] = MappingProxyType({})
    differentiable: ClassVar[bool] = False

    @cached_property
    def arms(self) -> Mapping[str, slice]:
        """The pieces of ``wavelength`` by name. Optional. One, ``all``, unless overridden."""
        return {"all": slice(0, len(self.wavelength))}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], labels: Sequence[str]) -> Synthesizer:
        """As ``config``, the ``[synthesizer]`` table of a TOML file without its ``kind``, says, for stars
        that differ in ``labels``. Paths are relative to the working folder.

        Raises ``specinn.errors.ConfigError`` with the path to a wrong key. Unless overridden there are none.
        """
        for key in config:
            raise ConfigError(f"[synthesizer]: $.{key} is not known: {cls.__name__} has no keys")
        return cls()

    @classmethod
    def load(cls, path: Path | None = None) -> Synthesizer:
        """The synthesizer as its plugin provides it, or with the trained weights in the file ``path``.

        Optional. Without a ``path`` it is called without arguments, and a ``path`` raises
        ``specinn.errors.ConfigError``, unless overridden.
        """
        if path is not None:
            raise ConfigError(f"the synthesizer {cls.__name__} is not trained: it does not read {path}")
        return cls()

    @classmethod
    def components(cls, prefix: Path | None = None) -> list[Component]:
        """What is installed apart, in the folder ``prefix`` (None: where :meth:`setup` puts it by default).

        Optional. Nothing, unless overridden.
        """
        return []

    @classmethod
    def setup(cls, prefix: Path | None, progress: Callable[[str], None]) -> None:
        """Install the :meth:`components` in the folder ``prefix`` (None: the default); ``progress`` is called
        with sentences. Existing parts are kept.

        Optional. Does nothing, unless overridden.
        """
        return None

    def covering(self, ranges: Mapping[str, tuple[float, float]]) -> Synthesizer:
        """The synthesizer over the wavelengths of each arm of an instrument: ``ranges``, by name, are first
        and last in Angstrom in :attr:`medium`.

        Optional. This one, whatever its coverage, unless overridden: for codes whose wavelengths can be
        chosen.
        """
        return self

    def resampled(
        self, wavelength: np.ndarray, arms: Mapping[str, slice], operator: Any
    ) -> Callable[[Any], Any]:
        """This synthesizer, followed by a linear ``operator (n_out, n_pix)`` (sparse, of scipy) to
        ``wavelength (n_out,)`` Angstrom in the pieces ``arms``: labels ``(n_spec, n_labels)`` to flux
        ``(n_spec, n_out)``.

        Optional. Applied to every spectrum, unless overridden: for those that can apply it once.
        """
        return lambda labels: (operator @ np.asarray(self(labels)).T).T

    @classmethod
    def train(
        cls, config: Mapping[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None]
    ) -> Synthesizer:
        """Superseded by the function that the record names as its ``trainer``, which takes the same
        ``config``, ``folder`` and ``progress``, as that of an estimator does.

        Raises ``specinn.errors.ConfigError`` unless overridden.
        """
        raise ConfigError(f"the synthesizer {cls.__name__} is not one that is trained")

    def save(self, path: Path) -> None:
        """Write what was trained to the file ``path``, atomically, for :meth:`load`.

        Optional. Raises ``specinn.errors.ConfigError`` unless overridden.
        """
        raise ConfigError(f"the synthesizer {type(self).__name__} is not one that is trained")

    @classmethod
    def fit_lines(
        cls,
        recipe: Path,
        output: Path,
        plugins: Any,
        *,
        folder: Path,
        page: Path | None = None,
        leave_one_out: bool = False,
        processes: int = 1,
        progress: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Fit the line data to reference stars, as the file ``recipe`` says, and write a table of lines to
        the file ``output`` (and figures to ``page``); readers come from ``plugins``. What is computed on the
        way, in ``processes`` processes reported to ``progress``, is kept in ``folder`` for later runs. With
        ``leave_one_out`` each star is also left out of the fit in turn.

        Optional. Raises ``specinn.errors.ConfigError`` unless overridden.
        """
        raise ConfigError(
            f"the synthesizer {cls.__name__} does not fit line data: choose another with --code"
        )

    @abstractmethod
    def __call__(self, labels: Any) -> Any:
        """``(n_spec, n_labels)`` physical values to flux ``(n_spec, n_pix)``; torch tensors give tensors.

        A spectrum that cannot be computed raises an exception that says why.
        """


@attrs.frozen(eq=False)
class OODScore:
    """How far out of the distribution of the training spectra are: ``score (n_spec,)``, above 1 for those to
    which the model does not apply, NaN where unknown; ``reasons``, for each spectrum the evidence in words
    ("" for none)."""

    score: np.ndarray
    reasons: Sequence[str]


class Estimator(ABC):
    """A trained map from spectra on the model's arms to posteriors.

    Attributes
    ----------
    labels
        The labels it infers, with their training bounds, and the spread of their training values
        (:meth:`~specinn.labels.LabelSet.with_spreads`; without it the prior is taken as flat), from which it
        is told whether a spectrum determines a label at all.
    instrument
        The instrument it was trained for, with the arms it uses.
    preprocessing
        Names and options of the steps that spectra pass before :meth:`sample`, in order.
    templates
        For the radial velocity.
    header
        What a user should know: physics of the grid, versions, test metrics (JSON values).
    """

    labels: LabelSet
    instrument: Instrument
    preprocessing: tuple[tuple[str, dict[str, Any]], ...]
    templates: Templates
    header: dict[str, Any]

    @classmethod
    def train(
        cls, config: Mapping[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None]
    ) -> Estimator:
        """Superseded by the function that the record names as its ``trainer``, which takes the same
        ``config``, ``folder`` and ``progress``; called for an older record that names none.

        Raises ``specinn.errors.ConfigError`` unless overridden.
        """
        raise ConfigError(f"the estimator {cls.__name__} is not one that is trained")

    @classmethod
    @abstractmethod
    def load(cls, path: Path, device: str = "cpu") -> Estimator:
        """Read a model that :meth:`save` wrote, to compute on a ``device`` of torch; never unpickles.

        Raises ``specinn.errors.ModelError`` for a file that is not such a model.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write weights and header to one safetensors file, atomically."""

    def encode(self, batch: SpectrumBatch) -> Any:
        """What :meth:`ood_score`, :meth:`sample` and :meth:`summarise` share of a preprocessed batch, which
        then receive it in place of the batch: a sequence of which ``[rows]`` gives the spectra of a mask or
        of a list of numbers. They take the batch itself, too.

        Optional. The batch, unless overridden.
        """
        return batch

    @abstractmethod
    def sample(self, batch: SpectrumBatch, n_samples: int, seed: int) -> Posterior:
        """Draw ``n_samples`` for every spectrum of a preprocessed batch. The samples of a spectrum depend
        only on the spectrum, its ``meta["key"]`` and the seed, and not on the rest of the batch.
        """

    def summarise(self, batch: SpectrumBatch, n_samples: int, seed: int) -> Summary:
        """The summary of what :meth:`sample` draws for the same ``n_samples`` and ``seed``; faster if the
        samples themselves are not needed."""
        return self.sample(batch, n_samples, seed).summary()

    @property
    def used_pixels(self) -> np.ndarray:
        """``(n_pix,)`` whether the estimator uses a pixel of the instrument; all within the arms unless
        overridden."""
        return np.concatenate([arm.contains(arm.wavelength) for arm in self.instrument.arms])

    def gradients(self, batch: SpectrumBatch, n_samples: int, seed: int) -> np.ndarray:
        """How each label changes with the flux of each pixel: derivatives ``(n_spec, n_labels, n_pix)`` of
        the mean of ``n_samples`` samples, inside the bounds or not, in physical units for a change of the
        normalised flux by 1; sigma and the random numbers of ``seed`` held fixed, 0 for pixels that are not
        used.

        Optional. Raises ``specinn.errors.ModelError`` unless overridden.
        """
        raise ModelError(
            f"{type(self).__name__} does not provide the derivatives of its labels with respect to the flux"
        )

    def ood_score(self, batch: SpectrumBatch) -> OODScore | None:
        """How far each spectrum of a preprocessed batch is out of the distribution of the training,
        independently of the others. A spectrum with a score above 1 is flagged and not sampled.

        Optional. None where the estimator cannot tell, as unless overridden.
        """
        former = getattr(self, "strangeness", None)  # of an estimator that was written for this name
        if former is None:
            return None
        name = type(self).__name__
        warnings.warn(
            f"the method strangeness of {name} is now called ood_score", DeprecationWarning, stacklevel=2
        )
        score: OODScore | None = former(batch)
        return score

    @abstractmethod
    def log_prob(self, batch: SpectrumBatch, labels: np.ndarray) -> np.ndarray:
        """Log density ``(n_spec, n)`` in network label space of physical values ``(n_spec, n, n_labels)``."""


@attrs.frozen(eq=False)
class BenchmarkStars:
    """What a model inferred for stars whose parameters are known: what a correction is fitted on.

    ``posterior`` has a row for each spectrum, with at least one accepted sample; ``star (n_spec,)`` is the
    name of its star. Spectra of one star share its weight. ``literature`` and ``errors`` have values and
    their standard errors ``(n_spec,)`` by name of the label; NaN and 0 where not known. ``seen (n_spec,)``
    marks the stars of the model's training. Only stars of at least ``fe_h_min`` were chosen, if it is given;
    ``model`` is the SHA-256 of the model, and ``provenance`` says in words where the data come from.
    """

    star: np.ndarray
    posterior: Posterior
    literature: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]
    seen: np.ndarray
    fe_h_min: float | None = None
    model: str | None = None
    provenance: str = ""

    def __len__(self) -> int:
        return len(self.star)

    def __getitem__(self, rows: np.ndarray) -> BenchmarkStars:
        """The chosen spectra, by number or by a mask."""
        literature, errors = (
            {name: values[rows] for name, values in of.items()} for of in (self.literature, self.errors)
        )
        chosen = {"star": self.star[rows], "posterior": self.posterior[rows], "seen": self.seen[rows]}
        return attrs.evolve(self, literature=literature, errors=errors, **chosen)


@attrs.frozen
class LeaveOneOut:
    """Errors of the MAP of ``n_stars`` that were left out of the fit, in the unit of the label: median
    absolute ones (``median_before`` and ``median_after`` the correction) and root mean square
    (``rms_before``, ``rms_after``)."""

    n_stars: int
    median_before: float
    median_after: float
    rms_before: float
    rms_after: float

    @property
    def helps(self) -> bool:
        """Whether both errors are smaller after it."""
        return self.median_after < self.median_before and self.rms_after < self.rms_before


class Correction(ABC):
    """Moves posterior samples; never applied silently. The methods that are not abstract serve
    ``specinn fit-correction``.

    ``model`` is the SHA-256 of the trained model that it belongs to, or its first digits; None: any.
    """

    model: str | None = None

    @abstractmethod
    def apply(self, posterior: Posterior) -> tuple[Posterior, np.ndarray]:
        """The corrected posterior, and ``(n_spec,)`` whether each star was within the correction's range."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Correction:
        """Read a correction from TOML.

        Raises ``specinn.errors.ConfigError`` with the path to a wrong value.
        """

    @classmethod
    def fit(
        cls, stars: BenchmarkStars, use: np.ndarray, leave_one_out: Mapping[str, LeaveOneOut] | None = None
    ) -> Correction:
        """The correction of every label in ``stars.literature``, from the spectra that the mask
        ``use (n_spec,)`` names; its range is that of all ``stars``. ``leave_one_out``, by label, is for the
        file.

        Optional. Raises ``specinn.errors.ConfigError`` unless overridden.
        """
        raise ConfigError(f"the correction {cls.__name__} cannot be fitted: choose another with --kind")

    def save(self, path: Path) -> None:
        """Write the TOML file that :meth:`load` reads, whole or not at all.

        Optional. Raises ``specinn.errors.ConfigError`` unless overridden.
        """
        raise ConfigError(f"the correction {type(self).__name__} cannot be saved")

    def terms(self) -> Mapping[str, Mapping[str, tuple[float, float]]]:
        """By label, what was fitted: name of the term -> value and standard error."""
        return {}

    def bias(self, label: str, teff: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """What is subtracted from ``label`` at ``teff (n,)`` in K, and its standard error; None if it depends
        on more than that."""
        return None


INTERFACES: Mapping[str, type] = MappingProxyType(
    {
        "reader": Reader,
        "preprocessor": Preprocessor,
        "grid loader": GridLoader,
        "synthesizer": Synthesizer,
        "estimator": Estimator,
        "correction": Correction,
    }
)  # what the factory of each kind of record must be


def __getattr__(name: str) -> Any:
    """``Strangeness``, the former name of :class:`OODScore`."""
    if name == "Strangeness":
        message = "specinn.plugins.Strangeness is now called OODScore"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return OODScore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
