"""Damaged spectra of a star that is known, through a whole run: what stands in the catalogue?

    python tests/helpers/fuzz_catalogue.py [COUNT] [--seed 0] [--first 0] [--keep FOLDER]

runs ``specinn run`` on COUNT damaged files of :mod:`fuzz_readers`, of the shipped G dwarf, and prints what
is wrong with the rows; ``--keep FOLDER`` leaves those files there. What must hold:

* a file has a row for each of its spectra, or one that says why it has none;
* a value is a number, within the bounds of the model and in the order of its percentiles; only rows with a
  bad flag have none, and they say why;
* the file's name and what it says of its object come back as they were, from FITS and from ECSV;
* a row without a warning has the values and the velocity of the star.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import fuzz_readers
import numpy as np
from astropy.table import Row, Table
from typer.testing import CliRunner

import specinn
from specinn import catalogue
from specinn.cli import app
from specinn.errors import ReadError
from specinn.flags import Flag, is_bad, is_warn, names
from specinn.labels import LabelSet, with_derived_labels
from specinn.plugins import Plugins
from specinn.posterior.summary import can_be_absent
from specinn.spectra import readers
from specinn.texts import portable

# Of dwarf-g.fits, and how far off a row may be without a warning.
TRUTH = {"teff": 5790.0, "logg": 4.42, "fe_h": 0.03, "rv": 12.3}
TOLERANCE = {"teff": 150.0, "logg": 0.3, "fe_h": 0.12, "rv": 1.0}
_SIGMAS = 5.0  # or this many of its errors
_TEXTS = ("id", "path", "frame", "frame_from", "medium", "medium_from", "object", "survey_id", "programme")
_ENDS = ("", "_std", "_p2_5", "_p16", "_median", "_p84", "_p97_5")


def star(step: float = 0.08) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wavelength, flux and sigma ``(n_pix,)`` of the shipped G dwarf in even steps (Angstrom); flux 0 between
    its arms."""
    (path,) = (path for path in specinn.example_files() if path.stem == "dwarf-g")
    (batch,) = specinn.read(path)
    good = ~batch.mask[0]
    source, level = batch.wavelength[good], np.median(batch.flux[0, good])
    wave = np.arange(source[0], source[-1], step)
    flux, sigma = (np.interp(wave, source, each[0, good] / level) for each in (batch.flux, batch.sigma))
    after = np.searchsorted(source, wave).clip(1, len(source) - 1)
    return wave, np.where(source[after] - source[after - 1] > 1.0, 0.0, flux), sigma


def run(files: Sequence[Path], output: Path) -> Table:
    """The catalogue of ``specinn run``; the FITS table and an ECSV table made of it must be the same."""
    arguments = ["run", *map(str, files), "-o", str(output), "--samples", "512", "--quiet"]
    result = CliRunner().invoke(app, arguments, obj=Plugins())
    if result.exit_code:
        raise AssertionError(f"status {result.exit_code}: {result.output[-2000:]}") from result.exception
    table = catalogue.read(output)
    other = output.with_suffix(".ecsv")
    catalogue.write(table, other)
    back = catalogue.read(other)
    for name in table.colnames:
        mask, mask_back = (np.ma.getmaskarray(np.ma.asarray(t[name])) for t in (table, back))
        same = (table[name].filled(0) if mask.any() else table[name]) == (
            back[name].filled(0) if mask_back.any() else back[name]
        )
        assert (mask == mask_back).all() and np.all(same), f"{name} differs between FITS and ECSV"
    return table


def faults_of(rows: Table, path: Path, plugins: Plugins, labels: LabelSet) -> Iterator[str]:
    """What is wrong with the rows of one file."""
    hidden = str(rows.meta.get("masked", "")).split(", ")
    metas = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for batch in readers.read(path, plugins):  # some spectra may come before the defect
                metas.append(batch.meta)
        except ReadError as error:
            last = rows[-1]
            if not last["flags"] & Flag.NOT_READ or str(last["message"]) != portable(str(error)):
                yield f"a file that cannot be read, with the message {last['message']!r}"
            rows = rows[:-1]
    if sum(map(len, metas)) != len(rows):
        yield f"{len(rows)} rows for {sum(map(len, metas))} spectra"
        return
    for row, said in zip(rows, (row for meta in metas for row in meta), strict=True):
        for name in set(_TEXTS) & set(said.colnames):
            text = "" if said[name] is np.ma.masked else portable(str(said[name]))
            if str(row[name]) != text:
                yield f"{name} is {row[name]!r}, was {text!r}"
        yield from faults_of_row(row, labels, hidden)


