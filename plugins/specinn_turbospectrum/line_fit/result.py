"""The table of a fit, as ``specinn synthesis fit-lines`` writes it and the synthesizer reads it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
from astropy.table import Table

import specinn
from specinn.files import replacing
from specinn_turbospectrum.corrections import ADDED
from specinn_turbospectrum.line_fit.fit import Residuals, Result
from specinn_turbospectrum.line_fit.recipe import Recipe

_GONE = -1.0  # dex: a line that is so much weaker than the list says stands in no star
_SAME = 0.01  # dex


def verdicts(result: Result) -> np.ndarray:
    """``(n,)``: ``added`` for empirical lines; ``not constrained`` where no star says more than the prior;
    ``shown by no star`` for lines that came out 1 dex weaker or more; ``kept`` where log gf and damping
    stayed, else ``corrected``."""
    constrained = np.any(list(result.shown.values()), axis=0)
    moved = (np.abs(result.d_log_gf) >= _SAME) | (np.abs(result.d_damping) >= _SAME)
    out = np.where(moved, "corrected", "kept").astype("U16")
    out[constrained & (result.d_log_gf <= _GONE)] = "shown by no star"
    out[~constrained] = "not constrained"
    out[result.lines.empirical] = ADDED
    return out


def as_table(result: Result, recipe: Recipe) -> Table:
    """One row for each line that a star may show. What moved without being constrained (by blends) is among
    it."""
    lines = result.lines
    verdict = verdicts(result)
    rows = np.flatnonzero(
        (verdict == ADDED)
        | (np.abs(result.d_log_gf) >= 0.0005)
        | (result.d_damping != 0.0)
        | (result.sigma < 0.9 * result.prior)
    )
    rows = rows[np.argsort(lines.wavelength[rows], kind="stable")]
    added = lines.empirical[rows]
    stars = [
        " ".join(name.replace(" ", "_") for name, shows in result.shown.items() if shows[row])
        for row in rows.tolist()
    ]
    table = Table()
    table["species"] = lines.species[rows]
    table["code"] = lines.code[rows]
    table["ion"] = lines.ion[rows].astype(np.int16)
    table["wavelength"] = lines.wavelength[rows]
    table["chi"] = lines.chi[rows]
    table["log_gf"] = np.where(added, np.nan, lines.log_gf[rows])
    table["log_gf_corrected"] = np.round(lines.log_gf[rows] + result.d_log_gf[rows], 3)
    table["sigma"] = np.round(result.sigma[rows], 3)
    table["damping"] = np.round(result.d_damping[rows], 3)
    table["stars"] = stars
    table["verdict"] = verdict[rows]
    for name, unit, description in (
        ("species", "", "element and ionization stage (1 neutral), or molecule"),
        ("code", "", "as Turbospectrum writes it, with isotopes"),
        ("ion", "", "ionization stage, 1 neutral"),
        ("wavelength", "Angstrom", "in air"),
        ("chi", "eV", "excitation of the lower level"),
        ("log_gf", "", "of the line list; not a number for lines that are in no list"),
        ("log_gf_corrected", "", "fitted to the reference stars"),
        ("sigma", "", "standard deviation of log_gf_corrected in dex, with the prior"),
        ("damping", "", "added to the logarithm of the damping by collisions, dex"),
        ("stars", "", "reference stars that constrain the line better than the prior"),
        ("verdict", "", "corrected, kept, not constrained, shown by no star, or added (an empirical line)"),
    ):
        table[name].description = description
        if unit:
            table[name].unit = unit
    table.meta.update(
        specinn=specinn.__version__,
        line_lists=dict(result.provenance["line_lists"]),
        physics={name: value for name, value in result.provenance.items() if name != "line_lists"},
        stars={
            star.name: {
                "file": Path(star.path).name,
                "resolving_power": star.resolving_power,
                "labels": {name: round(value, 4) for name, value in result.labels[star.name].items()},
                "fitted": list(star.fit),
                "role": role,
                "broadening": attrs.asdict(result.broadening[star.name]),
                "before": _residuals(result.before[star.name]),
                "after": _residuals(result.after[star.name]),
                **(
                    {"left_out": _residuals(result.left_out[star.name])}
                    if star.name in result.left_out
                    else {}
                ),
            }
            for role, stars_of in (("reference", recipe.stars), ("validation", recipe.validation))
            for star in stars_of
        },
        mean_residual=[round(value, 6) for value in result.history],
        features=result.features,
    )
    return table


def write(table: Table, path: Path) -> None:
    """ECSV, complete or not at all; compressed if the name ends in ``.gz``."""
    import gzip

    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    raw = text.getvalue().encode("utf-8")
    with replacing(path) as part:
        part.write_bytes(gzip.compress(raw, 9, mtime=0) if path.suffix == ".gz" else raw)


def _residuals(by_window: Mapping[str, Residuals]) -> dict[str, dict[str, float]]:
    return {name: attrs.asdict(one) for name, one in by_window.items()}
