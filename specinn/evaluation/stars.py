"""How good a model is on observed stars whose parameters are known."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.catalogue import summarise
from specinn.catalogue.result import Result
from specinn.catalogue.schema import UNDETERMINED
from specinn.errors import ConfigError
from specinn.evaluation.ksoll2026 import PUBLISHED_SNR
from specinn.evaluation.tables import tabulate
from specinn.flags import is_bad
from specinn.inference.run import Run, file_sources, prepare
from specinn.inference.sources import Source
from specinn.labels import LabelSet, with_derived_labels
from specinn.plugins import Plugins

if TYPE_CHECKING:
    from astropy.table import Table

    from specinn.plugins.interfaces import Correction, Estimator

__all__ = [
    "Benchmark",
    "check_instruments",
    "of_one_spectrum",
    "over_stars",
    "read_benchmarks",
    "reference_stars_of",
    "star_metrics",
    "star_summary",
    "star_table",
    "with_literature",
]

_REQUIRED = ("file", "star", "instrument", "resolving_power", "teff", "logg", "fe_h")
_NAMES = ("star", "name", "hd", "hip", "gaia")  # columns by which a table of literature names its stars
_ROLES = ("reference", "validation")
_FORMER = {"calibrator": "reference"}  # roles by their former names


@attrs.frozen
class Benchmark:
    """An observed star whose parameters are known; ``literature`` by name of the label, in its unit.

    ``role`` is ``reference`` for stars that the model's training has seen, else ``validation``; ``in_range``
    says whether the star's parameters are within reach of the model, so that it counts. ``errors`` are those
    of the literature, where known.
    """

    star: str
    file: Path
    instrument: str
    resolving_power: float | None
    literature: Mapping[str, float]
    role: str = "validation"
    in_range: bool = True
    errors: Mapping[str, float] = attrs.field(factory=dict)


def read_benchmarks(path: str | Path, labels: LabelSet) -> list[Benchmark]:
    """The stars of a CSV table; names of files are relative to it.

    Columns: file, star, instrument, resolving_power, teff, logg, fe_h, and optionally role (reference or
    validation), in_range (1 or 0), the name of any other label of the model and, for standard errors, e_NAME;
    [X/Fe] may also be given as [X/H], mg_h for mg_fe. An empty resolving power means that of the file or
    instrument, an empty parameter is unknown. Raises ``ConfigError`` with the row.
    """
    path = Path(path)
    rows, columns = _read(path, _REQUIRED)
    used = _label_columns(labels, columns)
    return [_benchmark(row, path, used) for row in rows]


def with_literature(stars: Sequence[Benchmark], path: str | Path, labels: LabelSet) -> list[Benchmark]:
    """The stars with what a second CSV table knows of them and theirs does not, such as abundances.

    Its stars are named in a column star, name, hd, hip or gaia (blanks and case do not matter); labels are
    those of :func:`read_benchmarks`, and [X/H] refer to its own [Fe/H], if it has that. Raises
    ``ConfigError``, also where it knows none of the stars or no label of the model.
    """
    path = Path(path)
    rows, columns = _read(path, ())
    used = _label_columns(labels, columns)
    names = [name for name in _NAMES if name in columns]
    if not names:
        raise ConfigError(
            f"{path}: expected a column {', '.join(_NAMES[:-1])} or {_NAMES[-1]} with the names of stars, "
            f"found {', '.join(columns)}"
        )
    if not any(not column.startswith("e_") for column in used):
        raise ConfigError(
            f"{path}: it has no column of a label of the model, such as mg_fe or mg_h; found "
            f"{', '.join(columns)}"
        )
    known: dict[str, dict[str, str]] = {}
    for entry in rows:
        for name in {_plain_name(entry.get(column) or "") for column in names} - {""}:
            if known.setdefault(name, entry) is not entry:
                raise ConfigError(f"{path}: {name} is in two rows")
    out = []
    for star in stars:
        if (row := known.get(_plain_name(star.star))) is not None:
            number = _number_of(row, path, star.star)
            values, errors = _literature({name: number(name) for name in used}, star.literature.get("fe_h"))
            more = {name: value for name, value in values.items() if name not in star.literature}
            errors = {name: error for name, error in errors.items() if name in more} | dict(star.errors)
            star = attrs.evolve(star, literature={**star.literature, **more}, errors=errors)
        out.append(star)
    if out == list(stars):
        raise ConfigError(
            f"{path} says nothing new of {', '.join(dict.fromkeys(star.star for star in stars[:3]))}"
            f"{' and others' if len(stars) > 3 else ''}: its stars are {', '.join(list(known)[:3])}, ..."
        )
    return out


def _plain_name(name: str) -> str:
    return "".join(name.split()).casefold()


def _read(path: Path, required: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """The rows and the columns of a CSV table, which has those ``required``."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(line for line in file if line.strip() and not line.startswith("#"))
            rows, columns = list(table), list(table.fieldnames or ())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror.lower() if error.strerror else error}") from None
    except (UnicodeDecodeError, csv.Error):
        expected = f": expected the columns {', '.join(required)}" if required else ""
        raise ConfigError(f"{path} is not a CSV table{expected}") from None
    missing = [name for name in required if name not in columns]
    if missing:
        raise ConfigError(
            f"{path}: the columns {', '.join(missing)} are missing; expected {', '.join(required)}, found "
            f"{', '.join(columns) or 'nothing'}"
        )
    if not rows:
        raise ConfigError(f"{path}: it lists no stars")
    return rows, columns