def faults_of_row(row: Row, labels: LabelSet, hidden: Sequence[str]) -> Iterator[str]:
    """What is wrong with the row of a spectrum that was read; the labels ``hidden`` are always masked."""
    flags = int(row["flags"])
    bad, warn = bool(is_bad(np.array(flags))), bool(is_warn(np.array(flags)))
    if (bool(row["flag_bad"]), bool(row["flag_warn"])) != (bad, warn):
        yield "flag_bad and flag_warn are not those of flags"
    if bad and not row["message"]:
        yield f"no message with {names(flags)}"
    if not str(row["message"]).isprintable():
        yield f"a message that is none: {row['message']!r}"
    for label in with_derived_labels(labels):
        values = {end: row[f"{label.name}{end}"] for end in _ENDS}
        masked = {end for end, value in values.items() if value is np.ma.masked}
        none = bad or label.name in hidden
        untold = label.name in str(row["undetermined"]).split()  # the middle would be that of the prior
        if masked != set(_ENDS if none else ("", "_median") if untold else ()):
            yield f"{label.name} is {values} with the flags {names(flags)}"
        elif not none:
            low, high = label.bounds
            margin = 1e-5 * (high - low)  # single precision
            given = {end: float(value) for end, value in values.items() if end not in masked}
            places = [value for end, value in given.items() if end not in ("", "_std")]
            rising = (np.diff(places) >= 0.0).all() and given["_std"] >= 0.0
            if not rising or not np.isfinite(list(given.values())).all():
                yield f"{label.name} is {values}"
            if not all(low - margin <= v <= high + margin for end, v in given.items() if end != "_std"):
                yield f"{label.name} is {values}, outside {label.bounds}"
        if none and can_be_absent(label.name) and row[f"{label.name}_upper"] is not np.ma.masked:
            yield f"{label.name}_upper is {row[f'{label.name}_upper']} with the flags {names(flags)}"
    if not bad and row["rv"] is np.ma.masked:
        yield "values without a velocity"
    if not warn:
        for name, truth in TRUTH.items():
            error = row["rv_error" if name == "rv" else f"{name}_std"]
            limit = max(TOLERANCE[name], 0.0 if error is np.ma.masked else _SIGMAS * float(error))
            if row[name] is not np.ma.masked and abs(float(row[name]) - truth) > limit:
                yield f"WRONG WITHOUT A WORD: {name} is {row[name]:.2f} +- {error}, not {truth}"


def look(seed: int, first: int, count: int, folder: Path) -> Iterator[tuple[int, Path, Table, list[str]]]:
    """Number, path, rows and faults of each file of a seed."""
    plugins, labels = Plugins(), specinn.load_model("4most-hr").labels
    (folder / "whole").mkdir()
    whole = fuzz_readers.whole_files(folder / "whole", star())
    paths = {}
    for number in range(first, first + count):
        name, content = fuzz_readers.damaged(whole, seed, number)
        paths[number] = folder / f"{number} {name}"
        paths[number].write_bytes(content)
    table = run(list(paths.values()), folder / "catalogue.fits")
    assert table["row"].tolist() == list(range(len(table)))
    of_file = np.array([portable(str(path)) for path in paths.values()])
    assert set(of_file) == set(table["path"])  # none is missing, and each has its name
    for number, path in paths.items():
        rows = table[np.asarray(table["path"]) == portable(str(path))]
        yield number, path, rows, list(faults_of(rows, path, plugins, labels))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files with which something is wrong")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, path, rows, faults in look(options.seed, options.first, options.count, Path(folder)):
            for row in rows:
                flags = int(row["flags"])
                for name in names(flags):
                    outcomes[name] += 1
                outcomes["rows" if flags & Flag.NOT_READ else "rows of spectra"] += 1
                outcomes["without a warning"] += not row["flag_warn"]
            if faults:
                outcomes["files with faults"] += 1
                print(number, path.name, *faults, sep=": ", flush=True)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / path.name).write_bytes(path.read_bytes())
    print(*(f"{count} {outcome}" for outcome, count in outcomes.most_common()), sep=", ")
    return int(outcomes["files with faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())
