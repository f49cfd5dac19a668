"""Posteriors of spectra in catalogues and files of samples, as :mod:`.combine` takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import vstack

from specinn import catalogue, models
from specinn.catalogue.lithium import LITHIUM
from specinn.catalogue.schema import UNDETERMINED, Field
from specinn.catalogue.table import named
from specinn.errors import ConfigError, ModelError, near
from specinn.flags import is_bad, names
from specinn.labels import Label, LabelSet, make_label
from specinn.posterior import QUANTILES, Summary

if TYPE_CHECKING:
    from specinn.plugins import Plugins

__all__ = [
    "PERCENTILES",
    "CatalogueSource",
    "SampleSource",
    "Source",
    "Spectra",
    "has_samples",
    "labels_of",
    "same_position",
]

PERCENTILES = ("p2_5", "p16", "median", "p84", "p97_5")
_NOT_IN_SAMPLES = (  # columns of a catalogue
    "path", "instrument", "rv", "rv_error", "ood_score", *(field.name for field in catalogue.CARRIED),
)  # fmt: skip
_POOLED: dict[str, Callable[[np.ndarray], Any]] = {
    "rv": np.mean,
    "rv_error": lambda errors: np.sqrt(np.sum(errors**2)) / len(errors),
    "ood_score": np.max,
    "snr": lambda snr: np.sqrt(np.sum(snr**2)),
    "ra": lambda ra: ra[0],
    "dec": lambda dec: dec[0],
    "mjd": np.mean,
    "exptime": np.sum,
}


@attrs.frozen(eq=False)
class Spectra:
    """Those of one star, k of them.

    ``mean (k, n_labels)`` and ``covariance (k, n_labels, n_labels)`` in the variables of the network;
    ``percentiles (k, 5, n_labels)`` as :data:`PERCENTILES`, physical; ``undetected`` and ``undetermined (k,
    n_labels)``.
    """

    mean: np.ndarray
    covariance: np.ndarray
    percentiles: np.ndarray
    undetected: np.ndarray
    undetermined: np.ndarray


class CatalogueSource:
    """Rows of catalogues: Gaussians of median and half of the central 68 %, without correlations.

    Percentiles go through the transforms of the labels as they are; means and standard deviations do not.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        by: str,
        plugins: Plugins,
        files: Sequence[Path],
        radius: float | None = None,
    ) -> None:
        tables = [catalogue.read(path) for path in paths]
        table_of_stars = _stars_in(Path(by)) if Path(by).is_file() else None
        column = "id" if table_of_stars is not None or radius is not None else by
        for path, table in zip(paths, tables, strict=True):
            for name in (column, "id", "flags", "model", "message"):
                if name not in table.colnames:
                    hint = ": was it written by specinn run?"
                    if name == column:
                        hint = f"; {near(name, table.colnames)}"
                    raise ConfigError(f"{path} has no column {name!r}{hint}")
        self.table = table = vstack(tables, metadata_conflicts="silent")
        self.meta = dict(tables[0].meta)
        self.flags = np.asarray(table["flags"], np.uint32)
        whole = labels_of({str(name) for name in table["model"]}, plugins, files)
        masked = {name for each in tables for name in str(each.meta.get("masked", "")).split(", ")}
        self.labels = LabelSet([label for label in whole if label.name not in masked])
        self.ids = np.asarray(table["id"])
        self.paths = [str(path) for path in table["path"]] if "path" in table.colnames else [""] * len(table)
        if radius is not None:
            self.keys = same_position(self._of("ra"), self._of("dec"), radius)
        elif table_of_stars is not None:
            self.keys = self._listed(table_of_stars, by)
        else:
            cells = ["" if v is np.ma.masked or v != v else str(v) for v in table[by]]
            self.keys = np.array(cells, np.str_)
        if column == "id" and radius is None and table_of_stars is None:
            self._check_stems()
        self._check_twice()
        columns = [[self._of(f"{n}_{end}") for n in self.labels.names] for end in PERCENTILES]
        self.percentiles = np.array(columns).transpose(2, 0, 1)
        self.undetected = np.isfinite([self._of(f"{n}_upper") for n in self.labels.names]).T
        self.undetermined = named(table, self.labels.names)
        # their medians are masked, and say nothing: the middle of the interval will do
        middle = self.labels.from_network(self.labels.to_network(self.percentiles[:, [1, 3]]).mean(axis=1))
        self.percentiles[:, 2] = np.where(self.undetermined, middle, self.percentiles[:, 2])
        low, self.mean, high = self.labels.to_network(self.percentiles[:, 1:4]).transpose(1, 0, 2)
        self.sigma = np.maximum(0.5 * (high - low), 1e-6)
        lost = ~is_bad(self.flags) & ~np.isfinite(self.percentiles).all(axis=(1, 2))
        if lost.any():
            raise ConfigError(
                f"{self.ids[lost][0]} has no bad flag, but lacks percentiles of a label of its model: "
                "combine catalogues as specinn run wrote them"
            )

    def _listed(self, stars: Mapping[str, str], name: str) -> np.ndarray:
        """The star of every row by its path, file name or id; raises ``ConfigError`` where none is listed."""
        keys = []
        for path, row in zip(self.paths, map(str, self.ids), strict=True):
            keys.append(next((stars[key] for key in (path, Path(path).name, row) if key in stars), ""))
        if not any(keys):
            raise ConfigError(f"{name} lists no spectrum of these catalogues by path, file name or id")
        return np.array(keys, np.str_)

    def _check_stems(self) -> None:
        """Raises ``ConfigError`` where rows share an id that is only the name of files in several folders."""
        folders: dict[str, str] = {}
        for row, path in zip(map(str, self.ids), map(Path, self.paths), strict=True):
            if path.name and path.name.split(".")[0] == row.split("#")[0]:
                first = folders.setdefault(row, str(path.parent))
                if first != str(path.parent):
                    raise ConfigError(
                        f"{row} is the name of a file in {first} and in {path.parent}, which need not be of "
                        "one star: match by --by object, by --radius, or by a table of files and stars"
                    )

    def _check_twice(self) -> None:
        """Raises ``ConfigError`` where one spectrum is in two rows."""
        seen: set[tuple[str, str, float]] = set()
        mjd = np.nan_to_num(self._of("mjd"), nan=-1.0)
        for one in zip(self.paths, map(str, self.ids), mjd.tolist(), strict=True):
            if one[0] and one in seen:
                raise ConfigError(
                    f"the spectrum {one[1]} of {one[0]} is given twice, and would count twice: give it once"
                )
            seen.add(one)

    def _of(self, name: str) -> np.ndarray:
        if name not in self.table.colnames:
            return np.full(len(self.table), np.nan)
        return np.ma.filled(np.ma.asarray(self.table[name], float), np.nan)

    def fields(self) -> tuple[Field, ...]:
        arms = [name.removeprefix("snr_") for name in self.table.colnames if name.startswith("snr_")]
        return catalogue.schema(self.labels, arms, lithium=LITHIUM.name in self.table.colnames)

    def spectra(self, rows: np.ndarray) -> Spectra:
        covariance = np.eye(len(self.labels)) * self.sigma[rows, None] ** 2
        of_labels = self.percentiles, self.undetected, self.undetermined
        return Spectra(self.mean[rows], covariance, *(each[rows] for each in of_labels))

    def alone(self, summary: Summary, star: int, row: int) -> None:
        """Nothing: :meth:`others` takes the numbers of the row as they are."""

    def message(self, row: int) -> str:
        return str(self.table["message"][row])

    def others(self, stars: Sequence[np.ndarray], columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The columns that are not of the posterior, and all of those of stars with one row."""
        out: dict[str, Any] = {}
        carried = [field.name for field in catalogue.CARRIED if field.dtype is str]
        for name in ("path", "instrument", "model", *carried):
            if name in self.table.colnames:
                texts = np.asarray(self.table[name])
                words = [dict.fromkeys(str(v) for v in texts[rows]) for rows in stars]
                out[name] = [";".join(word for word in each if word) for each in words]
        first, single = np.array([rows[0] for rows in stars]), columns["n_epochs"] < 2
        for name in [field.name for field in self.fields() if np.issubdtype(field.dtype, np.floating)]:
            values, pool = self._of(name), _POOLED.get(name.split("_")[0] if name[:4] == "snr_" else name)
            column = columns.get(name) if pool is None else np.array([pool(values[rows]) for rows in stars])
            out[name] = np.where(single, values[first], column)
        if UNDETERMINED in self.table.colnames:
            texts = np.asarray(self.table[UNDETERMINED])[first]
            out[UNDETERMINED] = np.where(single, texts, columns[UNDETERMINED])
        return out


def same_position(ra: np.ndarray, dec: np.ndarray, radius: float) -> np.ndarray:
    """A key for every row ``(n,)``, the same for those within ``radius`` arcsec of one another (or of others
    between them); "" without a position. ``ra`` and ``dec`` in degrees. Raises ``ConfigError``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    located = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    if not located.size:
        raise ConfigError("no row has a position (columns ra and dec), so --radius cannot match any")
    lon, lat = np.radians(ra[located]), np.radians(dec[located])
    direction = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    pairs = KDTree(direction).query_pairs(2 * np.sin(np.radians(radius / 3600.0) / 2), output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(located.size, located.size))
    star = connected_components(graph, directed=False)[1]
    keys = np.full(len(ra), "", "U24")
    for number in range(star.max() + 1):
        members = located[star == number]
        keys[members] = f"{ra[members[0]]:010.6f}{dec[members[0]]:+010.6f}"
    return keys


def _stars_in(path: Path) -> dict[str, str]:
    """The star of each file, from a table with columns ``path`` (or ``id``) and ``star`` (or ``object``)."""
    from specinn.catalogue.formats import read_table

    table = read_table(path)
    columns = {str(name).lower(): name for name in table.colnames}
    file = next((columns[name] for name in ("path", "file", "id") if name in columns), None)
    star = next((columns[name] for name in ("star", "object") if name in columns), None)
    if file is None or star is None:
        raise ConfigError(
            f"{path}: expected the columns path (or id) and star (or object), found "
            f"{', '.join(table.colnames)}"
        )
    return {str(name): str(value) for name, value in zip(table[file], table[star], strict=True)}


class SampleSource:
    """Files of samples: Gaussians with the mean and covariance of all samples, read star by star.

    Samples outside the bounds count, because the network's density extends there; the product is truncated.
    """

    def __init__(self, paths: Sequence[Path], by: str, stack: contextlib.ExitStack) -> None:
        import h5py

        if by != "id":
            raise ConfigError(f"a file of samples has no column {by!r}, only id: give the catalogue instead")
        for number, path in enumerate(paths):
            if any(path.samefile(other) for other in paths[:number]):
                raise ConfigError(f"{path} is given twice, and its spectra would count twice: give it once")
        self.files = [stack.enter_context(h5py.File(path)) for path in paths]
        sets = [_labels_in(file) for file in self.files]
        masked = {str(name) for file in self.files for name in file.attrs.get("masked", ())}
        self.kept = [i for i, name in enumerate(sets[0].names) if name not in masked]
        self.labels = LabelSet([sets[0][i] for i in self.kept])
        for path, labels in zip(paths, sets, strict=True):
            _check_same(sets[0], labels, str(paths[0]), str(path))
        self.first = np.cumsum([0, *(len(file["id"]) for file in self.files)])
        self.keys = self.ids = np.concatenate([file["id"].asstr()[:].astype(np.str_) for file in self.files])
        self.flags = np.concatenate([file["flags"][:] for file in self.files]).astype(np.uint32)
        self.meta = {"model": str(self.files[0].attrs.get("model", ""))}
        few, needed = min(file["samples"].shape[1] for file in self.files), 2 * len(self.labels) + 2
        if few < needed:
            raise ConfigError(
                f"{few} samples per spectrum: at least {needed} are needed for their covariance"
            )

    def _at(self, row: int) -> tuple[Any, int]:
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        return self.files[number], int(row - self.first[number])

    def fields(self) -> tuple[Field, ...]:
        return tuple(
            field for field in catalogue.schema(self.labels, []) if field.name not in _NOT_IN_SAMPLES
        )

    def spectra(self, rows: np.ndarray) -> Spectra:
        means, covariances, n = [], [], len(self.labels)
        summary = Summary.empty(self.labels, len(rows))
        for k, row in enumerate(rows):
            file, i = self._at(row)
            with np.errstate(invalid="ignore", divide="ignore"):
                y = self.labels.to_network(file["samples"][i][:, self.kept])
            y = y[np.isfinite(y).all(axis=1)]
            means.append(y.mean(axis=0))
            covariances.append(np.cov(y.T))
            self.alone(summary, k, row)
        percentiles = summary.quantiles[[list(QUANTILES).index(name) for name in PERCENTILES], :, :n]
        of_all = summary.undetected[:, :n], summary.undetermined[:, :n]
        return Spectra(np.array(means), np.array(covariances), percentiles.swapaxes(0, 1), *of_all)

    def alone(self, summary: Summary, star: int, row: int) -> None:
        """The statistics of the samples."""
        file, i = self._at(row)
        values = np.ascontiguousarray(file["samples"][i][:, self.kept].T)
        summary.put_star(star, values, file["log_prob"][i], file["inside"][i])

    def message(self, row: int) -> str:
        return ", ".join(names(self.flags[row])) if is_bad(self.flags[row]) else ""

    def others(self, stars: Sequence[np.ndarray], columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The model, which is all that the file holds besides posteriors."""
        of = [[str(self._at(row)[0].attrs.get("model", "")) for row in rows] for rows in stars]
        return {"model": [";".join(dict.fromkeys(part)) for part in of]}


Source = CatalogueSource | SampleSource


def _labels_in(file: Any) -> LabelSet:
    """The labels of a file of samples; one of an unknown kind is taken as linear."""
    out = []
    for name, unit, bounds in zip(*(file.attrs[key] for key in ("labels", "units", "bounds")), strict=True):
        try:
            out.append(make_label(str(name), tuple(bounds)))
        except ConfigError:
            out.append(Label(str(name), str(unit), tuple(bounds)))
    labels = LabelSet(tuple(out))
    return labels.with_spreads(file.attrs["spreads"]) if "spreads" in file.attrs else labels


def labels_of(names: set[str], plugins: Plugins, files: Sequence[Path]) -> LabelSet:
    """The labels of models as catalogues name them, "NAME HASH", from ``files`` or from what is installed.

    Raises ``ModelError`` where one is not found, or where their labels differ.
    """
    listed = [models.find(plugins, path) for path in files]
    sets: dict[str, LabelSet] = {}
    for name in sorted(names):
        short, _, digest = name.rpartition(" ")
        candidates = list(listed)
        with contextlib.suppress(ModelError):
            candidates.append(models.find(plugins, short or name))
        fitting = [m for m in candidates if (m.sha256().startswith(digest) if short else m.name == name)]
        if not fitting:
            raise ModelError(
                f"the bounds of the labels are those of the model {name}, which is not installed: give its "
                "file with --model"
            )
        sets[name] = LabelSet.from_dicts(fitting[0].labels)
        _check_same(next(iter(sets.values())), sets[name], next(iter(sets)), name)
    return next(iter(sets.values()))


def _check_same(one: LabelSet, other: LabelSet, first: str, second: str) -> None:
    """Models may differ, but not in the meaning of their labels, or their priors would differ."""

    def essence(labels: LabelSet) -> list[tuple[Any, ...]]:
        return [(label.name, *label.bounds, label.transform) for label in labels]

    if essence(one) != essence(other):
        differ = [a[0] for a, b in zip(essence(one), essence(other), strict=False) if a != b]
        raise ModelError(
            f"{first} and {second} differ in labels or bounds ({differ[0] if differ else 'their number'}), "
            "so their posteriors have no common prior: combine spectra that one model was run on"
        )


def has_samples(path: Path) -> bool:
    """Whether the file holds samples, and not a catalogue."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path) as file:
            return "samples" in file
    except OSError as error:
        raise ConfigError(f"{path} is damaged ({error}): write or copy it again") from None
