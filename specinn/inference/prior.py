"""Outside knowledge of stars, from a table of the user: values of labels with errors, or a parallax and a
magnitude, which give a surface gravity for every Teff.

What is known of a star is a few terms, each a residual of the labels with a standard error; a posterior
sample has the weight exp(-sum(residual^2 / error^2) / 2). :mod:`specinn.inference.informed` applies them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.catalogue.formats import read_table
from specinn.errors import ConfigError, nearest
from specinn.labels import LabelSet, make_label
from specinn.posterior import Posterior
from specinn.texts import portable

__all__ = ["Parallax", "PriorTable", "StarPrior", "bolometric_correction", "gravity_of", "log_mass_of"]

_ERRORS = ("{}_err", "{}_error", "e_{}")  # names of the column with the standard error of a column
_PATHS = ("path", "file", "filename")
_MAGNITUDES = ("phot_g_mean_mag", "g_mag")
_EXTINCTIONS = ("a_g", "ag_gspphot")
_OTHERS = ("parallax", "mass", "ra", "dec", "rv", *_MAGNITUDES, *_EXTINCTIONS)  # columns that are no labels
_PLAUSIBLE = {"teff": (500.0, 1e5), "vmic": (0.0, 100.0), "vbroad": (0.0, 1000.0)}
_ANY = (-50.0, 50.0)  # of logarithmic labels: beyond are the sentinels of other catalogues

_LOGG_SUN, _TEFF_SUN, _MBOL_SUN = 4.438, 5772.0, 4.74  # nominal values of the IAU (2015, B2 and B3)
_BC_RANGE = (3300.0, 8000.0)
# Andrae et al. (2018, A&A 616, A8), eq. 7 and table 4: powers of Teff - 5772 K, below and from 4000 K
_BC_COOL = (1.749, 1.977e-3, 3.737e-7, -8.966e-11, -4.183e-14)
_BC_WARM = (6.000e-2, 6.731e-5, -6.647e-8, 2.859e-11, -7.197e-15)
_BC_ERROR = 0.05  # mag; of Teff alone, whatever gravity and metallicity
_MASS_ERROR = 0.1  # dex, of log_mass_of
_EXTINCTION_ERROR = 0.1  # mag, where the table has none with A_G
_EXTINCTION_UNKNOWN = 0.5  # mag per kpc, the error of A_G = 0 where the table has no A_G
_SIGNIFICANT = 5.0  # parallax over its error, from which its inverse is a distance


def bolometric_correction(teff: np.ndarray) -> np.ndarray:
    """BC_G in mag of ``teff (n,)`` in K by Andrae et al. (2018, eq. 7), valid from 3300 to 8000 K; beyond,
    the value at the end.

    >>> bolometric_correction(np.array([5772.0, 4500.0, 3500.0])).round(3).tolist()
    [0.06, -0.211, -0.877]
    """
    off = np.clip(teff, *_BC_RANGE) - _TEFF_SUN
    cool, warm = (np.polynomial.polynomial.polyval(off, c) for c in (_BC_COOL, _BC_WARM))
    out: np.ndarray = np.where(off + _TEFF_SUN < 4000.0, cool, warm)
    return out


def log_mass_of(teff: np.ndarray, logg: np.ndarray, fe_h: np.ndarray) -> np.ndarray:
    """log10 of the mass in solar units that is assumed for labels ``(n,)``, good to 0.1 dex.

    1 for giants, lower by 0.1 dex towards [Fe/H] = -1 (old stars); on the main sequence it is multiplied by
    (Teff / 5772 K)^1.5, from nothing at log g = 3.5 to all of it at 4.

    >>> stars = np.array([[5772.0, 4.44, 0.0], [4400.0, 4.63, -0.1], [4600.0, 1.4, -2.6]])
    >>> log_mass_of(*stars.T).round(2).tolist()  # Sun; 61 Cyg A, 0.69 of the Sun; HD 122563, 0.8
    [0.0, -0.19, -0.1]
    """
    main_sequence = np.clip(2.0 * (logg - 3.5), 0.0, 1.0)
    out: np.ndarray = 0.1 * np.clip(fe_h, -1.0, 0.0) + 1.5 * main_sequence * np.log10(teff / _TEFF_SUN)
    return out


@attrs.frozen
class Parallax:
    """What gives the gravity of a star: ``parallax`` and ``error`` in mas, G magnitude, its extinction
    ``a_g`` in mag and the error of that, log10 of the mass in solar units (NaN: :func:`log_mass_of`) and its
    error.
    """

    parallax: float
    error: float
    g_mag: float
    a_g: float
    a_g_error: float
    log_mass: float
    log_mass_error: float

    @property
    def logg_error(self) -> float:
        """Standard error of log g in dex at a given Teff."""
        magnitudes = np.hypot(self.a_g_error, _BC_ERROR)
        of_distance = 2.0 / np.log(10.0) * self.error / self.parallax
        return float(np.sqrt(self.log_mass_error**2 + (0.4 * magnitudes) ** 2 + of_distance**2))


def gravity_of(star: Parallax, teff: np.ndarray, logg: np.ndarray, fe_h: np.ndarray) -> np.ndarray:
    """log g in dex(cm s-2) ``(n,)`` of a star with the labels ``(n,)``: from its distance, its magnitude and
    its mass, for which the labels stand where the table has none.

    log g = 4.438 + log M + 4 log(Teff / 5772) + 0.4 (Mbol - 4.74) with
    Mbol = G - A_G + 5 log(parallax / mas) - 10 + BC_G(Teff).
    """
    mass = log_mass_of(teff, logg, fe_h) if np.isnan(star.log_mass) else star.log_mass
    absolute = star.g_mag - star.a_g + 5.0 * np.log10(star.parallax) - 10.0
    bolometric = absolute + bolometric_correction(teff)
    return _LOGG_SUN + mass + 4.0 * np.log10(teff / _TEFF_SUN) + 0.4 * (bolometric - _MBOL_SUN)


@attrs.frozen(eq=False)
class StarPrior:
    """What is known of one star: ``value`` and ``error`` ``(k,)`` of the labels ``index (k,)``, and perhaps a
    :class:`Parallax`, the last term."""

    labels: LabelSet
    index: np.ndarray
    value: np.ndarray
    error: np.ndarray
    parallax: Parallax | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the terms."""
        return (*(self.labels.names[i] for i in self.index), *(["parallax"] if self.parallax else []))

    @property
    def errors(self) -> np.ndarray:
        """``(n_terms,)`` their standard errors."""
        return np.append(self.error, self.parallax.logg_error) if self.parallax else self.error

    def residuals(self, values: np.ndarray) -> np.ndarray:
        """``(n_terms, n)`` labels ``values (n, n_labels)`` minus what is known of them, in physical units."""
        values = np.asarray(values, float)
        out = values[:, self.index].T - self.value[:, None]
        if self.parallax is None:
            return out
        teff, logg, fe_h = (values[:, self.labels.index(name)] for name in ("teff", "logg", "fe_h"))
        return np.vstack([out, logg - gravity_of(self.parallax, teff, logg, fe_h)])

    def without_parallax(self) -> StarPrior | None:
        """The other terms; None where there are none."""
        return attrs.evolve(self, parallax=None) if len(self.index) else None

    def in_range(self, posterior: Posterior) -> bool:
        """Whether the bolometric correction is valid at the median Teff of the posterior of the star."""
        if self.parallax is None:
            return True
        teff = np.median(posterior.samples[0, :, self.labels.index("teff")])
        return bool(_BC_RANGE[0] <= teff <= _BC_RANGE[1])


