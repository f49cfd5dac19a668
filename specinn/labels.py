"""Labels: the stellar parameters and abundances that a grid spans and an estimator infers.

A :class:`Label` has its conventional name, unit and bounds; a :class:`LabelSet` is what grids, models and
posteriors have, and converts between physical values and the variables that a network learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import attrs
import numpy as np

from specinn.errors import ConfigError, near

__all__ = [
    "ALPHA",
    "DERIVED",
    "SOLAR_LOG_EPS",
    "Label",
    "LabelSet",
    "Transform",
    "abundance",
    "alpha_m",
    "derived",
    "li_fe",
    "make_label",
    "printed_unit",
    "with_derived_labels",
]

Transform = Literal["linear", "log10", "probit"]

# Solar abundances log eps on the scale of Magg et al. (2022, A&A 661, A140); the table of docs/method.md.
SOLAR_LOG_EPS = {
    "Fe": 7.50,
    "Li": 1.05,
    "C": 8.56,
    "N": 7.98,
    "O": 8.77,
    "Mg": 7.55,
    "Si": 7.59,
    "Ca": 6.37,
    "Ti": 4.94,
    "Mn": 5.52,
}

_FIXED = {
    "teff": ("K", "log10", "Effective temperature"),
    "logg": ("dex(cm s-2)", "linear", "Surface gravity, log10 of cm/s2"),
    "fe_h": ("dex", "linear", "Iron abundance [Fe/H]"),
    "vmic": ("km s-1", "probit", "Microturbulence"),
    "vbroad": ("km s-1", "log10", "Rotational and other large-scale broadening, as v sin i"),
    "a_li": ("dex", "probit", "Lithium abundance A(Li) = log10(N_Li/N_H) + 12"),
}
_SYMBOLS = {"teff": r"$T_\mathrm{eff}$", "logg": r"$\log\,g$", "vmic": r"$v_\mathrm{mic}$",
            "vbroad": r"$v_\mathrm{broad}$", "a_li": "A(Li)", "alpha_m": r"[$\alpha$/M]"}  # fmt: skip
_PRINTED_UNITS = {"km s-1": "km/s", "dex(cm s-2)": "dex"}

# The elements whose mean [X/Fe] is [alpha/M], that of the model atmospheres; others follow it in grids.
ALPHA = ("mg_fe", "si_fe", "ca_fe", "ti_fe")
DERIVED = {"li_fe": ("a_li", "fe_h"), "alpha_m": ALPHA}  # labels that follow from others

# Elements with few lines: over much of the grid the posterior is the uniform prior, truncated at the bounds.
# In the probit of the position between the bounds it is a normal distribution, so nothing lies outside.
_BOUNDED = ("c_fe", "mn_fe", "n_fe")
_FLAT_STD = 12.0**-0.5  # of a flat distribution, over its range
_PROBIT_MARGIN = 1e-6  # of the range: the bounds themselves would be infinite


def _pair(bounds: Sequence[float]) -> tuple[float, float]:
    return float(bounds[0]), float(bounds[1])


def abundance(name: str) -> str:
    """``mg_fe`` as [Mg/Fe]."""
    element, _, reference = name.partition("_")
    return f"[{element.capitalize()}/{reference.capitalize()}]"


def printed_unit(unit: str) -> str:
    """A unit of astropy as people write it: ``km/s`` for ``km s-1``."""
    return _PRINTED_UNITS.get(unit, unit)


@attrs.frozen
class Label:
    """One stellar parameter.

    Attributes
    ----------
    name : str
        Such as ``teff`` or ``mg_fe``; see :func:`make_label`.
    unit : str
        In astropy's notation.
    bounds : tuple of float
        Those of the training set in physical units.
    transform : {"linear", "log10", "probit"}
        In which variable the network learns it: ``log10`` for quantities that span decades, ``probit`` (the
        normal quantile of the position between the bounds) for those that spectra often do not constrain.
    description : str
        One line for people.
    spread : float, optional
        Standard deviation of the values of the training, in the variable that the network learns (default:
        that of the prior which ``transform`` and ``bounds`` suggest, :attr:`prior_std`). It is no part of the
        identity of a label: labels that differ in it alone are equal.
    """

    name: str
    unit: str
    bounds: tuple[float, float] = attrs.field(converter=_pair)
    transform: Transform = "linear"
    description: str = ""
    spread: float | None = attrs.field(default=None, eq=False)

    @bounds.validator
    def _check_bounds(self, _attribute: Any, value: tuple[float, float]) -> None:
        if not (np.isfinite(value).all() and value[0] < value[1]):
            raise ConfigError(f"label {self.name}: bounds {value} are not an increasing pair of numbers")
        if self.transform == "log10" and value[0] <= 0:
            raise ConfigError(
                f"label {self.name} is learnt as log10, so its lower bound {value[0]} must be > 0"
            )

    @property
    def symbol(self) -> str:
        """The name as people write it, for matplotlib: ``[Mg/Fe]`` for ``mg_fe``."""
        return _SYMBOLS.get(self.name) or abundance(self.name)

    @property
    def printed_unit(self) -> str:
        """The unit as people write it."""
        return printed_unit(self.unit)

    @property
    def prior_std(self) -> float:
        """Standard deviation of what a model holds possible before it sees a spectrum, in the variable that
        the network learns: :attr:`spread`, and without it that of a prior that is flat between the bounds (in
        the logarithm for ``log10``, in the physical value for ``probit``)."""
        if self.spread is not None:
            return self.spread
        if self.transform == "probit":
            return 1.0
        low, high = (self.to_network(bound) for bound in self.bounds)
        return float(high - low) * _FLAT_STD

    def to_network(self, x: Any) -> Any:
        """Physical values (numpy or torch) to the variable that the network learns."""
        if self.transform == "log10":
            return x.log10() if hasattr(x, "log10") else np.log10(x)
        if self.transform == "probit":
            low, high = self.bounds
            position = ((x - low) / (high - low)).clip(_PROBIT_MARGIN, 1.0 - _PROBIT_MARGIN)
            return _special(x).ndtri(position)
        return x

    def from_network(self, y: Any) -> Any:
        """The inverse of :meth:`to_network`."""
        if self.transform == "log10":
            return 10.0**y
        if self.transform == "probit":
            low, high = self.bounds
            return low + (high - low) * _special(y).ndtr(y)
        return y


def make_label(name: str, bounds: tuple[float, float]) -> Label:
    """The label of that name with its conventional unit and transform.

    Parameters
    ----------
    name : str
        ``teff``, ``logg``, ``fe_h``, ``vmic``, ``vbroad``, ``a_li``, or an abundance ratio such as
        ``mg_fe`` for [Mg/Fe].
    bounds : tuple of float
        Those of the training set in the label's unit.

    Raises
    ------
    ConfigError
        For an unknown name; the message suggests the nearest one.

    Examples
    --------
    >>> from specinn.labels import make_label
    >>> make_label("teff", (4000.0, 7000.0)).unit, make_label("mg_fe", (-0.3, 0.6)).symbol
    ('K', '[Mg/Fe]')
    >>> make_label("tef", (4000.0, 7000.0))
    Traceback (most recent call last):
        ...
    specinn.errors.ConfigError: unknown label 'tef', ... did you mean 'teff'?
    """
    if name in _FIXED:
        unit, transform, text = _FIXED[name]
        return Label(name, unit, bounds, transform, text)  # type: ignore[arg-type]
    element, _, reference = name.partition("_")
    if reference != "fe" or not element.isalpha():
        raise ConfigError(f"unknown label {name!r}, and not an abundance such as mg_fe; {near(name, _FIXED)}")
    learnt: Transform = "probit" if name in _BOUNDED else "linear"
    return Label(name, "dex", bounds, learnt, f"Abundance ratio [{element.capitalize()}/Fe]")


def _as_tuple(labels: Iterable[Label]) -> tuple[Label, ...]:
    return tuple(labels)


@attrs.frozen
class LabelSet:
    """An ordered set of labels; converts between physical units and the network's label space.

    Attributes
    ----------
    labels : tuple of Label
        In the order of the last axis of all arrays ``(..., n_labels)``.

    Raises
    ------
    ConfigError
        If a name occurs twice.

    Examples
    --------
    >>> import numpy as np
    >>> from specinn.labels import LabelSet, make_label
    >>> labels = LabelSet([make_label("teff", (4000.0, 7000.0)), make_label("logg", (0.0, 5.0))])
    >>> labels.names, labels["teff"].transform, "fe_h" in labels
    (('teff', 'logg'), 'log10', False)
    >>> sun = np.array([5772.0, 4.44])
    >>> labels.to_network(sun).round(3)  # log10 of Teff
    array([3.761, 4.44 ])
    >>> labels.inside(np.array([[5772.0, 4.44], [8000.0, 4.0]])).tolist()
    [True, False]
    """

    labels: tuple[Label, ...] = attrs.field(converter=_as_tuple)

    def __attrs_post_init__(self) -> None:
        names = self.names
        if len(set(names)) != len(names):
            raise ConfigError(f"labels are named twice: {', '.join(names)}")

    @classmethod
    def from_dicts(cls, rows: Iterable[dict[str, Any]]) -> LabelSet:
        """The labels of ``rows``, tables of a model's header, as :meth:`to_dicts` gives them."""
        return cls(tuple(Label(**row) for row in rows))

    def to_dicts(self) -> list[dict[str, Any]]:
        """The fields of each :class:`Label` by name, as JSON values."""
        return [attrs.asdict(label) for label in self.labels]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the labels, in order."""
        return tuple(label.name for label in self.labels)

    @property
    def bounds(self) -> np.ndarray:
        """``(n_labels, 2)`` lower and upper bounds in physical units."""
        return np.array([label.bounds for label in self.labels])

    def index(self, name: str) -> int:
        """Position of the label of that name; ``ConfigError`` where there is none."""
        try:
            return self.names.index(name)
        except ValueError:
            raise ConfigError(f"no label {name!r}; {near(name, self.names)}") from None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> Any:
        return self.labels[self.index(key) if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def to_network(self, values: Any) -> Any:
        """Physical values ``(..., n_labels)`` (numpy or torch) to the variables that the network learns."""
        return self._convert(values, Label.to_network)

    def from_network(self, values: Any) -> Any:
        """Physical values of network ``values`` of the same shape: the inverse of :meth:`to_network`."""
        return self._convert(values, Label.from_network)

    def _convert(self, values: Any, function: Callable[[Label, Any], Any]) -> Any:
        if not hasattr(values, "clone"):
            values = np.asarray(values, dtype=float)
            return np.stack([function(label, values[..., i]) for i, label in enumerate(self.labels)], axis=-1)
        import torch

        return torch.stack([function(label, values[..., i]) for i, label in enumerate(self.labels)], dim=-1)

    def with_spreads(self, spreads: Sequence[float]) -> LabelSet:
        """The same labels with what a model holds possible before it sees a spectrum.

        ``spreads (n_labels,)`` are the :attr:`Label.spread` of each, standard deviations of its values in the
        training in the variable that the network learns.
        """
        pairs = zip(self.labels, spreads, strict=True)
        return LabelSet([attrs.evolve(label, spread=float(one)) for label, one in pairs])

    def inside(self, values: Any) -> Any:
        """``(...)`` boolean: every label of ``values (..., n_labels)`` within its bounds (numpy or torch)."""
        ok = True
        for i, label in enumerate(self.labels):
            ok = ok & (values[..., i] >= label.bounds[0]) & (values[..., i] <= label.bounds[1])
        return ok


def _special(values: Any) -> Any:
    """The module with ``ndtr`` and ``ndtri`` for numpy arrays or torch tensors."""
    if hasattr(values, "clone"):
        import torch

        return torch.special
    import scipy.special

    return scipy.special


def with_derived_labels(labels: LabelSet) -> LabelSet:
    """The labels of a model, and after them [Li/Fe] where it infers A(Li) and [Fe/H], and [alpha/M] where it
    infers :data:`ALPHA`."""
    made = []
    for name in _derived_names(labels):
        parts = np.array([labels[part].bounds for part in DERIVED[name]])
        if name == "li_fe":
            a_li, fe_h = parts
            made.append(make_label(name, (li_fe(a_li[0], fe_h[1]), li_fe(a_li[1], fe_h[0]))))
        else:
            text = "[alpha/M], the mean of [Mg/Fe], [Si/Fe], [Ca/Fe] and [Ti/Fe]"
            made.append(Label(name, "dex", parts.mean(axis=0), description=text))
    return LabelSet((*labels, *made))


def derived(labels: LabelSet, of: Callable[[str], Any]) -> list[Any]:
    """Values of those labels of :func:`with_derived_labels` that ``labels`` lacks, in their order, sample by
    sample from those of labels, which ``of`` gives by name (numbers, numpy or torch)."""
    formulas: dict[str, Callable[..., Any]] = {"li_fe": li_fe, "alpha_m": alpha_m}
    return [formulas[name](*map(of, DERIVED[name])) for name in _derived_names(labels)]


def _derived_names(labels: LabelSet) -> list[str]:
    names = set(labels.names)
    return [name for name, parts in DERIVED.items() if name not in names and names.issuperset(parts)]


def li_fe(a_li: Any, fe_h: Any) -> Any:
    """[Li/Fe] = A(Li) - A(Li)_sun - [Fe/H] on the solar scale of Magg et al. (2022)."""
    return a_li - SOLAR_LOG_EPS["Li"] - fe_h


def alpha_m(mg_fe: Any, si_fe: Any, ca_fe: Any, ti_fe: Any) -> Any:
    """[alpha/M], the plain mean of [X/Fe] of four alpha elements, which model atmospheres take (one factor
    for all alpha elements, and [M/H] = [Fe/H] for the others: Gustafsson et al. 2008, A&A 486, 951)."""
    return (mg_fe + si_fe + ca_fe + ti_fe) / 4.0
