"""X_corrected = X - (a Teff + b), sample by sample (Ksoll et al. 2026, A&A 708, A118)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from specinn.config import read_toml, structure
from specinn.errors import ConfigError, ModelError
from specinn.interfaces import Correction
from specinn.labels import make_label
from specinn.output import replacing
from specinn.posterior import Posterior


@attrs.frozen
class Line:
    """The bias ``a * Teff + b`` of one label: ``a`` in its units per K, ``b`` in its units."""

    a: float
    b: float


@attrs.frozen
class Range:
    """Where the stars of the fit lie: ``teff`` in K and, where the fit had one, the lowest [Fe/H]."""

    teff: tuple[float, float]
    fe_h_min: float | None = None

    def __attrs_post_init__(self) -> None:
        if not 0 < self.teff[0] < self.teff[1]:
            raise ConfigError(f"teff = {list(self.teff)} is not an increasing pair of temperatures")


@attrs.frozen
class TeffBias(Correction):
    """A linear bias in Teff for each label, as fitted on ``n_stars`` stars.

    ``model`` is the SHA-256 of the trained model that the fit belongs to, or its first digits (None: any);
    ``provenance`` says on which stars and literature values it rests.
    """

    labels: Mapping[str, Line]
    range: Range
    n_stars: int
    provenance: str
    model: str | None = None

    def __attrs_post_init__(self) -> None:
        if not self.labels:
            raise ConfigError("labels: a correction needs at least one label")
        if self.n_stars < 1:
            raise ConfigError(f"n_stars = {self.n_stars}: a correction rests on at least one star")
        if self.model is not None and not re.fullmatch("[0-9a-f]{8,64}", self.model):
            raise ConfigError(f"model = {self.model!r} is not the SHA-256 of a model, nor its first digits")

    @classmethod
    def load(cls, path: Path) -> TeffBias:
        """Read a correction from TOML.

        Raises ``ConfigError`` with the path to a wrong value (``$.labels.logg.a``).
        """
        correction = structure(read_toml(path), cls, str(path))
        for name in correction.labels:
            try:
                make_label(name, (1.0, 2.0))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error} @ $.labels.{name}") from None
        return correction

    def save(self, path: Path) -> None:
        """Write the TOML file that :meth:`load` reads; it appears whole or not at all."""
        head = [f"model = {_quote(self.model)}"] if self.model is not None else []
        head += [f"n_stars = {self.n_stars}", f"provenance = {_quote(self.provenance)}"]
        span = ["[range]", f"teff = [{self.range.teff[0]!r}, {self.range.teff[1]!r}]"]
        span += [f"fe_h_min = {self.range.fe_h_min!r}"] if self.range.fe_h_min is not None else []
        lines = [f"[labels.{name}]\na = {line.a!r}\nb = {line.b!r}\n" for name, line in self.labels.items()]
        text = "\n".join(["# X_corrected = X - (a * Teff + b)", *head, "", *span, "", *lines])
        with replacing(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def apply(self, posterior: Posterior) -> tuple[Posterior, np.ndarray]:
        """The corrected posterior, and ``(n_spec,)`` whether each star's MAP was within the range of the fit.

        Every sample moves by the bias at its own uncorrected Teff, so quantiles and correlations move too;
        stars outside the range, or without an accepted sample, keep theirs. ``inside`` and ``log_prob`` stay
        what the estimator saw. Raises ``ModelError`` for a label that the posterior does not have.
        """
        needed = {"teff", *self.labels} | ({"fe_h"} if self.range.fe_h_min is not None else set())
        missing = sorted(name for name in needed if name not in posterior.labels)
        if missing:
            raise ModelError(
                f"the correction needs {', '.join(missing)}, the model infers "
                f"{', '.join(posterior.labels.names)}: it was fitted for another model"
            )
        at = posterior.labels.index
        low, high = self.range.teff
        teff = posterior.map[:, at("teff")]
        applied = (teff >= low) & (teff <= high)  # False for NaN: no accepted sample
        if self.range.fe_h_min is not None:
            applied &= posterior.map[:, at("fe_h")] >= self.range.fe_h_min
        samples = posterior.samples.copy()
        own_teff = posterior.samples[applied, :, at("teff")].astype(np.float64)
        for name, line in self.labels.items():
            samples[applied, :, at(name)] -= line.a * own_teff + line.b
        return Posterior(posterior.labels, samples, posterior.log_prob, posterior.inside), applied


def _quote(text: str) -> str:
    """A TOML basic string: JSON's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
