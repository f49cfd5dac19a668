"""Errors of the physics that look like other labels: they make the posteriors of real stars wider.

Independent errors of lines are averaged away by a network that sees thousands of them. What a temperature
structure, an atmosphere of one dimension or LTE get wrong is not: a real star has the spectrum of a model
whose labels differ from its own, and nothing in the spectrum says so. Such errors are the same at any S/N,
and known from stars whose labels are known. The posterior of a spectrum that is not declared synthetic is
that of the network, folded with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch

from specinn.labels import LabelSet
from specinn.plugins import ModelError

__all__ = ["Shifts", "Wider"]

_FARTHEST = 2.0  # of a label learnt as a probit, from the middle: beyond, a step in it would have no limit


@attrs.frozen(eq=False)
class Wider:
    """For each of some stars the map ``y -> centre + matrix (y - centre)`` of standardised labels:
    ``matrix (n_stars, n_labels, n_labels)`` is lower triangular, ``log_determinant (n_stars,)`` its own."""

    centre: torch.Tensor
    matrix: torch.Tensor
    log_determinant: torch.Tensor

    def __getitem__(self, stars: slice) -> Wider:
        return Wider(self.centre[stars], self.matrix[stars], self.log_determinant[stars])

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        """Of samples ``(n_stars, n_labels, n)``."""
        centre = self.centre[..., None]
        return torch.baddbmm(centre - self.matrix @ centre, self.matrix, y)

    def undo(self, y: torch.Tensor) -> torch.Tensor:
        """The inverse, of labels ``(n_stars, n, n_labels)``."""
        away = (y - self.centre[:, None]).transpose(1, 2)
        before = torch.linalg.solve_triangular(self.matrix, away, upper=False)
        return before.transpose(1, 2) + self.centre[:, None]


@attrs.frozen(eq=False)
class Shifts:
    """``directions (n_shifts, n_labels)`` in physical units, each with the standard deviation of every label
    that it moves; ``center`` and ``spread (n_labels,)`` standardise ``labels``."""

    labels: LabelSet
    center: torch.Tensor
    spread: torch.Tensor
    directions: torch.Tensor

    @classmethod
    def of(
        cls,
        labels: LabelSet,
        center: torch.Tensor,
        spread: torch.Tensor,
        shifts: Sequence[Mapping[str, float]],
    ) -> Shifts:
        """Raises ``ModelError`` for a label that ``labels`` lack."""
        directions = spread.new_zeros(len(shifts), len(labels))
        for row, shift in zip(directions, shifts, strict=True):
            for name, size in shift.items():
                if name not in labels:
                    raise ModelError(
                        f"the errors of the physics shift {name}, which the model does not infer: it has "
                        f"{', '.join(labels.names)}"
                    )
                row[labels.index(name)] = size
        return cls(labels, center, spread, directions)

    @property
    def points(self) -> torch.Tensor:
        """Latent variables ``(n_labels, 2 n_labels + 1)`` that tell the shape of a posterior: its centre, and
        one standard deviation to both sides along each."""
        unit = torch.eye(len(self.labels)).to(self.spread)
        return torch.cat([unit.new_zeros(len(unit), 1), unit, -unit], dim=1)

    def wider(self, y: torch.Tensor, real: torch.Tensor) -> Wider:
        """For stars whose :attr:`points` are standardised labels ``y (n_stars, n_labels, 2 n_labels + 1)``;
        those that are not ``real (n_stars,)`` are left as they are.

        The posterior keeps its shape and gets the sum of both covariances, its own as the points tell: exact
        where it is normal.
        """
        centre, up, down = y.double().split([1, len(self.labels), len(self.labels)], dim=2)
        slopes = 0.5 * (up - down)
        shift = self.directions.double() / self._steps(centre[..., 0])[:, None]
        own = torch.linalg.cholesky(slopes @ slopes.mT)
        both = torch.linalg.cholesky(slopes @ slopes.mT + shift.mT @ shift)
        matrix = torch.linalg.solve_triangular(own, both, upper=False, left=False).to(y)
        matrix = torch.where(real[:, None, None], matrix, torch.eye(len(self.labels)).to(matrix))
        return Wider(centre[..., 0].to(y), matrix, matrix.diagonal(dim1=1, dim2=2).log().sum(1))

    def _steps(self, y: torch.Tensor) -> torch.Tensor:
        """What a step of one standardised label is in physical units, at ``y (n_stars, n_labels)``."""
        at = y * self.spread + self.center
        out = self.spread.to(at).expand_as(at).clone()
        for i, label in enumerate(self.labels):
            low, high = label.bounds
            if label.transform == "log10":
                out[:, i] *= math.log(10.0) * 10.0 ** at[:, i].clamp(math.log10(low), math.log10(high))
            elif label.transform == "probit":
                density = torch.exp(-0.5 * at[:, i].clamp(-_FARTHEST, _FARTHEST).square())
                out[:, i] *= (high - low) / math.sqrt(2.0 * math.pi) * density
        return out
