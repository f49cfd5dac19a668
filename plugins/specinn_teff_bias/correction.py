"""X_corrected = X - (a Teff + b), sample by sample (Ksoll et al. 2026, A&A 708, A118)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.config import read_toml, structure
from specinn.errors import ConfigError, ModelError
from specinn.files import replacing
from specinn.labels import make_label
from specinn.plugins import BenchmarkStars, Correction, LeaveOneOut
from specinn.posterior import Posterior
from specinn_teff_bias.line import Moments, fit_line

_SPREAD = 300.0  # K, over which a bias that matters can be told from the errors of the stars


@attrs.frozen
class Line:
    """The bias ``a * Teff + b`` of one label: ``a`` in its units per K, ``b`` in its units.

    Of a fit, also: standard errors and covariance of a and b, the number of stars, the scatter between them
    that posteriors and references leave unexplained, and the errors of stars left out.
    """

    a: float
    b: float
    a_error: float | None = None
    b_error: float | None = None
    covariance: float | None = None
    scatter: float | None = None
    n_stars: int | None = None
    leave_one_out: LeaveOneOut | None = None


@attrs.frozen
class Range:
    """The range of the stars of the fit: ``teff`` in K and, if known, [Fe/H]."""

    teff: tuple[float, float]
    fe_h: tuple[float, float] | None = None

    def __attrs_post_init__(self) -> None:
        if not 0 < self.teff[0] < self.teff[1]:
            raise ConfigError(f"teff = {list(self.teff)} is not an increasing pair of temperatures")
        if self.fe_h is not None and not self.fe_h[0] < self.fe_h[1]:
            raise ConfigError(f"fe_h = {list(self.fe_h)} is not an increasing pair of metallicities")


@attrs.frozen
class TeffBias(Correction):
    """A linear bias in Teff for each label, as fitted on ``n_stars`` stars.

    ``model`` is the SHA-256 of the trained model to which the fit belongs, or its first digits (None:
    any); ``provenance`` names the stars and literature values used. ``stars`` are those of the fit,
    ``reference_stars`` those among them that the training of the model has seen.
    """

    labels: Mapping[str, Line]
    range: Range
    n_stars: int
    provenance: str
    model: str | None = None
    stars: tuple[str, ...] = ()
    reference_stars: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if not self.labels:
            raise ConfigError("labels: a correction needs at least one label")
        if self.n_stars < 1:
            raise ConfigError(f"n_stars = {self.n_stars}: a correction needs at least one star")
        if self.model is not None and not re.fullmatch("[0-9a-f]{8,64}", self.model):
            raise ConfigError(f"model = {self.model!r} is not the SHA-256 of a model, nor its first digits")

    @classmethod
    def fit(
        cls, stars: BenchmarkStars, use: np.ndarray, leave_one_out: Mapping[str, LeaveOneOut] | None = None
    ) -> TeffBias:
        """Fit a line to all accepted samples of the spectra ``use``, label by label (:func:`fit_line`).

        The range is that of the MAP of all ``stars``, rounded outwards to 50 K and 0.1 dex, and [Fe/H] no
        lower than ``stars.fe_h_min``. Raises ``ModelError`` for a model that does not infer Teff, and
        ``ConfigError`` for stars of one temperature.
        """
        if "teff" not in stars.posterior.labels:
            raise ModelError("the model does not infer teff: its bias cannot be fitted against it")
        at, best = stars.posterior.labels.index, stars.posterior.map
        spread = float(np.ptp(best[:, at("teff")]))
        if spread < _SPREAD:
            raise ConfigError(f"the stars lie within {spread:.0f} K: a slope needs at least {_SPREAD:.0f} K")
        lines = {}
        for name, literature in stars.literature.items():
            moments = Moments.of(stars, name, np.flatnonzero(use & np.isfinite(literature)))
            (b, a), covariance, scatter = fit_line(moments)
            b_error, a_error = np.sqrt(np.diag(covariance)) * [1, 1e-3]
            lines[name] = Line(
                float(a) * 1e-3, float(b), float(a_error), float(b_error), float(covariance[0, 1]) * 1e-3,
                scatter, len(moments.r), (leave_one_out or {}).get(name),
            )  # fmt: skip
        fe_h = None
        if "fe_h" in stars.posterior.labels:
            low, high = _outwards(best[:, at("fe_h")], 0.1)
            fe_h = (low if stars.fe_h_min is None else max(low, stars.fe_h_min), high)
        fitted, seen = (tuple(dict.fromkeys(map(str, stars.star[rows]))) for rows in (use, use & stars.seen))
        span = Range(_outwards(best[:, at("teff")], 50.0), fe_h)
        return cls(lines, span, len(fitted), stars.provenance, stars.model, fitted, seen)

    @classmethod
    def load(cls, path: Path) -> TeffBias:
        """Read a correction from TOML.

        Raises ``ConfigError`` with the path to a wrong value (``$.labels.logg.a``).
        """
        data = read_toml(path)
        if "calibrators" in data:  # the former name
            data["reference_stars"] = data.pop("calibrators")
        correction = structure(data, cls, str(path))
        for name in correction.labels:
            try:
                make_label(name, (1.0, 2.0))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error} @ $.labels.{name}") from None
        return correction

    def save(self, path: Path) -> None:
        """Write the TOML file that :meth:`load` reads; it appears complete or not at all."""
        data = attrs.asdict(self, filter=lambda _, value: value is not None and value != ())
        tables = {"range": data.pop("range")}
        for name, line in data.pop("labels").items():
            tested = line.pop("leave_one_out", None)
            tables[f"labels.{name}"] = line
            tables |= {f"labels.{name}.leave_one_out": tested} if tested is not None else {}
        text = "# X_corrected = X - (a * Teff + b)\n" + _lines(data)
        text += "".join(f"\n[{name}]\n{_lines(table)}" for name, table in tables.items())
        with replacing(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def terms(self) -> dict[str, dict[str, tuple[float, float]]]:
        """By label, a for 1000 K and b, with their standard errors (NaN where the file has none)."""
        return {
            name: {
                "1000 a": (1e3 * line.a, 1e3 * _known(line.a_error)),
                "b": (line.b, _known(line.b_error)),
            }
            for name, line in self.labels.items()
        }

    def bias(self, label: str, teff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``a * teff + b`` and its standard error."""
        line = self.labels[label]
        a_error, b_error, covariance = map(_known, (line.a_error, line.b_error, line.covariance))
        variance = (a_error * teff) ** 2 + 2 * covariance * teff + b_error**2
        return line.a * teff + line.b, np.sqrt(np.maximum(variance, 0))

    def apply(self, posterior: Posterior) -> tuple[Posterior, np.ndarray]:
        """The corrected posterior, and ``(n_spec,)`` whether each star's MAP was within the range of the fit.

        Every sample is shifted by the bias at its own uncorrected Teff, so quantiles and correlations follow;
        stars outside the range, or without an accepted sample, keep theirs. ``inside`` and ``log_prob`` stay
        what the estimator saw. Raises ``ModelError`` for a label that the posterior does not have.
        """
        needed = {"teff", *self.labels} | ({"fe_h"} if self.range.fe_h is not None else set())
        missing = sorted(name for name in needed if name not in posterior.labels)
        if missing:
            raise ModelError(
                f"the correction needs {', '.join(missing)}, the model infers "
                f"{', '.join(posterior.labels.names)}: it was fitted for another model"
            )
        at = posterior.labels.index
        applied = _within(posterior.map[:, at("teff")], self.range.teff)
        if self.range.fe_h is not None:
            applied &= _within(posterior.map[:, at("fe_h")], self.range.fe_h)
        samples = posterior.samples.copy()
        own_teff = posterior.samples[applied, :, at("teff")].astype(np.float64)
        for name, line in self.labels.items():
            samples[applied, :, at(name)] -= line.a * own_teff + line.b
        return Posterior(posterior.labels, samples, posterior.log_prob, posterior.inside), applied


def _within(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """False for NaN, that is for a star without an accepted sample."""
    return (values >= span[0]) & (values <= span[1])


def _outwards(values: np.ndarray, step: float) -> tuple[float, float]:
    """The ends of the whole steps between which all values lie."""
    low, high = (float(values.min()) // step, float(values.max()) // step + 1)
    return round(low * step, 6), round(high * step, 6)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _lines(table: Mapping[str, Any]) -> str:
    """The pairs of a TOML table."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):  # a string of JSON is one of TOML, but for DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
