"""Small tables of results, for the prompt and for notebooks: values and flags."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.flags import is_bad, is_warn, names
from specinn.labels import printed_unit
from specinn.posterior.summary import QUANTILES

if TYPE_CHECKING:
    from astropy.table import Table

    from specinn.labels import Label
    from specinn.posterior.samples import Posterior

__all__ = [
    "FEW",
    "ROWS",
    "Small",
    "catalogue_table",
    "decimals_for",
    "in_short",
    "parameters_first",
    "posterior_tables",
    "value_with_errors",
    "with_limit",
    "with_unit",
]

FEW = 3  # stars of a posterior up to which each has a table
ROWS = 10  # of a catalogue that are shown
_MAIN = ("teff", "logg", "fe_h")
_LEVELS = list(QUANTILES)
_CELL = "padding: 0.15em 0.7em; text-align: {};"


@attrs.frozen
class Small:
    """A small table: ``title`` above, ``notes`` below; the first ``words`` columns are words."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    words: int = 1

    def text(self) -> str:
        """For the prompt: columns of even width."""
        grid = [self.head, *self.rows] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines = [self.title]
        for row in grid:
            cells = [
                cell.ljust(width) if i < self.words else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *self.notes])

    def html(self) -> str:
        """For notebooks, in the colours of the page."""
        lines = [f"<p><b>{html.escape(self.title)}</b></p>"]
        if self.rows:
            lines += ["<table>", self._line(self.head, "th"), *(self._line(r, "td") for r in self.rows)]
            lines.append("</table>")
        lines += [f"<p>{html.escape(note)}</p>" for note in self.notes]
        return "<div>" + "\n".join(lines) + "</div>"

    def _line(self, row: Sequence[str], tag: str) -> str:
        cells = []
        for i, cell in enumerate(row):
            style = _CELL.format("left" if i < self.words else "right")
            cells.append(f'<{tag} style="{style}">{html.escape(cell)}</{tag}>')
        return f"<tr>{''.join(cells)}</tr>"


def posterior_tables(posterior: Posterior) -> list[Small]:
    """One table per star with one row per label; for more than :data:`FEW` stars only the numbers of
    samples."""
    n, n_samples = len(posterior), posterior.samples.shape[1]
    labels = ", ".join(posterior.labels.names)
    if n <= FEW and n:
        return [_star(posterior[row], posterior.name(row)) for row in range(n)]
    accepted = posterior.inside.sum(axis=1)
    notes = [f"labels: {labels}"]
    if n:
        none = int((accepted == 0).sum())
        some = f"accepted of {n_samples} samples: median {np.median(accepted):.0f}, lowest {accepted.min()}"
        notes += [some] + ([f"{none} of them have no accepted sample"] if none else [])
        notes.append("posterior[0], or posterior[NAME], shows one of them")
    return [Small(f"Posterior of {n} spectra", notes=notes)]


def _star(one: Posterior, name: str) -> Small:
    """The labels of the only star of ``one``."""
    accepted, n_samples = int(one.inside.sum()), one.samples.shape[1]
    title = f"Posterior of {name}: {accepted} of {n_samples} samples accepted"
    if not accepted:
        return Small(title, notes=["no sample lies within the bounds of the training set: no values"])
    summary = one.summary()
    undetected, undetermined = summary.undetected[0], summary.undetermined[0]
    rows = []
    for label in parameters_first(summary.labels):
        i = summary.labels.index(label.name)
        if undetermined[i]:
            continue
        low, median, high = (summary.quantiles[_LEVELS.index(at), 0, i] for at in ("p16", "median", "p84"))
        style = f".{decimals_for(high - median, median - low)}f"
        if undetected[i]:
            limit = summary.quantiles[_LEVELS.index("upper"), 0, i]
            cells = ["-", "-", f"< {limit:.2f} (95 %)"]
        else:
            cells = [f"{summary.map[0, i]:{style}}", f"{median:{style}}", f"{low:{style}} to {high:{style}}"]
        rows.append([label.name, label.printed_unit, *cells])
    lost = [name for name, wide in zip(summary.labels.names, undetermined, strict=True) if wide]
    notes = [f"not determined: {in_short(lost)}"] if lost else []
    return Small(title, ["label", "unit", "MAP", "median", "16 to 84 %"], rows, notes, words=2)


