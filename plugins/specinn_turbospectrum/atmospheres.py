"""MARCS model atmospheres: read, found in a folder by their names, interpolated, written for the code."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import SynthesisError

SPHERICAL_BELOW = 3.0  # log g up to which atmospheres are spherical
GM_SUN = 1.32712440e26  # cm3 s-2
# As the names of MARCS say: geometry, Teff, log g, mass, microturbulence, kind, [M/H], [alpha/Fe].
_NAME = re.compile(
    r"^([sp])(\d+)_g([-+]\d+\.\d+)_m(\d+\.\d+)_t(\d+)_(\w+)_z([-+]\d+\.\d+)_a([-+]\d+\.\d+).*\.mod(\.gz)?$"
)
_MAX_GAPS = (500.0, 1.0, 1.0)  # of Teff, log g, [M/H] between models that are interpolated


@attrs.frozen(eq=False)
class Atmosphere:
    """A model atmosphere on the optical depths ``lg_tau_ross (n,)``.

    ``structure (5, n)``: lg tau at 5000 Angstrom, log10 of the temperature in K, of the electron and the gas
    pressure in dyn cm-2, and the height below tau_ross = 1 in cm times the surface gravity in cm s-2.
    ``alpha_fe`` is the [alpha/Fe] that the structure was computed for.
    """

    teff: float
    logg: float
    fe_h: float
    lg_tau_ross: np.ndarray
    structure: np.ndarray
    alpha_fe: float = 0.0

    @property
    def spherical(self) -> bool:
        return self.logg <= SPHERICAL_BELOW

    @property
    def temperature(self) -> np.ndarray:
        return np.asarray(10.0 ** self.structure[1])

    def on_depths(self, lg_tau_ross: np.ndarray) -> Atmosphere:
        """The layers at those optical depths, which must be among those of the model."""
        at = np.searchsorted(self.lg_tau_ross, lg_tau_ross - 1e-6)
        at = at.clip(max=self.lg_tau_ross.size - 1)
        if not np.allclose(self.lg_tau_ross[at], lg_tau_ross, atol=1e-6):
            raise SynthesisError(
                f"the model atmosphere has no layers at lg tau = {lg_tau_ross[0]:g} to {lg_tau_ross[-1]:g}"
            )
        return attrs.evolve(self, lg_tau_ross=lg_tau_ross, structure=self.structure[:, at])

    def write(self, path: Path, vmic: float) -> None:
        """In the format that babsma_lu takes with ``MARCS-FILE .false.``; ``vmic`` in km/s. The radius of
        spherical ones is that of one solar mass."""
        tau5000, log_t, log_pe, log_pg, depth = self.structure
        depth = depth / 10.0**self.logg
        place = np.sqrt(GM_SUN / 10.0**self.logg) - depth if self.spherical else depth
        kind = "sphINTERPOL" if self.spherical else "INTERPOL"
        lines = [f"'{kind}' {tau5000.size:3d}   5000. {self.logg:5.2f} 0 0.00"]
        for row in zip(tau5000, 10.0**log_t, log_pe, log_pg, place, self.lg_tau_ross, strict=True):
            lines.append(
                f"{row[0]:9.5f} {row[1]:10.3f} {row[2]:10.5f} {row[3]:10.5f} "
                f"{vmic:8.4f} {row[4]:15.7E} {row[5]:8.4f}"
            )
        path.write_text("\n".join(lines) + "\n", encoding="ascii")


def count_depths(path: Path) -> int:
    """The number of layers of an atmosphere in the format of :meth:`Atmosphere.write` or in MULTI's."""
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
        if "INTERPOL" in lines[0]:
            return int(lines[0].split()[1])
        at = next(i for i, line in enumerate(lines) if line.lstrip("* ").startswith("NDEP"))
        return int(lines[at + 1].split()[0])
    except (OSError, IndexError, ValueError, StopIteration) as error:
        raise SynthesisError(f"{path} is not a model atmosphere in MULTI's format: {error!r}") from None


def monotonic(lines: Sequence[str]) -> bool:
    """Whether the gas pressure of a model, in the lines of its file, rises inwards everywhere."""
    return bool((np.diff(_table(lines, "the model")[:, 6]) > 0).all())


