"""The page of a catalogue: diagrams, histograms, a table of all stars, and the spectra of some of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from specinn.catalogue.schema import UNDETERMINED
from specinn.errors import ConfigError, OutputError, nearest
from specinn.files import check_output, replacing
from specinn.flags import FLAGS, is_bad, is_warn
from specinn.labels import Label
from specinn.posterior import QUANTILES
from specinn.posterior.display import in_short
from specinn.report.catalogue.embed import text
from specinn.report.evaluation.page import name_of, template

__all__ = ["PLOTS", "check", "choose", "data", "labels_of", "render", "write"]

PLOTS = (("Kiel diagram", "teff", "logg", True), ("[Mg/Fe] against [Fe/H]", "fe_h", "mg_fe", False))
_STATISTICS = ("std", "raw", "upper", *QUANTILES)
_SPREAD = ("teff", "logg", "fe_h")  # over which the stars with spectra are spread


def check(path: Path, *, overwrite: bool = False) -> Path:
    """The path, if a page can be written there; raises ``OutputError`` where it cannot."""
    return check_output(path, (".html", ".htm"), overwrite=overwrite)


def labels_of(table: Table) -> list[Label]:
    """The labels of a catalogue: columns that have a median and percentiles beside them."""
    names = [n for n in table.colnames if {f"{n}_median", f"{n}_p16", f"{n}_p84"} <= set(table.colnames)]
    return [Label(n, str(table[n].unit or "").replace(" ", ""), (0, 1), description=n) for n in names]


def choose(table: Table, stars: Sequence[str] = (), most: int = 24) -> list[int]:
    """The rows whose spectra the page shows: those with the ids ``stars``, else at most ``most``.

    Where there are more, half of them are those with the most warnings, and the others lie as far as possible
    from one another in Teff, logg and [Fe/H]. Raises ``ConfigError`` for an id that the catalogue lacks.
    """
    if absent := sorted({"id", "flags"} - set(table.colnames)):
        raise ConfigError(
            f"the catalogue lacks the columns {', '.join(absent)}: was it written by specinn run?"
        )
    ids = [str(name) for name in table["id"]]
    if unknown := sorted(set(stars) - set(ids)):
        close = nearest(unknown[0], ids)
        hint = f"did you mean {close!r}?" if close else f"its first is {ids[0] if ids else '-'}"
        raise ConfigError(f"the catalogue has no star {', '.join(unknown)}: {hint}")
    if stars:
        return [row for row, name in enumerate(ids) if name in stars]
    flags = _flags(table)
    rows = np.flatnonzero(~is_bad(flags))
    if len(rows) <= most:
        return rows.tolist()
    warnings = sum((flags[rows] & int(i.flag) != 0).astype(int) for i in FLAGS if i.severity == "warn")
    gravest = rows[np.argsort(-np.asarray(warnings), kind="stable")][: most // 2]
    chosen: list[int] = gravest[is_warn(flags[gravest])].tolist()
    position = np.array([_numbers(table, name)[rows] for name in _SPREAD if name in table.colnames])
    position = np.nan_to_num(position) if len(position) else np.arange(len(rows))[None]
    position = (position / np.maximum(np.ptp(position, axis=1), 1e-9)[:, None]).T
    distance = np.full(len(rows), np.inf)
    for row in chosen or [int(rows[0])]:
        distance = np.minimum(distance, np.linalg.norm(position - position[rows == row], axis=1))
    while len(chosen) < most:
        furthest = int(distance.argmax())
        chosen.append(int(rows[furthest]))
        distance = np.minimum(distance, np.linalg.norm(position - position[furthest], axis=1))
    return sorted(set(chosen))


def write(
    table: Table,
    path: Path,
    name: str,
    *,
    opened: Mapping[int, Mapping[str, Any]] | None = None,
    pixels: Mapping[str, Any] | None = None,
    why: str = "",
    overwrite: bool = False,
) -> None:
    """Write the page of a catalogue called ``name``, whole or not at all.

    ``opened`` and ``pixels`` are what :mod:`specinn.report.catalogue.embed` makes of stars; if there is
    nothing, the page gives the reason ``why``. Raises ``OutputError``.
    """
    path = check(path, overwrite=overwrite)
    if not len(table):
        raise OutputError(f"{name} has no rows: there is nothing to report")
    page = render(table, name, opened or {}, pixels or {}, why)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(
    table: Table, name: str, opened: Mapping[int, Mapping[str, Any]], pixels: Mapping[str, Any], why: str
) -> str:
    """The page as one self-contained HTML document."""
    from plotly.offline import get_plotlyjs

    flags, names = _flags(table), [label.name for label in labels_of(table)]
    drawn = [(title, {"x": x, "y": y, "flip": flip}) for title, x, y, flip in PLOTS if {x, y} <= set(names)]
    absent = [(t, [n for n in (x, y) if n not in names]) for t, x, y, _ in PLOTS if not {x, y} <= set(names)]
    rows = {row: {**star, "numbers": _statistics(table, row)} for row, star in opened.items()}
    return template("catalogue/page.html").render(
        name=name,
        n=f"{len(table):,}".replace(",", " "),
        values=int((~is_bad(flags)).sum()), warnings=int((is_warn(flags) & ~is_bad(flags)).sum()),
        bad=int(is_bad(flags).sum()),
        models=sorted({str(model) for model in table["model"]} - {""}) if "model" in table.colnames else [],
        plots=drawn,
        absent=[f"There is no {title}: the catalogue has no {' and no '.join(n)}." for title, n in absent],
        why=why,
        spectra=sum("flux" in star for star in opened.values()),
        meta={str(k): str(v) for k, v in table.meta.items() if not str(k).lower().startswith("tcomm")},
        data=_json(data(table, list(opened), pixels) | {"plots": [plot for _, plot in drawn]}),
        stars={row: _json(star) for row, star in rows.items()},
        plotly=_script(get_plotlyjs()),
        script=_script(files("specinn.report.catalogue").joinpath("page.js").read_text("utf-8")),
    )  # fmt: skip


def data(table: Table, opened: Sequence[int], pixels: Mapping[str, Any]) -> dict[str, Any]:
    """The data of all stars on the page: numbers as float32 in base64, repeated texts once."""
    labels = labels_of(table)
    of_labels = {f"{label.name}_{end}" for label in labels for end in _STATISTICS}
    columns: dict[str, str] = {}
    shown = []
    for label in labels:
        unit = label.printed_unit
        columns |= {n: _column(table, n) for n in (label.name, f"{label.name}_p16", f"{label.name}_p84")}
        if _has(table, f"{label.name}_upper"):
            columns[f"{label.name}_upper"] = _column(table, f"{label.name}_upper")
        html = name_of(label) if "_" in label.name or label.name in ("teff", "logg", "vmic", "vbroad") else ""
        shown.append({"name": label.name, "html": html or escape(label.name), "unit": unit, "label": True,
                      "short": in_short([label.name]), "decimals": 0 if unit == "K" else 2,
                      "about": table[label.name].description or ""})  # fmt: skip
    for name in table.colnames:
        used = {*(label.name for label in labels), *of_labels, "flags", "row"}
        if name in used or not _has(table, name):
            continue
        columns[name] = _column(table, name)
        unit = str(table[name].unit or "").replace("km / s", "km/s")
        html = escape(name.replace("snr_", "S/N ").replace("_", " "))
        shown.append({"name": name, "html": html, "unit": unit, "label": False,
                      "about": table[name].description or ""})  # fmt: skip
    of_rows = ("path", "instrument", "message", UNDETERMINED)
    texts = {n: _factored(table, n) for n in of_rows if n in table.colnames}
    return {
        "n": len(table), "ids": [str(name) for name in table["id"]], "texts": texts, "columns": columns,
        "shown": shown, "flags": text(_flags(table).astype("<u4")), "opened": list(opened), **pixels,
        "meanings": [[int(i.flag), str(i.flag.name).lower(), i.severity, i.meaning] for i in FLAGS],
    }  # fmt: skip


def _statistics(table: Table, row: int) -> list[list[float | None]]:
    """Of each label of a star the MAP, the median, the 68 and the 95 % interval, and the raw MAP."""
    out = []
    for label in labels_of(table):
        ends = ("", "_median", "_p16", "_p84", "_p2_5", "_p97_5", "_raw")
        names = [label.name + end for end in ends]
        numbers = [_numbers(table, n)[row] if n in table.colnames else np.nan for n in names]
        out.append([float(f"{value:.7g}") if np.isfinite(value) else None for value in numbers])
    return out


def _flags(table: Table) -> np.ndarray:
    return np.asarray(np.ma.filled(table["flags"], 0), np.uint32)


def _numbers(table: Table, name: str) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan)


def _has(table: Table, name: str) -> bool:
    """Whether there is a column of numbers of that name, and a number in it."""
    if name not in table.colnames or table[name].dtype.kind not in "fiu":
        return False
    return bool(np.isfinite(_numbers(table, name)).any())


def _column(table: Table, name: str) -> str:
    return text(_numbers(table, name).astype("<f4"))


def _factored(table: Table, name: str) -> dict[str, Any]:
    values, index = np.unique([str(value) for value in table[name]], return_inverse=True)
    return {"values": values.tolist(), "index": text(index.astype("<u4"))}


def _json(value: Any) -> str:
    """JSON that is safe within a script element: it cannot end it, nor begin a comment."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(source: str) -> str:
    if "</script" in source.lower() or "<!--" in source:
        raise OutputError("the plotting library cannot be put into a page: use another version of plotly")
    return source