def catalogue_table(table: Table, title: str) -> Small:
    """The first :data:`ROWS` rows of a catalogue: velocity, main labels and flags; and counts of all."""
    flags = np.asarray(table["flags"], np.uint32)
    bad, warn = is_bad(flags), is_warn(flags)
    counts = f"{(~warn).sum()} without warnings, {(warn & ~bad).sum()} to look at, {bad.sum()} without values"
    main = [name for name in _MAIN if name in table.colnames]
    units = [str(table[name].unit or "") for name in main]
    head = ["", "id", "flags", "rv (km/s)", *map(with_unit, main, units)]
    rows = []
    for number, row in enumerate(table[:ROWS]):
        cells = [with_limit(row, name) for name in main]
        velocity = "-" if _missing(row["rv"]) else f"{row['rv']:.1f}"
        rows.append([str(number), str(row["id"]), ", ".join(names(row["flags"])) or "none", velocity, *cells])
    notes = [f"and {len(table) - ROWS} more"] if len(table) > ROWS else []
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        notes.append(f"no values for {table['id'][first]}: {table['message'][first]}")
    notes.append("all columns: .catalogue; samples: .posterior; the spectra: .spectrum(NUMBER or NAME)")
    return Small(f"{title}: {len(table)} spectra, {counts}", head, rows, notes, words=3)


def parameters_first(labels: Iterable[Label]) -> list[Label]:
    """The labels, those of single elements after the others."""
    return sorted(labels, key=lambda label: _is_element(label.name))


def in_short(names: Sequence[str]) -> str:
    """The names of labels in a short line: ``N, Eu, vmic`` for ``n_fe``, ``eu_fe`` and ``vmic``."""
    short = [name.removeprefix("a_").removesuffix("_fe").capitalize() if _is_element(name) else name
             for name in names]  # fmt: skip
    return ", ".join(dict.fromkeys(short))  # A(Li) and [Li/Fe] are of one element


def _is_element(name: str) -> bool:
    return name == "a_li" or name.endswith("_fe")


def with_unit(name: str, unit: str) -> str:
    return f"{name} ({printed_unit(unit.replace(' / ', '/'))})"


def with_limit(row: Any, name: str) -> str:
    """The value of a row of a catalogue with its errors, or ``< 0.95`` where only an upper limit is known."""
    limit = row[f"{name}_upper"] if f"{name}_upper" in row.colnames else np.ma.masked
    if not _missing(limit):
        return f"< {float(limit):.2f}"
    return value_with_errors(*(row[f"{name}{end}"] for end in ("", "_p16", "_p84")))


def value_with_errors(value: Any, low: Any, high: Any) -> str:
    """``5772 -31 +29``: the errors with two digits, one where they begin with 3 to 9, the value to match.

    ``low`` and ``high`` are the ends of the interval. A missing value is a dash; a MAP outside its own
    interval gives an error with the opposite sign, which is shown as it is.
    """
    if any(map(_missing, (value, low, high))):
        return "-"
    below, above = float(low) - float(value), float(high) - float(value)
    n = decimals_for(below, above)
    return f"{float(value):z.{n}f} {below:+.{n}f} {above:+.{n}f}"


def decimals_for(*errors: float) -> int:
    """The number of decimals that suits values with such errors."""
    size = min((abs(e) for e in errors if e != 0), default=0.0)
    if size <= 0:
        return 2
    exponent = math.floor(math.log10(size))
    return max(0, min(4, -exponent + (size / 10.0**exponent < 3.0)))


def _missing(value: Any) -> bool:
    return value is np.ma.masked or not np.isfinite(value)