def _table(lines: Sequence[str], source: str) -> np.ndarray:
    """The model structure ``(n, 9)``: k, lgTauR, lgTau5, depth, T, Pe, Pg, Prad, Pturb."""
    at = next((i for i, line in enumerate(lines) if "Number of depth points" in line), None)
    try:
        if at is None:
            raise ValueError("there is no 'Number of depth points'")
        n = int(lines[at].split()[0])
        rows = [[float(x) for x in line.split()[:9]] for line in lines[at + 3 : at + 3 + n]]
        whole = sum(len(row) == 9 for row in rows)
        if whole != n:
            raise ValueError(f"it has {whole} complete layers of {n}")
        table = np.array(rows)
        if not np.isfinite(table).all():
            raise ValueError("there is a number that is not finite")
    except ValueError as error:
        raise SynthesisError(f"{source} is not a complete MARCS model: {error}") from None
    return table


def read_marcs(path: Path) -> Atmosphere:
    """A model in MARCS's own text format, compressed by gzip or not.

    Raises ``SynthesisError`` for any other file, and where the gas pressure does not rise inwards.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="ascii")
            if path.suffix == ".gz"
            else path.open(encoding="ascii") as f
        ):
            lines = f.readlines()
        teff = float(lines[1].split()[0])
        logg = float(np.log10(float(lines[3].split()[0])))
        fe_h = float(lines[6].split()[0])
    except (OSError, ValueError, IndexError) as error:
        raise SynthesisError(f"{path} is not a MARCS model: {error}") from None
    table = _table(lines, str(path))
    if (np.diff(table[:, 6]) <= 0).any():
        raise SynthesisError(f"{path}: the gas pressure does not rise inwards, so this model is not used")
    structure = np.stack(
        [
            table[:, 2],
            np.log10(table[:, 4]),
            np.log10(table[:, 5]),
            np.log10(table[:, 6]),
            table[:, 3] * 10.0**logg,
        ]
    )
    named = _NAME.match(path.name)
    alpha_fe = float(named.group(8)) if named else 0.0
    return Atmosphere(teff, round(logg, 3), fe_h, table[:, 1], structure, alpha_fe)


Node = tuple[float, float, float]


def find_models(folder: Path) -> dict[Node, Path]:
    """The models of a folder by Teff, log g and [M/H], from the names that MARCS gives them.

    Where one node has several, the mass nearest to one solar mass is taken, then the microturbulence nearest
    to 2 km/s in spherical and 1 km/s in plane-parallel models, then the [alpha/Fe] for that [M/H] in
    MARCS's standard composition (0.4 up to [M/H] = -1, falling to 0 at 0).
    """
    best: dict[Node, tuple[tuple[float, ...], Path]] = {}
    for path in sorted(folder.iterdir()):
        found = _NAME.match(path.name)
        if found is None:
            continue
        geometry, teff, logg, mass, vmic, _, fe_h, alpha, _ = found.groups()
        node = (float(teff), float(logg), float(fe_h))
        standard = min(0.4, max(0.0, -0.4 * node[2]))
        rank = (
            abs(float(mass) - 1.0) if geometry == "s" else 0.0,
            abs(float(vmic) - (2.0 if geometry == "s" else 1.0)),
            abs(float(alpha) - standard),
        )
        if node not in best or rank < best[node][0]:
            best[node] = (rank, path)
    if not best:
        raise SynthesisError(
            f"{folder} has no MARCS models (such as p5750_g+4.5_m0.0_t01_x3_z+0.00_a+0.00_....mod)"
        )
    return {node: path for node, (_, path) in best.items()}


class Atmospheres:
    """Model atmospheres between ``models``, files of MARCS by Teff, log g and [M/H].

    All quantities are interpolated at the same Rosseland optical depth, one parameter after the other ([M/H]
    within Teff, log g within [M/H]), by the parabolas through the two models on either side and the next on
    the left or the right, which are blended linearly: exact at the models, smooth across them, and without
    the oscillations of polynomials through all. Without a next model it is one parabola, or a line.
    """

    def __init__(self, models: Mapping[Node, Path]) -> None:
        self.models = dict(models)
        self._axes: dict[tuple[float, ...], np.ndarray] = {}
        for depth in range(3):
            values: dict[tuple[float, ...], set[float]] = {}
            for teff, logg, fe_h in self.models:
                node = (teff, fe_h, logg)
                values.setdefault(node[:depth], set()).add(node[depth])
            self._axes |= {key: np.array(sorted(found)) for key, found in values.items()}
        self._read: Callable[[Node], Atmosphere] = lru_cache(maxsize=512)(
            lambda node: read_marcs(self.models[node])
        )

    @classmethod
    def within(cls, folder: Path) -> Atmospheres:
        """Those between the models of a folder."""
        return cls(find_models(folder))

    @property
    def bounds(self) -> np.ndarray:
        """``(3, 2)`` the least and the greatest Teff, log g and [M/H] of the models; corners have none."""
        nodes = np.array(list(self.models))
        return np.stack([nodes.min(axis=0), nodes.max(axis=0)], axis=1)

    def __call__(self, teff: float, logg: float, fe_h: float) -> Atmosphere:
        """The atmosphere there; below the lowest [M/H] the structure of the lowest.

        Raises ``SynthesisError`` where there are no models around.
        """
        at = (teff, max(fe_h, self.bounds[2, 0]), logg)
        structure, lg_tau = self._along((), at)
        if structure is None:
            raise SynthesisError(
                f"there are no model atmospheres around Teff = {teff:g}, log g = {logg:g}, [Fe/H] = {fe_h:g}"
            )
        for name, row in (("gas pressure", structure[3]), ("optical depth", structure[0])):
            if (np.diff(row) <= 0).any():
                raise SynthesisError(
                    f"the {name} of the atmosphere between models at Teff = {teff:g}, log g = {logg:g}, "
                    f"[Fe/H] = {fe_h:g} does not rise inwards"
                )
        return Atmosphere(teff, logg, fe_h, lg_tau, structure[:-1], float(structure[-1, 0]))

    def _along(self, known: tuple[float, ...], at: Sequence[float]) -> tuple[np.ndarray | None, np.ndarray]:
        """Structure, with [alpha/Fe] as its last row, and depths at ``at`` (Teff, [M/H], log g), whose first
        values are those of models."""
        axis = len(known)
        nothing = (None, np.empty(0))
        if axis == 3:
            model = self._read((known[0], known[2], known[1]))
            alpha_fe = np.full(model.lg_tau_ross.size, model.alpha_fe)
            return np.vstack([model.structure, alpha_fe]), model.lg_tau_ross
        values = self._axes[known]
        here = at[axis]
        found: dict[float, np.ndarray] = {}
        depths = np.empty(0)
        sides = (values[values <= here + 1e-6][::-1], values[values > here + 1e-6])
        for side in sides:
            got = 0
            for value in side:  # from the nearest outwards, two on each side
                structure, lg_tau = self._along((*known, float(value)), at)
                if structure is None:
                    continue
                if abs(value - here) < 1e-6:
                    return structure, lg_tau
                if depths.size and not np.array_equal(lg_tau, depths):
                    raise SynthesisError(
                        f"the models around Teff = {at[0]:g}, log g = {at[2]:g}, [M/H] = {at[1]:g} differ in "
                        "their optical depths: use models of one kind"
                    )
                found[float(value)], depths = structure, lg_tau
                got += 1
                if got == 2:
                    break
        left = sorted(value for value in found if value <= here)
        right = sorted(value for value in found if value > here)
        gap = (_MAX_GAPS[0], _MAX_GAPS[2], _MAX_GAPS[1])[axis]
        if not left or not right or right[0] - left[-1] > gap + 1e-6:
            return nothing
        weights = blended_parabolas(np.array(left + right), len(left), here)
        return np.tensordot(weights, np.stack([found[v] for v in left + right]), axes=1), depths


def blended_parabolas(nodes: np.ndarray, n_left: int, x: float) -> np.ndarray:
    """Weights ``(n,)`` of values at 2 to 4 ``nodes``, ``n_left`` of them on the left of ``x``."""
    weights = np.zeros(nodes.size)
    left = slice(0, n_left + 1)  # the parabola with the further node on the left
    right = slice(n_left - 1, nodes.size)
    place = (x - nodes[n_left - 1]) / (nodes[n_left] - nodes[n_left - 1])
    if n_left == 1 and nodes.size - n_left == 1:
        return np.array([1.0 - place, place])
    if nodes.size == 3:
        return _lagrange(nodes, x)
    weights[left] += (1.0 - place) * _lagrange(nodes[left], x)
    weights[right] += place * _lagrange(nodes[right], x)
    return weights


def _lagrange(nodes: np.ndarray, x: float) -> np.ndarray:
    return np.array([np.prod([(x - b) / (a - b) for b in nodes if b != a]) for a in nodes])