def _label_columns(labels: LabelSet, columns: Sequence[str]) -> list[str]:
    """Those of labels, of [X/H] where [X/Fe] is one, and of their standard errors."""
    names = with_derived_labels(labels).names
    over_hydrogen = [f"{name[:-3]}_h" for name in names if name.endswith("_fe")]
    wanted = [*names, *over_hydrogen]
    return [name for name in (*wanted, *(f"e_{name}" for name in wanted)) if name in columns]


def _literature(
    values: Mapping[str, float | None], fe_h: float | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Values and standard errors by label. [X/Fe] = [X/H] - [Fe/H], with the table's own [Fe/H], else with
    ``fe_h``; the error is that of [X/H], which shares most of its sources with that of [Fe/H]."""
    stated = {name: value for name, value in values.items() if value is not None}
    fe_h = stated.get("fe_h", fe_h)
    literature = {name: value for name, value in stated.items() if not name.startswith("e_")}
    errors = {name[2:]: value for name, value in stated.items() if name.startswith("e_")}
    for name in [name for name in {**literature, **errors} if name.endswith("_h") and name != "fe_h"]:
        value, error, ratio = literature.pop(name, None), errors.pop(name, None), f"{name[:-2]}_fe"
        if value is None or fe_h is None or ratio in literature:
            continue
        literature[ratio] = round(value - fe_h, 6)
        if error is not None:
            errors[ratio] = error
    return literature, errors


def _benchmark(row: Mapping[str, str | None], path: Path, label_columns: Sequence[str]) -> Benchmark:
    text = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    star = text["star"] or text["file"]
    if not text["file"] or not text["instrument"]:
        raise ConfigError(f"{path}: {star or 'a star'} needs a file and an instrument")
    number = _number_of(text, path, star)
    role, in_range = text.get("role") or "validation", text.get("in_range") or "1"
    role = _FORMER.get(role, role)
    if role not in _ROLES:
        raise ConfigError(f"{path}: role {role!r} of {star}: expected {' or '.join(_ROLES)}")
    if in_range not in ("0", "1"):
        raise ConfigError(f"{path}: in_range {in_range!r} of {star}: expected 1 or 0")
    literature, errors = _literature({name: number(name) for name in label_columns}, None)
    if any(error < 0 for error in errors.values()):
        raise ConfigError(f"{path}: a standard error of {star} is negative")
    power = number("resolving_power")
    return Benchmark(
        star, path.parent / text["file"], text["instrument"], power, literature, role, in_range == "1", errors
    )


def _number_of(row: Mapping[str, str | None], path: Path, star: str) -> Callable[[str], float | None]:
    """The number in a column of a row, None where it is empty."""

    def number(name: str) -> float | None:
        text = (row.get(name) or "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigError(f"{path}: {name} {text!r} of {star} is not a number")
        return value

    return number


def reference_stars_of(estimator: Estimator) -> set[str]:
    """Names, in lower case, of the stars whose residuals the training has seen."""
    training = estimator.header.get("training", {})
    return {str(star.get("name", "")).casefold() for star in training.get("reference_stars", ())}


def check_instruments(stars: Iterable[Benchmark], plugins: Plugins) -> None:
    """Raises ``PluginError`` for an unknown instrument: now, and not after an hour of work on others."""
    for name in dict.fromkeys(star.instrument for star in stars):
        plugins.instrument(name)


def of_one_spectrum(job: Run, source: Source) -> Result:
    """The result of the run for a star. Raises ``ConfigError`` where the source does not hold one
    spectrum."""
    result = Result.join(list(job.results([source])))
    if len(result) != 1:
        raise ConfigError(
            f"{source.name} holds {len(result)} spectra: expected one spectrum per benchmark star"
        )
    return result


def star_metrics(
    estimator: Estimator,
    stars: Sequence[Benchmark],
    *,
    snr: float = PUBLISHED_SNR,
    seeds: int = 3,
    n_samples: int = 4096,
    seed: int = 0,
    corrections: Sequence[Correction] = (),
    plugins: Plugins | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A row (of JSON values) for each star: inferred as ``specinn run`` does, with noise added.

    ``snr`` is per Angstrom. Values are means over ``seeds`` draws of the noise, from ``seed`` on; ``flags``
    has the bits of all. With ``corrections`` they are corrected, and ``NAME_raw`` has them before. A star
    that the model's header lists among its reference stars is one, whatever the table says. Missing values
    are None, and ``message`` says why.

    Raises ``ConfigError`` for a file with several spectra, ``PluginError`` for an unknown instrument.
    """
    plugins = Plugins() if plugins is None else plugins
    if seeds < 1:
        raise ConfigError(f"seeds {seeds}: at least 1 is needed, 3 are usual")
    check_instruments(stars, plugins)
    seen = reference_stars_of(estimator)
    rows = []
    for i, star in enumerate(stars):
        draws = []
        for number in range(seed, seed + seeds):
            job = prepare(
                plugins, instrument=star.instrument, model=estimator, samples=n_samples, seed=number,
                resolving_power=star.resolving_power, degrade_snr=snr, corrections=corrections,
            )  # fmt: skip
            (source,) = file_sources([star.file], plugins)
            result = of_one_spectrum(job, source)
            draws.append(summarise(result, instrument=star.instrument, model=job.model))
            progress(i * seeds + len(draws), len(stars) * seeds)
        if star.star.casefold() in seen:
            star = attrs.evolve(star, role="reference")
        rows.append(_star_row(star, draws, estimator))
    return rows


def _star_row(
    star: Benchmark, draws: Sequence[Mapping[str, np.ndarray]], estimator: Estimator
) -> dict[str, Any]:
    """One row of :func:`star_metrics`."""

    def mean(name: str) -> float | None:
        values = np.array([float(np.ma.filled(d[name], np.nan)[0]) for d in draws if name in d])
        values = values[np.isfinite(values)]
        return float(values.mean()) if values.size else None

    flags = int(np.bitwise_or.reduce([np.uint32(draw["flags"][0]) for draw in draws]))
    row: dict[str, Any] = {
        "star": star.star,
        "file": star.file.name,
        "instrument": star.instrument,
        "role": star.role,
        "in_range": star.in_range,
        **{f"snr_{arm.name}": mean(f"snr_{arm.name}") for arm in estimator.instrument.arms},
        "rv": mean("rv"),
    }
    # a mean over those draws that happen to determine a label would be biased
    lost = {name for draw in draws for name in str(draw[UNDETERMINED][0]).split()}
    for name in with_derived_labels(estimator.labels).names:
        row |= {name: None if name in lost else mean(name), f"{name}_std": mean(f"{name}_std")}
        if any(f"{name}_raw" in draw for draw in draws):
            row[f"{name}_raw"] = None if name in lost else mean(f"{name}_raw")
        if name in star.literature:
            literature = star.literature[name]
            row[f"{name}_literature"] = literature
            if name in star.errors:
                row[f"{name}_literature_error"] = star.errors[name]
            for column in (name, f"{name}_raw"):
                if column in row:
                    row[f"{column}_difference"] = None if row[column] is None else row[column] - literature
    row |= {
        "rejected_fraction": mean("rejected_fraction"),
        "flags": flags,
        "flag_bad": bool(is_bad(np.array([flags]))[0]),
        "message": next((str(d["message"][0]) for d in draws if str(d["message"][0])), ""),
    }
    return row


def star_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Median and maximum absolute difference by label, over validation stars in range.

    ``n`` is their number and ``worst`` the star of the maximum; ``failed`` are those that count but have no
    value. Reference stars, which the training has seen, never count. For corrected values ``raw`` has the
    same before the correction.
    """
    counted = [row for row in rows if row["role"] == "validation" and row["in_range"]]
    names = dict.fromkeys(
        key.removesuffix("_difference") for row in rows for key in row if key.endswith("_difference")
    )

    def sizes(key: str) -> list[tuple[str, float | None]]:
        values = [(row["star"], row[key]) for row in counted if key in row]
        return [(star, None if value is None else abs(value)) for star, value in values]

    overall = {name: over_stars(sizes(f"{name}_difference")) for name in names}
    return {
        name: {**summary, "raw": overall[f"{name}_raw"]} if f"{name}_raw" in overall else summary
        for name, summary in overall.items()
        if not name.endswith("_raw")
    }


def over_stars(sizes: Sequence[tuple[str, float | None]]) -> dict[str, Any]:
    """Number, median and maximum of the values, the star of the maximum, and the stars without a value."""
    valid = [(star, size) for star, size in sizes if size is not None]
    worst, largest = max(valid, key=lambda pair: pair[1], default=(None, None))
    return {
        "n": len(valid),
        "median": float(np.median([size for _, size in valid])) if valid else None,
        "maximum": largest,
        "worst": worst,
        "failed": [star for star, size in sizes if size is None],
    }


def star_table(rows: Sequence[Mapping[str, Any]], labels: LabelSet, meta: Mapping[str, Any]) -> Table:
    """Rows of :func:`star_metrics` as a table with units and descriptions."""
    notes = {
        "star": ("", "Name of the star"),
        "file": ("", "File of its spectrum"),
        "instrument": ("", "Instrument"),
        "role": ("", "reference: seen in training, never counted; validation: not seen"),
        "in_range": ("", "Whether the star counts in the summary, if it is for validation"),
        "rv": ("km s-1", "Radial velocity by which the spectrum was shifted to rest"),
        "rejected_fraction": ("", "Fraction of samples outside the bounds of the training set"),
        "flags": ("", "Bits of all draws of the noise; see specinn flags"),
        "flag_bad": ("", "At least one draw of the noise has no trustworthy values"),
        "message": ("", "What went wrong, in words"),
    }
    order = ["star", "file", "instrument", "role", "in_range"]
    for key in dict.fromkeys(key for row in rows for key in row if key.startswith("snr_")):
        notes[key] = ("", f"Median S/N per Angstrom in the {key[4:]} arm, after adding noise")
        order.append(key)
    order.append("rv")
    for label in with_derived_labels(labels):
        unit, what = "dex" if label.unit.startswith("dex") else label.unit, label.description or label.name
        for end, text in {
            "": "maximum a posteriori, mean over draws of the noise",
            "_raw": "the same before correction",
            "_std": "standard deviation of the posterior, mean over draws of the noise",
            "_literature": "literature value",
            "_literature_error": "standard error of the literature value",
            "_difference": "inferred minus literature",
            "_raw_difference": "inferred before correction minus literature",
        }.items():
            if any(f"{label.name}{end}" in row for row in rows):
                notes[f"{label.name}{end}"] = (unit, f"{what}: {text}")
                order.append(f"{label.name}{end}")
    order += ["rejected_fraction", "flags", "flag_bad", "message"]
    return tabulate(rows, {key: notes[key] for key in order}, meta)
