"""A third party's corrections, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.plugins.hookspecs import Record, hookimpl
from specinn.plugins.interfaces import BenchmarkStars, Correction
from specinn.posterior import Posterior


@attrs.frozen
class Offset(Correction):
    """A correction: one constant, of logg."""

    by: float
    model: str | None = None

    @classmethod
    def fit(cls, stars: BenchmarkStars, use: np.ndarray, leave_one_out: Any = None) -> Offset:
        at = stars.posterior.labels.index("logg")
        return cls(float((stars.posterior.map[:, at] - stars.literature["logg"])[use].mean()), stars.model)

    def apply(self, posterior: Posterior) -> tuple[Posterior, np.ndarray]:
        samples = posterior.samples.copy()
        samples[..., 1] -= self.by
        return attrs.evolve(posterior, samples=samples), np.ones(len(posterior), bool)

    @classmethod
    def load(cls, path: Path) -> Offset:
        return cls(float(path.read_text()))

    def save(self, path: Path) -> None:
        path.write_text(str(self.by))


class Unfit(Offset):
    fit = classmethod(Correction.fit.__func__)  # type: ignore[attr-defined]


class ThirdParty:
    @hookimpl
    def specinn_corrections(self) -> list[Record]:
        return [
            Record(name="offset", summary="", factory="offset_plugin:Offset"),
            Record(name="unfit", summary="", factory="offset_plugin:Unfit"),
        ]
