"""Grids of synthetic spectra: labels, flux and provenance, on disk as HDF5."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import h5py
import numpy as np

from specinn.errors import GridError, PluginError, near

if TYPE_CHECKING:
    from specinn.plugins import Plugins

__all__ = [
    "FLUX_LIMIT",
    "FORMAT",
    "SPLITS",
    "VERSION",
    "FluxSource",
    "Grid",
    "HDF5Flux",
    "check_declared",
    "join_arms",
    "load",
    "open_hdf5",
    "read_segments",
]

FORMAT = "specinn grid"
VERSION = 1
SPLITS = {"train": 0.75, "test": 0.20, "validation": 0.05}
_MOST_PACKED = 1100  # bytes in one: the limit of deflate
FLUX_LIMIT = 1.25  # of the 16-bit flux on disk: a step of 1.9e-5


class FluxSource(Protocol):
    """Where spectra come from: rows in, ``(n_rows, n_pix)`` float32 normalised flux out."""

    def __call__(self, rows: np.ndarray) -> np.ndarray: ...


@attrs.frozen(eq=False)
class Grid:
    """Labels and synthetic spectra of a grid of models.

    Attributes
    ----------
    labels : tuple of str
        Names of the columns of ``values``.
    values : ndarray
        ``(n_models, n_labels)`` in physical units (K, dex, km/s).
    ids : ndarray
        ``(n_models,)`` permanent identifiers of the base models (the split depends on them).
    wavelength : ndarray
        ``(n_pix,)`` Angstrom in ``medium``, increasing in each of the pieces ``arms``.
    arms : mapping of str to slice
        The pieces of ``wavelength`` by name.
    flux_of : callable
        ``flux_of(rows)`` reads normalised flux ``(n_rows, n_pix)``.
    resolving_power : float
        lambda / FWHM, infinite for spectra that were not convolved.
    medium : {"air", "vacuum"}
        Of the wavelengths.
    provenance : mapping
        Code, LTE or NLTE, atmospheres, line lists, solar scale (JSON values; lists state the inputs,
        everything else what the spectra are).
    defects : mapping of str to str
        Models known to be unusable, with the reason: they stay in the tables, but their flux is refused.

    Raises
    ------
    GridError
        If the parts do not match.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from specinn.grids import Grid
    >>> flux = np.array([[1.0, 0.6, 1.0], [1.0, 0.7, 1.0]], np.float32)
    >>> grid = Grid(
    ...     labels=("teff", "logg"),
    ...     values=np.array([[5772.0, 4.44], [4500.0, 2.0]]),
    ...     ids=np.array(["sun", "giant"]),
    ...     wavelength=np.array([6707.0, 6707.1, 6707.2]),
    ...     arms={"red": slice(0, 3)},
    ...     flux_of=lambda rows: flux[rows],
    ...     resolving_power=200_000.0,
    ... )
    >>> grid.save(Path("grid.h5"))  # what was left out
    {}
    >>> again = Grid.open(Path("grid.h5"))
    >>> again.column("teff"), again.flux([1]).round(4)
    (array([5772., 4500.]), array([[1. , 0.7, 1. ]], dtype=float32))
    """

    labels: tuple[str, ...]
    values: np.ndarray
    ids: np.ndarray
    wavelength: np.ndarray
    arms: Mapping[str, slice]
    flux_of: FluxSource
    resolving_power: float
    medium: str = "air"
    provenance: Mapping[str, Any] = attrs.field(factory=dict)
    defects: Mapping[str, str] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if not len(self.ids):
            raise GridError("the grid has no models")
        if self.values.shape != (len(self.ids), len(self.labels)):
            raise GridError(
                f"labels have shape {self.values.shape}: expected ({len(self.ids)}, {len(self.labels)})"
            )
        if not np.isfinite(self.values).all():
            row, column = np.argwhere(~np.isfinite(self.values))[0]
            raise GridError(f"model {self.ids[row]}: label {self.labels[column]} is not a finite number")
        names, counts = np.unique(self.ids, return_counts=True)
        if (counts > 1).any():
            raise GridError(f"{counts.max()} models of the grid have the id {names[counts.argmax()]}")
        if not self.resolving_power > 0:
            raise GridError(f"resolving power {self.resolving_power} is not positive")

    def __len__(self) -> int:
        return len(self.ids)

    def flux(self, rows: Any = slice(None)) -> np.ndarray:
        """``(n_rows, n_pix)`` float32 normalised flux of the chosen models.

        Raises ``GridError`` that names a model with a defect, or with flux that is not finite.
        """
        rows = np.atleast_1d(np.arange(len(self))[rows])
        for name in self.ids[rows] if self.defects else ():
            if name in self.defects:
                raise GridError(self.defects[name])
        flux = self.flux_of(rows)
        bad = ~np.isfinite(flux).all(axis=1)
        if bad.any():
            raise GridError(
                f"model {self.ids[rows[int(np.argmax(bad))]]}: its flux has values that are not finite"
            )
        return flux

    def blocks(self, rows: np.ndarray, size: int = 64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows ``(n,)`` and flux ``(n, n_pix)`` of the chosen models, ``size`` at a time to save memory."""
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield part, self.flux(part)

    def split(self, name: str) -> np.ndarray:
        """Rows ``(n,)`` of ``train`` (75 %), ``test`` (20 %) or ``validation`` (5 %), the ``name`` of the
        split: by a hash of the id, so that a model stays in its split when the grid grows; of ``all`` every
        row. Raises ``GridError`` for another name."""
        if name == "all":
            return np.arange(len(self))
        if name not in SPLITS:
            raise GridError(f"no split {name!r}; {near(name, [*SPLITS, 'all'])}")
        edges = np.cumsum([0.0, *SPLITS.values()])
        edges[-1] = np.inf  # whatever the rounding of the sum
        at = list(SPLITS).index(name)
        digest = [
            int.from_bytes(hashlib.sha256(str(i).encode()).digest()[:8], "big") / 2**64 for i in self.ids
        ]
        return np.flatnonzero((np.array(digest) >= edges[at]) & (np.array(digest) < edges[at + 1]))

    def column(self, name: str) -> np.ndarray:
        """``(n_models,)`` values of the label of this name. Raises ``GridError`` where the grid has none."""
        try:
            return self.values[:, self.labels.index(name)]
        except ValueError:
            raise GridError(f"the grid has no label {name!r}; it has {', '.join(self.labels)}") from None

    @property
    def hash(self) -> str:
        """Identifies labels, ids and wavelengths (16 hexadecimal digits)."""
        digest = hashlib.sha256(json.dumps([list(self.labels), [str(i) for i in self.ids]]).encode())
        digest.update(np.ascontiguousarray(self.values, dtype="<f8").tobytes())
        digest.update(np.ascontiguousarray(self.wavelength, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def concatenate(cls, grids: Sequence[Grid], names: Sequence[str] = ()) -> Grid:
        """Several shards of one grid, ``grids``, as one; they must agree in everything but their models.

        Raises ``GridError`` that names (by ``names``, files or folders) two that differ, and in what.
        """
        names = names or [f"part {i + 1}" for i in range(len(grids))]
        for other, name in zip(grids[1:], names[1:], strict=True):
            _check_alike(grids[0], names[0], other, name)
        owner: dict[str, str] = {}
        for grid, name in zip(grids, names, strict=True):
            for model in grid.ids.tolist():
                if model in owner:
                    raise GridError(
                        f"{owner[model]} and {name} both hold model {model}: leave one of them out"
                    )
                owner[model] = name
        starts = np.cumsum([0] + [len(grid) for grid in grids])

        def flux_of(rows: np.ndarray) -> np.ndarray:
            out = np.empty((len(rows), grids[0].wavelength.size), np.float32)
            shard = np.searchsorted(starts, rows, side="right") - 1
            for i in np.unique(shard):
                in_part = shard == i
                out[in_part] = grids[i].flux_of(rows[in_part] - starts[i])
            return out

        lists = {key for grid in grids for key, value in grid.provenance.items() if isinstance(value, list)}
        joined = {
            key: [item for grid in grids for item in grid.provenance.get(key, [])] for key in sorted(lists)
        }
        return attrs.evolve(
            grids[0],
            values=np.concatenate([g.values for g in grids]),
            ids=np.concatenate([g.ids for g in grids]),
            flux_of=flux_of,
            provenance={**grids[0].provenance, **joined},
            defects={name: why for g in grids for name, why in g.defects.items()},
        )

    def save(
        self,
        path: Path,
        *,
        overwrite: bool = False,
        block: int = 64,
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, str]:
        """Write specinn's HDF5 layout (16-bit flux, chunked and compressed), ``block`` models at a time,
        then rename.

        A model with a defect is a ``GridError``, or with ``skip_bad`` is left out and listed in the
        provenance as ``left_out``. An existing file is a ``GridError``, unless ``overwrite``. Returns what
        was left out, id to reason. ``progress`` is called with the number of models done.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise GridError(f"{path} exists: give another name or --overwrite")
        if not path.parent.is_dir():
            raise GridError(f"{path} cannot be written: there is no folder {path.parent}")
        if self.defects and not skip_bad:
            others = f" ({len(self.defects) - 1} more like it)" if len(self.defects) > 1 else ""
            raise GridError(
                f"{next(iter(self.defects.values()))}{others}: fix it, or leave it out with --skip-bad"
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with h5py.File(temporary, "w") as file:
                left_out = self._write(file, block, skip_bad, progress)
            os.replace(temporary, path)
        except OSError as error:
            raise GridError(f"{path} cannot be written: {error.strerror or error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        return left_out

    def _write(
        self, file: h5py.File, block: int, skip_bad: bool, progress: Callable[[int], None] | None
    ) -> dict[str, str]:
        scale = FLUX_LIMIT / 65535
        datasets = {}
        for name, arm in self.arms.items():
            group = file.create_group(f"segments/{name}")
            group["wavelength"] = self.wavelength[arm]
            n_pix = self.wavelength[arm].size
            datasets[name] = group.create_dataset(
                "flux",
                (len(self), n_pix),
                "u2",
                chunks=(min(16, len(self)), n_pix),
                maxshape=(len(self), n_pix),
                compression="gzip",
                compression_opts=4,
                shuffle=True,
            )
        left_out = dict(self.defects)
        kept = np.empty(0, int)
        for start in range(0, len(self), block):
            rows = np.arange(start, min(start + block, len(self)))
            rows, flux, bad = self._usable(rows, skip_bad)
            left_out.update(bad)
            for name, arm in self.arms.items():
                datasets[name][len(kept) : len(kept) + len(rows)] = np.rint(flux[:, arm] / scale).astype("u2")
            kept = np.concatenate([kept, rows])
            if progress is not None:
                progress(min(start + block, len(self)))
        if not kept.size:
            raise GridError(f"none of the {len(self)} models is usable: {next(iter(left_out.values()))}")
        for data in datasets.values():
            data.resize(kept.size, axis=0)
        provenance = dict(self.provenance)
        if left_out:
            provenance["left_out"] = [*provenance.get("left_out", []), *left_out.values()]
        file["values"] = self.values[kept]
        file["ids"] = np.array([str(i) for i in self.ids[kept]], dtype=h5py.string_dtype())
        file.create_dataset("provenance", data=json.dumps(provenance))  # an attribute holds 64 kB at most
        file.attrs.update(
            {
                "format": FORMAT,
                "version": VERSION,
                "medium": self.medium,
                "flux_scale": scale,
                "resolving_power": float(self.resolving_power),
                "labels": list(self.labels),
            }
        )
        return left_out

    def _usable(self, rows: np.ndarray, skip_bad: bool) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        """The rows that can be stored, their flux, and the defects of the others."""
        try:
            return rows, self.storable(rows), {}
        except GridError:
            if not skip_bad:
                raise
        good, flux, bad = [], [np.empty((0, self.wavelength.size), np.float32)], {}
        for row in rows:
            try:
                flux.append(self.storable(np.array([row])))
                good.append(row)
            except GridError as error:
                bad[str(self.ids[row])] = str(error)
        return np.array(good, int), np.concatenate(flux), bad

    def storable(self, rows: np.ndarray) -> np.ndarray:
        """As :meth:`flux`, if :meth:`save` can write it. Raises ``GridError`` that names the model."""
        flux = self.flux(rows)
        outside = ((flux < 0) | (flux > FLUX_LIMIT)).any(axis=1)
        if outside.any():
            worst = int(np.argmax(outside))
            raise GridError(
                f"model {self.ids[rows[worst]]}: normalised flux from {flux[worst].min():.3g} to "
                f"{flux[worst].max():.3g}, outside 0 to {FLUX_LIMIT}"
            )
        return flux

    @classmethod
    def open(cls, path: Path) -> Grid:
        """A grid in specinn's HDF5 layout; flux is read on request.

        Raises ``GridError`` for other files.
        """
        with open_hdf5(path) as file:
            if file.attrs.get("format") != FORMAT:
                raise GridError(f"{path} is not a specinn grid: import it first with specinn grid import")
            if file.attrs.get("version", 0) > VERSION:
                raise GridError(
                    f"{path} has version {file.attrs['version']} of the grid layout, but this specinn reads "
                    f"up to {VERSION}: upgrade specinn"
                )
            try:
                check_declared(file, path)
                arms, wavelength = read_segments(file)
                return cls(
                    tuple(str(s) for s in file.attrs["labels"]),
                    file["values"][:],
                    file["ids"].asstr()[:],
                    wavelength,
                    arms,
                    HDF5Flux(Path(path), arms, float(file.attrs["flux_scale"])),
                    float(file.attrs["resolving_power"]),
                    str(file.attrs["medium"]),
                    json.loads(file["provenance"][()]),
                )
            except KeyError as error:
                raise GridError(f"{path} is an incomplete grid ({error.args[0]}): import it again") from None


def load(paths: Sequence[Path], loader: str | None = None, plugins: Plugins | None = None) -> Grid:
    """The grid in ``paths``, files or folders of any layout that a plugin reads, several joined into one.

    ``loader`` names the plugin's loader; without it each path is offered to all of them.
    """
    from specinn.plugins import Plugins

    plugins = plugins or Plugins()
    grids = [_loader_for(path, loader, plugins).load(path) for path in map(Path, paths)]
    return grids[0] if len(grids) == 1 else Grid.concatenate(grids, [str(path) for path in paths])


def _loader_for(path: Path, name: str | None, plugins: Plugins) -> Any:
    if not path.exists():
        raise GridError(f"{path}: no such file or folder")
    if name is not None:
        return plugins.load("grid loader", name)()
    loaders, broken = {}, ""
    for each in dict.fromkeys(offer.record.name for offer in plugins.offers("grid loader")):
        try:
            loaders[each] = plugins.load("grid loader", each)()
        except PluginError as error:  # another plugin's failure matters only where nothing else fits
            broken = f"; {error}"
    takers = [each for each, loader in loaders.items() if loader.recognises(path)]
    if len(takers) == 1:
        return loaders[takers[0]]
    if takers:
        raise GridError(f"{path} could be {' or '.join(takers)}: choose one with --loader")
    raise GridError(
        f"{path} does not have a known layout of synthetic spectra ({', '.join(loaders) or 'no loader'}): "
        f"specinn grid import --loader NAME says what one of them lacks{broken}"
    )


def _check_alike(one: Grid, first: str, two: Grid, second: str) -> None:
    for what in ("labels", "resolving_power", "medium"):
        a, b = getattr(one, what), getattr(two, what)
        if a != b:
            raise GridError(
                f"{first} has {what} {a}, {second} has {b}: they are not one grid, so import them separately"
            )
    if not np.array_equal(one.wavelength, two.wavelength) or dict(one.arms) != dict(two.arms):
        raise GridError(
            f"{first} and {second} have different wavelengths: import them separately, or "
            "resample them to common ones with --step and --range"
        )
    for key in sorted({*one.provenance, *two.provenance}):
        a, b = one.provenance.get(key), two.provenance.get(key)
        if a != b and not (isinstance(a, list) or isinstance(b, list)):
            raise GridError(
                f"{first} has {key} {a!r}, {second} has {b!r}: they are not one grid, so import them "
                "separately"
            )


def open_hdf5(path: Path) -> h5py.File:
    """The file opened for reading; every failure is a ``GridError`` that names it."""
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise GridError(f"{path}: no such file") from None
    except OSError as error:
        raise GridError(f"{path} is not a readable HDF5 file ({error})") from None


def check_declared(file: h5py.File, path: Path) -> None:
    """Raises ``GridError`` where a dataset declares far more than the file can hold, before memory is
    allocated."""
    size = os.path.getsize(path)

    def check(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        declared = float(np.prod([float(n) for n in item.shape or (1,)])) * item.dtype.itemsize
        stored = item.id.get_storage_size()
        if declared > 2**20 and (declared > _MOST_PACKED * stored or stored > size):
            raise GridError(
                f"{path}: {name} declares {declared:.3g} bytes, but stores {stored} in a file "
                f"of {size}: the file "
                "is incomplete or damaged"
            )

    file.visititems(check)


def read_segments(file: h5py.File) -> tuple[dict[str, slice], np.ndarray]:
    """Arms and joined wavelengths of the group ``segments``, ordered by wavelength."""
    groups = sorted(file["segments"].items(), key=lambda item: item[1]["wavelength"][0])
    return join_arms([name for name, _ in groups], [group["wavelength"][:] for _, group in groups])


def join_arms(names: Sequence[str], wavelengths: Sequence[np.ndarray]) -> tuple[dict[str, slice], np.ndarray]:
    """Slices of the arms, and their wavelengths one after the other."""
    ends = np.cumsum([0] + [w.size for w in wavelengths])
    arms = {name: slice(int(i), int(j)) for name, i, j in zip(names, ends[:-1], ends[1:], strict=True)}
    return arms, np.concatenate(wavelengths)


@attrs.frozen
class HDF5Flux:
    """Reads rows of the 16-bit flux of a file's ``segments``."""

    path: Path
    arms: Mapping[str, slice]
    scale: float

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        n_pix = max(arm.stop for arm in self.arms.values())
        out = np.empty((len(rows), n_pix), np.float32)
        if not len(rows):
            return out
        wanted, inverse = np.unique(rows, return_inverse=True)
        low, high = int(wanted[0]), int(wanted[-1]) + 1
        with open_hdf5(self.path) as file:
            for name, arm in self.arms.items():
                data = file[f"segments/{name}/flux"]
                try:  # reading a contiguous run and selecting is far faster than fancy indexing
                    out[:, arm] = (
                        data[low:high][rows - low] if high - low <= 4 * len(rows) else data[wanted][inverse]
                    )
                except OSError as error:
                    raise GridError(f"{self.path} is damaged ({error}): copy or import it again") from None
        out *= np.float32(self.scale)
        return out