# The table ------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class PriorTable:
    """What the user knows of stars, one row each.

    Attributes
    ----------
    name, sha256 : str
        The name of the table and the hash of its file (of its values, if it is not from a file).
    labels : LabelSet
        Of the model.
    value, error : ndarray
        ``(n_rows, n_labels)`` physical; NaN where nothing is known.
    parallaxes : tuple
        A :class:`Parallax` of each row, or None; a text where it cannot be used: why.
    rows : dict
        Row by identifier, path or file name.
    directions : ndarray
        ``(n_rows, 3)`` unit vectors of the positions, NaN where there is none.
    radius : float
        Within which positions match, arcsec.
    """

    name: str
    sha256: str
    labels: LabelSet
    value: np.ndarray
    error: np.ndarray
    parallaxes: tuple[Parallax | str | None, ...]
    rows: dict[str, int]
    directions: np.ndarray
    radius: float

    def __len__(self) -> int:
        return len(self.value)

    @property
    def has_positions(self) -> bool:
        """Whether any row has a position."""
        return bool(np.isfinite(self.directions).all(axis=1).any())

    @classmethod
    def load(cls, given: Any, labels: LabelSet, radius: float = 1.0) -> PriorTable:
        """A table from a file (FITS, ECSV, CSV, VOTable, Parquet, HDF5), of astropy or of pandas.

        Columns, in any case of letters: ``id``, ``path``, or ``ra`` and ``dec`` (deg); for any label X of the
        model X and X_err (or X_error, e_X); parallax and parallax_error (mas), phot_g_mean_mag, a_g (or
        ag_gspphot) and a_g_err (mag), mass and mass_err (solar). Cells may be empty.

        Raises ``ConfigError`` with the column or row that is wrong.
        """
        if isinstance(given, (str, Path)):
            path = Path(given)
            if not path.is_file():
                what = "is a folder" if path.is_dir() else "no such file"
                raise ConfigError(f"prior {path}: {what}; expected a table of what is known of stars")
            name, table, folder = path.name, read_table(path, f"prior {path}"), path.parent
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            name, table, folder, sha256 = "table", given, None, ""
        columns = _Columns(f"prior {name}", table)
        value, error = columns.labels(labels)
        logg = value[:, labels.index("logg")] if "logg" in labels else np.full(columns.n, np.nan)
        parallaxes = columns.parallaxes(labels, logg)
        if not np.isfinite(value).any() and not any(parallaxes):
            raise ConfigError(
                f"{columns.name} says nothing of a label: expected columns such as teff and teff_err (of "
                f"{', '.join(labels.names)}), or parallax, parallax_error and phot_g_mean_mag; found "
                f"{', '.join(columns.names)}"
            )
        if not sha256:
            sha256 = hashlib.sha256(repr([value.tolist(), error.tolist(), parallaxes]).encode()).hexdigest()
        rows, directions = columns.rows(folder), columns.directions()
        if not rows and not np.isfinite(directions).any():
            raise ConfigError(
                f"{columns.name}: expected a column id or path, or ra and dec, by which spectra are found; "
                f"found {', '.join(columns.names)}"
            )
        return cls(name, sha256, labels, value, error, parallaxes, rows, directions, radius)

    def match(self, ids: Sequence[Any], paths: Sequence[Any], ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """``(n_spec,)`` the row of each spectrum: by identifier, path or file name, else by the position
        ``ra``, ``dec`` in deg (NaN: unknown); -1 for none, -n where n > 1 rows are within the radius."""
        out = np.full(len(ids), -1)
        for i, (name, path) in enumerate(zip(map(str, ids), map(str, paths), strict=True)):
            words = [name, *(word for word in (path, Path(path).name) if word)]
            out[i] = next(
                (self.rows[w] for w in dict.fromkeys([*words, *map(portable, words)]) if w in self.rows), -1
            )
        lost = np.flatnonzero((out == -1) & np.isfinite(ra) & np.isfinite(dec))
        if not lost.size or not self.has_positions:
            return out
        from scipy.spatial import KDTree

        located = np.flatnonzero(np.isfinite(self.directions).all(axis=1))
        chord = 2.0 * np.sin(np.radians(self.radius / 3600.0) / 2.0)
        tree = KDTree(self.directions[located])
        around = tree.query_ball_point(_direction(ra[lost], dec[lost]), chord)
        for place, near_by in zip(lost, around, strict=True):
            if near_by:
                out[place] = located[near_by[0]] if len(near_by) == 1 else -len(near_by)
        return out

    def star(self, row: int) -> tuple[StarPrior | None, str]:
        """What is known of the star of a row, None if nothing, and why its parallax is not used, if so."""
        index = np.flatnonzero(np.isfinite(self.value[row]))
        parallax = self.parallaxes[row]
        note = parallax if isinstance(parallax, str) else ""
        usable = None if isinstance(parallax, str) else parallax
        if not index.size and usable is None:
            return None, note
        return StarPrior(self.labels, index, self.value[row, index], self.error[row, index], usable), note


def _direction(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


class _Columns:
    """The columns of a table by their names in lower case, checked as they are asked for."""

    def __init__(self, name: str, table: Any) -> None:
        names = getattr(table, "colnames", None)
        if names is None and not hasattr(table, "iterrows"):
            raise ConfigError(
                f"prior: expected a file or a table (of astropy or pandas), found {type(table).__name__}"
            )
        names = list(table.columns) if names is None else names
        self.name, self.table, self.n = name, table, len(table)
        self.names = [str(column) for column in names]
        self._columns = {str(column).strip().lower(): column for column in names}
        if not self.n:
            raise ConfigError(f"{name} has no rows")

    def __contains__(self, column: str) -> bool:
        return column in self._columns

    def error_of(self, column: str) -> str | None:
        """The name of the column of errors."""
        return next((word.format(column) for word in _ERRORS if word.format(column) in self), None)

    def numbers(self, column: str, unit: str) -> np.ndarray:
        """``(n,)`` in ``unit``, NaN where empty."""
        cells = self.table[self._columns[column]]
        stated = getattr(cells, "unit", None)
        try:
            if stated is None or str(stated) == "":
                factor = 1.0
            elif unit.startswith("dex"):
                if "dex" not in str(stated) and "log" not in str(stated):
                    raise ValueError
                factor = 1.0
            else:
                from astropy import units as u

                factor = u.Unit(str(stated)).to(u.Unit(unit))
        except (ValueError, TypeError):
            raise ConfigError(
                f"{self.name}: the column {column} has the unit {stated}; expected {unit}"
            ) from None
        values = getattr(cells, "value", cells) if hasattr(cells, "unit") else cells
        try:
            out = np.ma.filled(np.ma.asarray(values, float), np.nan) * factor
        except (ValueError, TypeError):
            raise ConfigError(f"{self.name}: the column {column} is not one of numbers") from None
        if out.ndim != 1:
            raise ConfigError(f"{self.name}: the column {column} has several numbers in a row")
        if (i := np.flatnonzero(np.isinf(out))).size:
            raise self.wrong(i[0], f"{column} is infinite: leave a cell empty where nothing is known")
        return out

    def texts(self, column: str) -> list[str]:
        cells = self.table[self._columns[column]]
        texts = []
        for cell in np.ma.filled(np.ma.asarray(cells, object), ""):
            text = cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell
            texts.append("" if text is None or text != text else str(text).strip())
        return texts

    def wrong(self, row: int, what: str) -> ConfigError:
        word = next((self.texts(column)[row] for column in ("id", *_PATHS) if column in self), "")
        return ConfigError(f"{self.name}, row {row + 1}{f' ({word})' if word else ''}: {what}")

    def measured(self, column: str, unit: str) -> tuple[np.ndarray, np.ndarray]:
        """A column and its errors, NaN where the first is empty; raises ``ConfigError`` for one without."""
        error_column = self.error_of(column)
        if error_column is None:
            raise ConfigError(
                f"{self.name}: {column} has no column of errors: add {column}_err, its standard error"
            )
        value, error = self.numbers(column, unit), self.numbers(error_column, unit)
        bad = np.flatnonzero(np.isfinite(value) & ~(error > 0))
        if bad.size:
            found = f"{error[bad[0]]:g}" if np.isfinite(error[bad[0]]) else "empty"
            raise self.wrong(
                bad[0], f"{error_column} is {found}: expected a positive standard error for {column}"
            )
        return value, np.where(np.isfinite(value), error, np.nan)

    def labels(self, labels: LabelSet) -> tuple[np.ndarray, np.ndarray]:
        """``(n, n_labels)`` values and errors of the labels of a model."""
        value, error = (np.full((self.n, len(labels)), np.nan) for _ in range(2))
        for i, label in enumerate(labels):
            if label.name not in self:
                continue
            value[:, i], error[:, i] = self.measured(label.name, label.unit)
            low, high = _PLAUSIBLE.get(label.name, _ANY)
            bad = np.flatnonzero((value[:, i] < low) | (value[:, i] > high))
            if bad.size:
                raise self.wrong(
                    bad[0],
                    f"{label.name} is {value[bad[0], i]:g}: expected {label.printed_unit}, between {low:g} "
                    f"and {high:g}, or an empty cell where nothing is known",
                )
        for column in self._columns:
            if column in labels or self.error_of(column) is None:
                continue
            if _is_label(column):
                raise ConfigError(
                    f"{self.name}: this model does not infer {column}: leave the column out, or choose a "
                    f"model that does; it infers {', '.join(labels.names)}"
                )
            if column not in _OTHERS and (hint := nearest(column, labels.names)):
                raise ConfigError(f"{self.name}: {column} is not a label; did you mean {hint!r}?")
        return value, error

    def parallaxes(self, labels: LabelSet, logg: np.ndarray) -> tuple[Parallax | str | None, ...]:
        """The parallax of each row without a ``logg (n,)``, or in words why it cannot be used."""
        if "parallax" not in self or not {"teff", "logg", "fe_h"} <= set(labels.names):
            return (None,) * self.n
        magnitude = next((name for name in _MAGNITUDES if name in self), None)
        if magnitude is None:
            if "logg" in self:
                return (None,) * self.n
            raise ConfigError(f"{self.name}: parallax needs the column phot_g_mean_mag to give a log g")
        parallax, error = self.measured("parallax", "mas")
        g_mag = self.numbers(magnitude, "mag")
        a_g, a_g_error = (np.full(self.n, np.nan) for _ in range(2))
        if (extinction := next((name for name in _EXTINCTIONS if name in self), None)) is not None:
            a_g = self.numbers(extinction, "mag")
            if (column := self.error_of(extinction)) is not None:
                a_g_error = self.numbers(column, "mag")
        mass, mass_error = self.measured("mass", "solMass") if "mass" in self else (a_g * np.nan,) * 2
        out: list[Parallax | str | None] = []
        for i in range(self.n):
            if not np.isfinite(parallax[i]) or np.isfinite(logg[i]):
                out.append(None)
            elif not np.isfinite(g_mag[i]):
                out.append(f"the parallax is not used, because {magnitude} is empty")
            elif parallax[i] < _SIGNIFICANT * error[i]:
                size = f"{parallax[i]:.3g} +- {error[i]:.2g} mas"
                out.append(f"the parallax {size} is not used: it is less than {_SIGNIFICANT:g} errors")
            else:
                out.append(
                    _parallax(parallax[i], error[i], g_mag[i], a_g[i], a_g_error[i], mass[i], mass_error[i])
                )
        return tuple(out)

    def rows(self, folder: Path | None) -> dict[str, int]:
        """The row of each identifier and path."""
        out: dict[str, int] = {}
        for column in ("id", next((name for name in _PATHS if name in self), "")):
            if column not in self:
                continue
            for row, text in enumerate(self.texts(column)):
                if not text:
                    continue
                if out.setdefault(text, row) != row:
                    raise ConfigError(
                        f"{self.name}: {text} is in the rows {out[text] + 1} and {row + 1}: give a star once"
                    )
                if column != "id" and folder is not None:  # as in lists of files: relative to the table
                    out.setdefault(str(folder / text), row)
        return out

    def directions(self) -> np.ndarray:
        """``(n, 3)`` of the positions, NaN where there is none."""
        if not ("ra" in self and "dec" in self):
            return np.full((self.n, 3), np.nan)
        ra, dec = self.numbers("ra", "deg"), self.numbers("dec", "deg")
        if (bad := np.flatnonzero(np.abs(dec) > 90.0)).size:
            raise self.wrong(bad[0], f"dec is {dec[bad[0]]:g}: expected degrees between -90 and 90")
        return _direction(ra, dec)


def _parallax(
    parallax: float, error: float, g_mag: float, a_g: float, a_g_error: float, mass: float, mass_error: float
) -> Parallax:
    """With what is assumed where the table is empty."""
    if np.isnan(a_g):
        a_g, a_g_error = 0.0, _EXTINCTION_UNKNOWN / parallax  # the distance in kpc
    elif np.isnan(a_g_error):
        a_g_error = _EXTINCTION_ERROR
    log_mass_error = _MASS_ERROR if np.isnan(mass) else mass_error / mass / np.log(10.0)
    numbers = (parallax, error, g_mag, a_g, a_g_error, np.log10(mass), log_mass_error)
    return Parallax(*map(float, numbers))


def _is_label(name: str) -> bool:
    try:
        make_label(name, (0.0, 1.0))
    except ConfigError:
        return False
    return True
