"""The folder of ``specinn resimulate``: a table of all stars, figures, and spectra if requested."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn import plotting
from specinn.errors import OutputError
from specinn.evaluation.tables import tabulate
from specinn.files import Sink, check_folder, check_new, replacing_folder
from specinn.instruments import Instrument
from specinn.resimulation import figures as spectra
from specinn.resimulation.result import LEVELS, NUMBERS, Resimulation, Unsimulated, overall

__all__ = ["COLUMNS", "FIGURES", "SPECTRA", "TABLE", "Outcome", "check", "write"]

TABLE, FIGURES, SPECTRA = "stars.ecsv", "figures", "spectra.h5"
_EXAMPLES = 6  # stars in the figure that shows several
COLUMNS = {
    "id": ("", "Identifier of the spectrum"),
    "path": ("", "File of the spectrum"),
    "row": ("", "Row of the catalogue, from 0; -1 where it has none"),
    **{f"{name}{end}": (unit, f"{text}; {which}") for end, which in (("", "all good pixels"), ("_used",
       "those that the model looks at")) for name, (unit, text) in NUMBERS.items()},
    "message": ("", "Why there is no model spectrum, or what to know of it"),
}  # fmt: skip


@attrs.frozen
class Outcome:
    """``rows``: one per star, of :data:`COLUMNS`; ``total``: :func:`specinn.resimulation.result.overall` of
    them; ``failed``: stars without a model spectrum; ``interrupted``: whether the user stopped it half-way.
    """

    rows: list[dict[str, Any]]
    total: Mapping[str, float | None]
    failed: int
    interrupted: bool


def check(folder: Path, *, overwrite: bool = False) -> Path:
    """The folder, if it can be written; with ``overwrite`` also in place of one that holds nothing else.

    Raises ``OutputError``.
    """
    check_folder(folder.resolve().parent, folder)
    check_new(folder, overwrite=overwrite)
    if folder.exists():
        if not folder.is_dir():
            raise OutputError(f"{folder} is a file, but a folder is written: give another name")
        others = sorted({each.name for each in folder.iterdir()} - {TABLE, FIGURES, SPECTRA})
        if others:
            raise OutputError(
                f"{folder} was not written by specinn resimulate (it holds {others[0]}), so it is not "
                "replaced: give another name"
            )
    return folder


def write(
    stars: Iterable[Resimulation | Unsimulated],
    folder: Path,
    instrument: Instrument,
    used: np.ndarray,
    meta: Mapping[str, Any],
    *,
    drawn: int,
    save_spectra: bool = False,
    overwrite: bool = False,
    report: Callable[[str, str], None] = lambda name, message: None,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Write the folder, one star in memory at a time; the first ``drawn`` have figures of their own.

    ``instrument`` and ``used (n_pix,)`` are those of the model. ``report`` is called with the name and the
    message of every star that has one, ``progress`` with the number of stars done. Raises ``OutputError``.
    """
    folder = check(folder, overwrite=overwrite).resolve()
    rows: list[dict[str, Any]] = []
    numbers: list[dict[str, float | None]] = []
    shown: list[Resimulation] = []
    sums = np.zeros((3, used.size))
    interrupted = False
    with replacing_folder(folder) as temporary, contextlib.ExitStack() as stack:
        (temporary / FIGURES).mkdir()
        save = stack.enter_context(_spectra_file(temporary / SPECTRA, instrument)) if save_spectra else None
        stack.enter_context(plotting.style())
        try:
            for star in stars:
                row: dict[str, Any] = {"id": star.id, "path": star.path, "row": star.row}
                if isinstance(star, Unsimulated):
                    row["message"] = star.message
                else:
                    numbers.append(star.numbers())
                    row |= {**numbers[-1], "message": star.note}
                    good = star.good
                    sums[:, good] += [np.ones(good.sum()), star.residual[good], star.residual[good] ** 2]
                    shown += [star] if len(shown) < _EXAMPLES else []
                    if len(numbers) <= drawn:
                        name = f"{star.row:05d}-{re.sub(r'[^A-Za-z0-9._+-]+', '_', star.id)[:60]}"
                        plotting.save_files(spectra.whole(star), temporary / FIGURES, f"{name}-spectrum")
                        plotting.save_files(spectra.lines(star), temporary / FIGURES, f"{name}-lines")
                    if save is not None:
                        save(star)
                rows.append(row)
                if row["message"]:
                    report(star.id, row["message"])
                progress(len(rows))
        except KeyboardInterrupt:
            interrupted = True
        total = overall(numbers)
        if shown and drawn:
            plotting.save_files(spectra.examples(shown), temporary / FIGURES, "lines")
            plotting.save_files(
                spectra.mean_residual(instrument, sums, used), temporary / FIGURES, "mean-residual"
            )
        table = tabulate(rows, COLUMNS, {**meta, "stars": len(numbers), "overall": total})
        table.write(temporary / TABLE, format="ascii.ecsv")
    return Outcome(rows, total, len(rows) - len(numbers), interrupted)


@contextlib.contextmanager
def _spectra_file(path: Path, instrument: Instrument) -> Iterator[Callable[[Resimulation], None]]:
    """An HDF5 file of spectra (docs/resimulate.md); gives the function that adds a star."""
    import h5py

    n = instrument.wavelength.size
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "flux": ((n,), "f4"), "sigma": ((n,), "f4"), "model": ((n,), "f4"), "bands": ((len(LEVELS), n), "f4"),
        "used": ((n,), "?"), "row": ((), "i8"), "id": ((), h5py.string_dtype()),
    }  # fmt: skip
    with Sink(path) as sink, h5py.File(sink, "w") as file:
        file["wavelength"] = instrument.wavelength
        file["wavelength"].attrs["unit"] = "Angstrom"
        file.attrs["medium"] = instrument.medium
        file.attrs["instrument"] = json.dumps(instrument.to_dict())
        file.attrs["levels"] = LEVELS
        for name, (shape, dtype) in shapes.items():
            chunks = (1, *shape) if shape else (1024,)
            file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunks)

        def append(star: Resimulation) -> None:
            for name in shapes:
                dataset = file[name]
                dataset.resize(dataset.shape[0] + 1, axis=0)
                dataset[-1] = getattr(star, name)
            sink.check()

        yield append
