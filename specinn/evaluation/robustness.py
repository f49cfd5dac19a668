"""How much the inferred labels of a star depend on the form of its spectrum: normalised or not, shifted,
noisy."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.catalogue import summarise
from specinn.errors import ConfigError, SpecinnError
from specinn.evaluation.stars import Benchmark, check_instruments, over_stars, reference_stars_of
from specinn.evaluation.tables import tabulate
from specinn.evaluation.variants import BASE, BASE_SNR, LEVELS, SHAPES, VELOCITIES, Variant, VariedStar
from specinn.flags import is_bad
from specinn.inference.batching import Piece
from specinn.inference.run import Run, file_sources, prepare
from specinn.labels import LabelSet, with_derived_labels
from specinn.plugins import Plugins
from specinn.wavelengths import C_KMS

if TYPE_CHECKING:
    from astropy.table import Table

    from specinn.plugins.interfaces import Estimator

__all__ = [
    "RV",
    "SCOPES",
    "Comparison",
    "change",
    "comparisons",
    "robustness",
    "robustness_summary",
    "robustness_table",
    "summary_table",
    "variant_of",
]

log = logging.getLogger(__name__)

RV = "rv"  # stands among the labels of the summary, in km/s
SCOPES = {"validation": "validation stars in range", "in range": "all stars in range"}
_SUN = 5772.0  # K, of the black body where the literature gives no Teff


def robustness(
    estimator: Estimator,
    stars: Sequence[Benchmark],
    *,
    n_samples: int = 4096,
    seed: int = 0,
    plugins: Plugins | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A row (of JSON values) for each star and each combination of shape, velocity and S/N.

    Velocities are always measured; expected is what is measured from the spectrum as delivered, without added
    noise, plus (relativistically) that of the variant. ``NAME_change`` is MAP minus that of the base variant
    (as delivered, not moved, at S/N 100) in units of the wider one of the two half widths of the 68 %
    interval. Missing values are None, and ``message`` says why: a bad spectrum never ends the run.

    Raises ``ConfigError`` for a file with several spectra, ``PluginError`` for an unknown instrument.
    """
    plugins = Plugins() if plugins is None else plugins
    check_instruments(stars, plugins)
    seen = reference_stars_of(estimator)
    rows: list[dict[str, Any]] = []
    total = len(stars) * len(VELOCITIES) * len(LEVELS)
    for star in stars:
        if star.star.casefold() in seen:
            star = attrs.evolve(star, role="reference")
        job = prepare(
            plugins, instrument=star.instrument, model=estimator, samples=n_samples, seed=seed, rv="auto",
            resolving_power=star.resolving_power,
        )  # fmt: skip
        of_star = []
        for variants, columns, expected in _inferred(job, star, plugins, seed):
            of_star += [
                _row(star, variant, {key: values[k] for key, values in columns.items()}, expected, estimator)
                for k, variant in enumerate(variants)
            ]
            progress((len(rows) + len(of_star)) // len(SHAPES), total)
        _compare(of_star, with_derived_labels(estimator.labels).names)
        rows += of_star
    return rows


def _inferred(
    job: Run, star: Benchmark, plugins: Plugins, seed: int
) -> Iterator[tuple[list[Variant], dict[str, np.ndarray], float]]:
    """For every velocity and S/N: the variants, the columns of the catalogue for them, expected velocity."""
    pieces = list(job.pieces(file_sources([star.file], plugins)))
    n_spectra = sum(1 if piece.batch is None else len(piece.batch) for piece in pieces)
    if n_spectra != 1:
        raise ConfigError(f"{star.file} holds {n_spectra} spectra: expected one spectrum per benchmark star")
    varied, message, rv = _prepared(job, pieces[0], star, seed)
    meta = pieces[0].meta if pieces[0].batch is None else pieces[0].batch.meta
    assert meta is not None
    none = meta[[0] * len(SHAPES)]
    none["rv"] = np.full(len(SHAPES), np.nan)  # even if the file states one: nothing was measured
    for velocity in VELOCITIES:
        for snr in LEVELS:
            if varied is not None:
                result = job.pipeline(varied.variants(velocity, snr))
            else:
                result = job.pipeline.failed(none, message)
            columns = summarise(result, instrument=job.instrument, model=job.model)
            expected = (rv + velocity) / (1.0 + rv * velocity / C_KMS**2)
            yield [Variant(shape, velocity, snr) for shape in SHAPES], columns, expected


def _prepared(job: Run, piece: Piece, star: Benchmark, seed: int) -> tuple[VariedStar | None, str, float]:
    """The star, or why there is none; and the velocity of its spectrum as delivered, NaN if not measured."""
    if piece.batch is None:
        return None, piece.message, np.nan
    measured = job.pipeline(piece.batch).meta
    piece.batch.meta["flags"] = np.zeros(1, np.uint32)  # on which steps rely
    arms = [arm.name for arm in job.pipeline.estimator.instrument.arms]
    native = {arm: float(measured[f"snr_{arm}"][0]) for arm in arms if f"snr_{arm}" in measured.colnames}
    try:
        teff = star.literature.get("teff", _SUN)
        # on the name, so that the noise of a star does not depend on the other stars of the table
        draws = (seed, zlib.crc32(star.file.name.encode()))
        varied = VariedStar.of(piece.batch, job.pipeline, native, teff, draws)
    except SpecinnError as error:
        return None, str(error), np.nan
    except Exception as error:  # as in the pipeline: one star must not stop the others
        log.error("%s: unexpected error", star.file, exc_info=True)
        return None, f"could not be varied: {type(error).__name__}: {error}", np.nan
    return varied, "", _velocity({name: measured[name][0] for name in measured.colnames})


def _velocity(columns: Mapping[str, Any]) -> float:
    """The velocity of a spectrum, NaN where nothing was measured."""
    rv = float(columns["rv"])
    return np.nan if np.isinf(columns.get("rv_error", 0.0)) else rv


def _row(
    star: Benchmark, variant: Variant, columns: Mapping[str, Any], expected: float, estimator: Estimator
) -> dict[str, Any]:
    def number(value: Any) -> float | None:
        value = float(np.ma.filled(value, np.nan))
        return value if np.isfinite(value) else None

    rv, flags = _velocity(columns), int(columns["flags"])
    row: dict[str, Any] = {
        "star": star.star,
        "file": star.file.name,
        "instrument": star.instrument,
        "role": star.role,
        "in_range": star.in_range,
        **attrs.asdict(variant),
        **{f"snr_{a.name}": number(columns.get(f"snr_{a.name}", np.nan)) for a in estimator.instrument.arms},
        "rv": number(rv),
        "rv_difference": number(rv - expected),
    }
    for name in with_derived_labels(estimator.labels).names:
        low, high = (float(columns[f"{name}_{end}"]) for end in ("p16", "p84"))
        row |= {name: number(columns[name]), f"{name}_half_width": number(0.5 * (high - low))}
        if name in star.literature:
            literature = star.literature[name]
            row |= {
                f"{name}_literature": literature,
                f"{name}_difference": number(columns[name] - literature),
            }
    return row | {
        "ood_score": number(columns.get("ood_score", np.nan)),
        "rejected_fraction": number(columns["rejected_fraction"]),
        "flags": flags,
        "flag_bad": bool(is_bad(np.array([flags]))[0]),
        "message": str(columns["message"]),
    }


def _compare(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Add ``NAME_change`` to the rows of one star."""
    base = next(row for row in rows if variant_of(row) == BASE)
    for row in rows:
        for name in names:
            row[f"{name}_change"] = change(row, base, name)


def variant_of(row: Mapping[str, Any]) -> Variant:
    """The variant of a row."""
    return Variant(row["shape"], row["velocity"], row["snr"])


def change(row: Mapping[str, Any], against: Mapping[str, Any], name: str) -> float | None:
    """Difference of the MAPs of two rows in units of the wider of their half widths."""
    value, reference = row[name], against[name]
    widths = [row[f"{name}_half_width"], against[f"{name}_half_width"]]
    if value is None or reference is None or None in widths or not max(widths) > 0:
        return None
    return float((value - reference) / max(widths))


# factor, variant, what it is compared with (in words), S/N, and the pairs of variants
Comparison = tuple[str, str, str, float, list[tuple[Variant, Variant]]]


def comparisons() -> list[Comparison]:
    """One factor at a time, the shape at every S/N; and all shapes and velocities together."""
    shapes = ((SHAPES[1], SHAPES[0]), (SHAPES[2], SHAPES[0]), (SHAPES[2], SHAPES[1]))
    out: list[Comparison] = [
        ("shape", one, other, snr, [(Variant(one, snr=snr), Variant(other, snr=snr))])
        for snr in LEVELS
        for one, other in shapes
    ]
    for v in VELOCITIES:
        if v != BASE.velocity:
            out.append(("velocity", f"{v:+g} km/s", "0 km/s", BASE_SNR, [(Variant(velocity=v), BASE)]))
    for snr in LEVELS:
        if snr != BASE_SNR:
            out.append(("S/N", f"S/N {snr:g}", f"S/N {BASE_SNR:g}", snr, [(Variant(snr=snr), BASE)]))
    for snr in LEVELS:
        every = [(Variant(shape, v, snr), Variant(snr=snr)) for shape in SHAPES for v in VELOCITIES]
        out.append(("all", "any shape and velocity", f"{BASE.shape}, 0 km/s", snr, every))
    return out


def robustness_summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Median and maximum over stars by factor, label and scope (``SCOPES``).

    For the label ``rv`` they are those of |measured - expected| in km/s, for others those of the change
    against the other variant in half widths; ``literature_median`` and ``literature_maximum`` of |MAP -
    literature|. Where a comparison has several pairs it is each star's largest. ``worst`` is the star of the
    maximum, ``failed`` are those without a value for one of the variants.
    """
    stars: dict[tuple[str, str], dict[Variant, Mapping[str, Any]]] = {}
    for row in rows:
        stars.setdefault((row["star"], row["file"]), {})[variant_of(row)] = row
    names = dict.fromkeys(
        key.removesuffix("_change") for row in rows for key in row if key.endswith("_change")
    )
    out = []
    for scope in SCOPES:
        counted = {
            star: of
            for star, of in stars.items()
            if of[BASE]["in_range"] and (scope != "validation" or of[BASE]["role"] == "validation")
        }
        for factor, variant, against, snr, pairs in comparisons():
            for name in (RV, *names):
                sizes: list[tuple[str, float | None]] = []
                off: list[tuple[str, float | None]] = []
                for (star, _), of in counted.items():
                    if name == RV:
                        sizes.append((star, _largest([of[one]["rv_difference"] for one, _ in pairs])))
                        continue
                    sizes.append((star, _largest([change(of[a], of[b], name) for a, b in pairs])))
                    if f"{name}_difference" in of[BASE]:
                        off.append((star, _largest([of[one][f"{name}_difference"] for one, _ in pairs])))
                changes, residuals = over_stars(sizes), over_stars(off)
                out.append({
                    "factor": factor, "variant": variant, "against": against, "snr": snr, "scope": scope,
                    "label": name, **changes, "worst": changes["worst"] or "",
                    "literature_median": residuals["median"], "literature_maximum": residuals["maximum"],
                })  # fmt: skip
    return out


def _largest(values: Sequence[float | None]) -> float | None:
    sizes = [abs(value) for value in values if value is not None]
    return max(sizes) if len(sizes) == len(values) else None


def robustness_table(rows: Sequence[Mapping[str, Any]], labels: LabelSet, meta: Mapping[str, Any]) -> Table:
    """Rows of :func:`robustness` as a table with units and descriptions."""
    columns = {
        "star": ("", "Name of the star"),
        "file": ("", "File of its spectrum"),
        "instrument": ("", "Instrument"),
        "role": ("", "reference: seen in training; validation: not seen"),
        "in_range": ("", "Whether the star counts in the summary"),
        "shape": ("", "The spectrum as delivered, normalised, or times a black body and a response"),
        "velocity": ("km s-1", "Shift of the wavelengths"),
        "snr": ("", "S/N per Angstrom down to which noise was added"),
    }
    for key in dict.fromkeys(key for row in rows for key in row if key.startswith("snr_")):
        columns[key] = ("", f"Median S/N per Angstrom in the {key[4:]} arm")
    columns |= {
        "rv": ("km s-1", "Radial velocity, measured"),
        "rv_difference": ("km s-1", "Radial velocity minus that as delivered and the shift"),
    }
    for label in with_derived_labels(labels):
        unit, what = "dex" if label.unit.startswith("dex") else label.unit, label.description or label.name
        for end, (units, text) in {
            "": (unit, "maximum a posteriori"),
            "_half_width": (unit, "half the width of the 68 % interval"),
            "_change": ("", "MAP minus that of the base variant, over the wider of their half widths"),
            "_literature": (unit, "literature value"),
            "_difference": (unit, "MAP minus literature"),
        }.items():
            if any(f"{label.name}{end}" in row for row in rows):
                columns[f"{label.name}{end}"] = (units, f"{what}: {text}")
    columns |= {
        "ood_score": ("", "How far out of the distribution of the training the spectrum is; above 1: flag"),
        "rejected_fraction": ("", "Fraction of samples outside the bounds of the training set"),
        "flags": ("", "Bit mask; see specinn flags"),
        "flag_bad": ("", "The row has no trustworthy values"),
        "message": ("", "What went wrong, in words"),
    }
    base = {"base": {"shape": BASE.shape, "velocity": BASE.velocity, "snr": BASE.snr}}
    return tabulate(rows, columns, {**meta, **base})


def summary_table(rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Table:
    """Rows of :func:`robustness_summary` as a table with descriptions."""
    columns = {
        "factor": ("", "What differs: shape, velocity, S/N, or all"),
        "variant": ("", "Its value"),
        "against": ("", "The value that it is compared with"),
        "snr": ("", "S/N per Angstrom"),
        "scope": (
            "",
            "validation: validation stars in range; in range: reference stars of the training, too",
        ),
        "label": ("", "Label, or rv"),
        "n": ("", "Stars"),
        "median": ("", "Median of the change in half widths; of rv that of |found - expected| in km/s"),
        "maximum": ("", "Maximum of the same"),
        "worst": ("", "The star of the maximum"),
        "failed": ("", "Stars without a value"),
        "literature_median": ("", "Median of |MAP - literature|, in the unit of the label"),
        "literature_maximum": ("", "Maximum of the same"),
    }
    return tabulate([{**row, "failed": ", ".join(row["failed"])} for row in rows], columns, meta)
