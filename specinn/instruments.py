"""Instruments: wavelength ranges, pixel grids and resolving power, read from TOML files.

>>> from specinn.plugins import Plugins
>>> uves = Instrument.from_toml(Plugins().record("instrument", "uves").toml)
>>> uves.medium, uves.arms[0].name
('air', ...)
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from specinn.config import parsed_by, read_toml, structure
from specinn.errors import ConfigError

__all__ = ["Arm", "Frame", "Instrument", "Medium", "PixelGrid", "ResolvingPower"]

Medium = Literal["air", "vacuum"]
Frame = Literal["barycentric", "heliocentric", "topocentric", "rest"]


@attrs.frozen
class ResolvingPower:
    """R = lambda / FWHM as a number, or as a table against wavelength (Angstrom), interpolated linearly.

    >>> import numpy as np
    >>> power = ResolvingPower.parse([[5200.0, 18_500.0], [5400.0, 20_500.0]])
    >>> power.at(np.array([5100.0, 5300.0]))
    array([18500., 19500.])
    >>> str(power), str(ResolvingPower.parse(20_000))
    ('18500-20500', '20000')
    """

    wavelength: tuple[float, ...]
    value: tuple[float, ...]

    @classmethod
    def parse(cls, value: Any) -> ResolvingPower:
        """From TOML: a number, or a list of ``[wavelength, R]`` pairs with increasing wavelength."""
        if isinstance(value, ResolvingPower):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = [[0.0, float(value)]]
        try:
            table = np.array(value, dtype=float) if isinstance(value, (list, tuple)) else np.empty(0)
        except (TypeError, ValueError):  # ragged, or words in it
            table = np.empty(0)
        if table.ndim != 2 or table.shape[1] != 2 or not len(table):
            raise ConfigError(f"resolving power {value!r}: expected a number or [[wavelength, R], ...]")
        if (table[:, 1] <= 1).any() or (np.diff(table[:, 0]) <= 0).any() or not np.isfinite(table).all():
            raise ConfigError(f"resolving power {value!r}: needs R > 1 at increasing wavelengths")
        return cls(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()))

    def to_toml(self) -> float | list[list[float]]:
        """What :meth:`parse` reads: a number, or ``[wavelength, R]`` pairs."""
        if len(self.value) == 1:
            return self.value[0]
        return [[w, r] for w, r in zip(self.wavelength, self.value, strict=True)]

    def at(self, wavelength: np.ndarray) -> np.ndarray:
        """R at wavelengths in Angstrom; constant beyond the ends of the table."""
        return np.asarray(np.interp(wavelength, self.wavelength, self.value))

    def __str__(self) -> str:
        low, high = min(self.value), max(self.value)
        return f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"


parsed_by(ResolvingPower, ResolvingPower.parse)


@attrs.frozen
class PixelGrid:
    """Pixel centres lambda(u) = sum c_i u^i in Angstrom, with u = i / (n - 1) for pixel i of n."""

    n: int
    polynomial: tuple[float, ...]

    def __attrs_post_init__(self) -> None:
        if self.n < 2 or not self.polynomial:
            raise ConfigError(
                f"pixels: n = {self.n} with {len(self.polynomial)} coefficients; expected n > 1 and c0"
            )


@attrs.frozen(eq=True)
class Arm:
    """A wavelength range of a spectrograph (Angstrom, in the medium of its instrument).

    ``range`` is the range in use; ``pixels`` the detector's own grid, which may extend a little beyond.
    """

    name: str
    range: tuple[float, float]
    resolving_power: ResolvingPower
    pixels: PixelGrid | None = None
    snr_windows: tuple[tuple[float, float], ...] = ()

    def __attrs_post_init__(self) -> None:
        if not 0 < self.range[0] < self.range[1]:
            raise ConfigError(f"arm {self.name}: range {self.range} is not increasing and positive")
        if self.pixels is not None and (np.diff(self.wavelength) <= 0).any():
            raise ConfigError(f"arm {self.name}: its pixel polynomial does not increase")

    @property
    def wavelength(self) -> np.ndarray:
        """``(n_pix,)`` pixel centres in Angstrom; only for arms with a fixed pixel grid."""
        if self.pixels is None:
            raise ConfigError(f"arm {self.name} has no fixed pixel grid, so no model can be trained on it")
        u = np.linspace(0.0, 1.0, self.pixels.n)
        return np.polynomial.polynomial.polyval(u, self.pixels.polynomial)

    def contains(self, wavelength: np.ndarray) -> np.ndarray:
        """Whether wavelengths ``(n,)`` in Angstrom are within ``range``."""
        return (wavelength >= self.range[0]) & (wavelength <= self.range[1])


@attrs.frozen(slots=False)
class Instrument:
    """A spectrograph as its TOML file describes it.

    Attributes
    ----------
    name, summary : str
        What ``specinn instruments`` shows; the summary is one line.
    arms : tuple of Arm
        Its wavelength ranges (Angstrom), with pixels and resolving power.
    medium : {"air", "vacuum"}
        Of its wavelengths.
    frame : {"barycentric", "heliocentric", "topocentric", "rest"}, optional
        Of files that do not state theirs; None: unknown.
    source : str
        Where the numbers come from.
    note : str
        Anything else worth knowing.

    Raises
    ------
    ConfigError
        Where arms are missing or share a name.

    Examples
    --------
    >>> from specinn.instruments import Instrument
    >>> giraffe = Instrument.from_dict({
    ...     "name": "giraffe-hr10",
    ...     "summary": "Giraffe in the setting HR10",
    ...     "arms": [{
    ...         "name": "hr10",
    ...         "range": [5339.0, 5619.0],
    ...         "resolving_power": 21_500,
    ...         "pixels": {"n": 5600, "polynomial": [5339.0, 280.0]},
    ...     }],
    ... })
    >>> giraffe.wavelength.shape, giraffe.slices
    ((5600,), {'hr10': slice(0, 5600, None)})
    >>> giraffe.arm("hr10").resolving_power.at(giraffe.wavelength[:2])
    array([21500., 21500.])
    """

    name: str
    summary: str
    arms: tuple[Arm, ...]
    medium: Medium = "air"
    frame: Frame | None = None
    source: str = ""
    note: str = ""

    def __attrs_post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"instrument {self.name}: needs arms with different names, found {names}")

    @classmethod
    def from_toml(cls, path: str | Path) -> Instrument:
        """Read a TOML file. Raises ``ConfigError`` with the path to a wrong value."""
        instrument = cls.from_dict(read_toml(path), source=str(path))
        for arm in instrument.arms:
            if arm.range[1] < 1500.0:
                raise ConfigError(
                    f"{path}: arm {arm.name}: range {arm.range[0]:g} to {arm.range[1]:g}: expected Angstrom, "
                    "these look like nm or um"
                )
        return instrument

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "instrument") -> Instrument:
        """From ``data``, tables as TOML has them; errors (``ConfigError``) name ``source``."""
        return structure(data, cls, source)

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` reads, as JSON values."""

        def plain(_inst: Any, _field: Any, value: Any) -> Any:
            return value.to_toml() if isinstance(value, ResolvingPower) else value

        data = attrs.asdict(self, value_serializer=plain)
        for arm in data["arms"]:
            if arm["pixels"] is None:
                del arm["pixels"]
        return {key: value for key, value in data.items() if key not in ("frame", "note") or value}

    def select(self, names: tuple[str, ...] | list[str]) -> Instrument:
        """The same instrument with only the arms of these ``names``, in the given order."""
        return attrs.evolve(self, arms=tuple(self.arm(name) for name in names))

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises ``ConfigError`` where there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ConfigError(f"{self.name} has no arm {name!r}; it has {', '.join(a.name for a in self.arms)}")

    def resolving_power_at(self, wavelength: np.ndarray) -> np.ndarray:
        """``(n_pix,)`` R of the arm that covers each wavelength (Angstrom), else of the nearest arm."""
        wavelength = np.asarray(wavelength, dtype=float)
        low, high = np.array([arm.range for arm in self.arms]).T
        distance = np.maximum(low[:, None] - wavelength, wavelength - high[:, None]).clip(min=0)
        nearest = distance.argmin(axis=0)
        tables = np.stack([arm.resolving_power.at(wavelength) for arm in self.arms])
        resolving_power: np.ndarray = tables[nearest, np.arange(wavelength.size)]
        return resolving_power

    @cached_property
    def wavelength(self) -> np.ndarray:
        """``(n_pix,)`` pixel centres of all arms in Angstrom, one after the other."""
        return np.concatenate([arm.wavelength for arm in self.arms])

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each arm lies in :attr:`wavelength`."""
        ends = np.cumsum([0] + [arm.wavelength.size for arm in self.arms])
        return {a.name: slice(int(i), int(j)) for a, i, j in zip(self.arms, ends[:-1], ends[1:], strict=True)}
