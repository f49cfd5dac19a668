"""The options of a run, wherever they come from: every value is checked here, once, and named in the
message."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs
import numpy as np

from specinn.errors import ConfigError, near, nearest
from specinn.instruments import Frame, Medium

if TYPE_CHECKING:
    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import Correction, Estimator

__all__ = [
    "DEFAULT_INSTRUMENT",
    "FASTEST",
    "PLACEHOLDERS",
    "Check",
    "RunOptions",
    "Rv",
    "as_format",
    "as_frame",
    "as_medium",
    "as_model",
    "file_name",
    "number",
    "plugins_or_all",
    "resolving_power",
    "values",
    "velocity",
    "yes_or_no",
]

DEFAULT_INSTRUMENT = "4most-hr"
Check = Literal["arms", "model"]
Rv = float | str | tuple[float, ...] | Mapping[str, float] | None
PLACEHOLDERS = (999.0, 999.9, 999.99, 999.999)  # km/s, for velocities that are not known
FASTEST = 3000.0  # km/s, of a star


def number(name: str, value: Any, expected: str, unit: str = "", whole: bool = False) -> float:
    """A finite number: of Python, numpy or astropy (a quantity is converted to ``unit``), or a text of one.

    Raises ``ConfigError`` that begins with the argument's ``name``.
    """
    plain = _without_unit(name, value, unit, expected)
    if isinstance(plain, str):
        try:
            plain = float(plain)
        except ValueError:
            raise _wrong(name, value, expected) from None
    if isinstance(plain, np.ndarray) and plain.ndim == 0:
        plain = plain.item()
    if isinstance(plain, (bool, np.bool_)) or not isinstance(plain, numbers.Real):
        raise _wrong(name, value, expected)
    out = float(plain)
    if whole and not out.is_integer():
        raise _wrong(name, value, expected)
    return out


def values(name: str, value: Any, expected: str, unit: str = "") -> tuple[float, ...]:
    """Numbers in a list, an array, a column or a quantity of one axis; what is masked is NaN."""
    plain = _without_unit(name, value, unit, expected)
    if np.ndim(plain) != 1 if not isinstance(plain, Sequence) else False:
        raise _wrong(name, value, f"{expected}, or one of them for each spectrum")
    items = np.ma.filled(plain, np.nan) if isinstance(plain, np.ma.MaskedArray) else plain
    return tuple(
        math.nan if item is None or item is np.ma.masked else number(f"{name}[{i}]", item, expected, unit)
        for i, item in enumerate(items)
    )


def _without_unit(name: str, value: Any, unit: str, expected: str) -> Any:
    """A quantity, or a column with a unit, as plain numbers in ``unit``."""
    if getattr(value, "unit", None) is None:
        return value
    from astropy import units as u

    try:
        return u.Quantity(value).to_value(unit or u.dimensionless_unscaled)
    except u.UnitConversionError:
        raise ConfigError(f"{name} {value}: the unit is {value.unit}; expected {expected}") from None


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return ConfigError(f"{name} {text if len(text) <= 60 else text[:57] + '...'}: expected {expected}")


def _several(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and (isinstance(value, (list, tuple)) or np.ndim(value) > 0)


# The fields ----------------------------------------------------------------------------------------------


def _rv(value: Any) -> Rv:
    expected = "a velocity in km/s (between -3000 and 3000), 'auto', or a table with the columns id and rv"
    if value is None or (isinstance(value, str) and value == "auto"):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): velocity(f"rv[{str(key)!r}]", rv) for key, rv in value.items()}
    columns = getattr(value, "colnames", None) or list(getattr(value, "columns", ()))
    if columns:
        key = next((name for name in ("id", "path") if name in columns), None)
        if key is None or "rv" not in columns:
            raise ConfigError(
                f"rv: a table with the columns {', '.join(columns)}: expected id (or path) and rv"
            )
        pairs = zip(value[key], values("rv", value["rv"], expected, "km/s"), strict=True)
        return {str(name): velocity(f"rv of {name}", rv) for name, rv in pairs if math.isfinite(rv)}
    if _several(value):
        out = values("rv", value, expected, "km/s")
        for i, rv in enumerate(out):
            if math.isfinite(rv):
                velocity(f"rv[{i}]", rv)
        return out
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return value  # a table, read when the run begins
    return velocity("rv", value)


def velocity(name: str, value: Any) -> float:
    """A velocity in km/s. Raises ``ConfigError`` that begins with the argument's ``name``, also for values
    that tables have where there is none."""
    expected = "a velocity in km/s (between -3000 and 3000) or 'auto'"
    rv = number(name, value, expected, "km/s")
    if not abs(rv) < FASTEST:
        raise _wrong(name, rv, expected)
    if abs(rv) in PLACEHOLDERS:
        raise ConfigError(
            f"{name} {rv:g} stands for no velocity: leave it out (NaN, or a blank cell), and it is measured"
        )
    return rv


def resolving_power(value: Any) -> float:
    """A resolving power; raises ``ConfigError``."""
    out = number("resolving_power", value, "a number above 1")
    if not 1 < out < math.inf:
        raise _wrong("resolving_power", value, "a number above 1")
    return out


def _resolving_power(value: Any) -> float | tuple[float, ...] | None:
    expected = "a number above 1"
    if value is None:
        return None
    if not _several(value):
        return resolving_power(value)
    out = values("resolving_power", value, expected)
    if not all(1 < power < math.inf for power in out):
        raise _wrong("resolving_power", value, expected)
    return out


def _degrade_snr(value: Any) -> float | None:
    if value is None:
        return None
    expected = "a positive S/N per Angstrom"
    out = number("degrade_snr", value, expected)
    if not 0 < out < math.inf:
        raise _wrong("degrade_snr", value, expected)
    return out


def _samples(value: Any) -> int:
    out = number("samples", value, "a whole number of at least 2 (4096 are usual)", whole=True)
    if out < 2:
        raise ConfigError(f"samples {int(out)}: at least 2 are needed, 4096 are usual")
    return int(out)


def _seed(value: Any) -> int:
    expected = "a whole number that is not negative"
    out = number("seed", value, expected, whole=True)
    if not 0 <= out < 2**63:
        raise _wrong("seed", int(out), expected)
    return int(out)


def _text(name: str, value: Any, expected: str) -> str:
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        raise _wrong(name, value, expected)
    return value


def file_name(name: str, value: Any) -> Path:
    """The argument ``name`` as a path; raises ``ConfigError``."""
    if not isinstance(value, (str, Path)):
        raise _wrong(name, value, "the name of a file")
    return Path(value)


def yes_or_no(name: str, value: Any) -> bool:
    """The argument ``name`` as a bool; raises ``ConfigError``."""
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong(name, value, "True or False")
    return bool(value)


def plugins_or_all(value: Any) -> Plugins:
    """The argument ``plugins``: those that are installed for None; raises ``ConfigError``."""
    from specinn.plugins import Plugins

    if value is not None and not isinstance(value, Plugins):
        raise _wrong("plugins", value, "specinn.plugins.Plugins, or None for all that are installed")
    return Plugins() if value is None else value


def _instrument(value: Any) -> str:
    return _text("instrument", value, "the name of an instrument, or its TOML file")


def _device(value: Any) -> str:
    return _text("device", value, "'cpu', 'cuda' or 'cuda:N'")


def as_format(value: Any) -> str:
    """The argument ``format``; raises ``ConfigError``."""
    return _text("format", value, "the name of a reader, or 'auto'")


def as_medium(value: Any) -> Medium | None:
    """``air``, ``vacuum`` or None; raises ``ConfigError``."""
    return _one_of("medium", value, get_args(Medium))


def as_frame(value: Any) -> Frame | None:
    """One of :data:`Frame`, or None; raises ``ConfigError``."""
    return _one_of("frame", value, get_args(Frame))


def _one_of(name: str, value: Any, words: Sequence[str]) -> Any:
    """One of the ``words``, in any case of letters, or None."""
    if value is None:
        return None
    if isinstance(value, str) and value.strip().lower() in words:
        return value.strip().lower()
    hint = f"; {near(value, words)}" if isinstance(value, str) and nearest(value, words) else ""
    raise _wrong(name, value, f"{', '.join(words[:-1])} or {words[-1]}{hint}")


def _prior(value: Any) -> Any:
    if value is None or isinstance(value, (str, Path)):
        return None if value is None else str(value)
    if not (getattr(value, "colnames", None) or hasattr(value, "iterrows")):
        raise _wrong("prior", value, "a table of what is known of stars: a file, or one of astropy or pandas")
    return value


def _prior_radius(value: Any) -> float:
    expected = "arcsec, above 0 and below 3600"
    out = number("prior_radius", value, expected, "arcsec")
    if not 0.0 < out < 3600.0:
        raise _wrong("prior_radius", out, expected)
    return out


def _synthetic(value: Any) -> bool:
    return yes_or_no("synthetic", value)


def as_model(value: Any) -> Any:
    """The argument ``model``; raises ``ConfigError``."""
    if value is None or isinstance(value, (str, Path)):
        return None if value is None else str(value)
    if not all(hasattr(value, name) for name in ("labels", "sample", "preprocessing")):
        raise _wrong("model", value, "the name or file of a model, or the result of load_model")
    return value


def _corrections(value: Any) -> tuple[str | Correction, ...]:
    items = [value] if isinstance(value, (str, Path)) or hasattr(value, "apply") else value
    if items is None:
        return ()
    if not isinstance(items, Iterable):
        raise _wrong("corrections", value, "files of corrections, or loaded ones, in a list")
    out = [str(item) if isinstance(item, Path) else item for item in items]
    for item in out:
        if not (isinstance(item, str) or hasattr(item, "apply")):
            raise _wrong("corrections", item, "files of corrections, or loaded ones, in a list")
    return tuple(out)


def _check(value: Any) -> tuple[Check, ...]:
    items = [value] if isinstance(value, str) else value
    if items is None:
        return ()
    if not isinstance(items, Iterable):
        raise _wrong("check", value, "arms, model or both, in a list")
    chosen = {_one_of("check", item, get_args(Check)) for item in items}
    return tuple(name for name in get_args(Check) if name in chosen)


@attrs.frozen(kw_only=True, eq=False)
class RunOptions:
    """Everything that the rows of a run depend on, besides its spectra. Raises ``ConfigError``.

    Attributes
    ----------
    instrument
        Name, or a TOML file, of the instrument that the spectra come from.
    model
        Name or file of a trained model, or a loaded one; None for the one that suits the instrument.
    device
        Torch device: ``cpu``, ``cuda`` or ``cuda:N``.
    samples, seed
        Posterior samples of each spectrum, and the seed of the random numbers.
    rv
        In km/s: a number for all; ``"auto"`` measures all; a mapping or a table (file) by id or path; a
        number for each spectrum (NaN: measure); None takes what the spectra state and measures the rest.
    resolving_power
        Of the spectra, overriding them: a number, or one for each spectrum.
    degrade_snr
        Noise is added down to this S/N per Angstrom.
    synthetic
        The spectra were computed with the physics of the model's grid.
    corrections
        Files of corrections, or loaded ones, in the order to apply them.
    format
        Name of the reader of files; ``auto`` recognises the format.
    medium
        ``air`` or ``vacuum``: of the wavelengths, overriding the spectra.
    frame
        ``barycentric``, ``heliocentric``, ``topocentric`` or ``rest``: of the wavelengths, likewise.
    check
        ``arms`` compares the posteriors of single arms with that of all, ``model`` the spectrum with the
        emulator's at the MAP; each adds a column and a flag.
    prior
        A table (file, astropy, pandas) of what is known of stars (:mod:`specinn.inference.prior`), which adds
        informed values to theirs.
    prior_radius
        Within which positions of spectra and of that table match, arcsec.
    """

    instrument: str = attrs.field(default=DEFAULT_INSTRUMENT, converter=_instrument)
    model: str | Estimator | None = attrs.field(default=None, converter=as_model)
    device: str = attrs.field(default="cpu", converter=_device)
    samples: int = attrs.field(default=4096, converter=_samples)
    seed: int = attrs.field(default=0, converter=_seed)
    rv: Rv = attrs.field(default=None, converter=_rv)
    resolving_power: float | tuple[float, ...] | None = attrs.field(default=None, converter=_resolving_power)
    degrade_snr: float | None = attrs.field(default=None, converter=_degrade_snr)
    synthetic: bool = attrs.field(default=False, converter=_synthetic)
    corrections: tuple[str | Correction, ...] = attrs.field(default=(), converter=_corrections)
    format: str = attrs.field(default="auto", converter=as_format)
    medium: Medium | None = attrs.field(default=None, converter=as_medium)
    frame: Frame | None = attrs.field(default=None, converter=as_frame)
    check: tuple[Check, ...] = attrs.field(default=(), converter=_check)
    prior: Any = attrs.field(default=None, converter=_prior)
    prior_radius: float = attrs.field(default=1.0, converter=_prior_radius)

    def plain(self) -> dict[str, Any]:
        """As JSON values, of which ``RunOptions(**plain)`` is the same again.

        Only for names and files of models and corrections, as the command line has them.
        """
        out: dict[str, Any] = {}
        for field in attrs.fields(RunOptions):
            value = getattr(self, field.name)
            out[field.name] = list(value) if isinstance(value, tuple) else value
        return out
