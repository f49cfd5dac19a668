"""The layouts of files: one of each kind, written by the code that users run, is described."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from specinn.catalogue import read
from specinn.cli import main
from specinn.grids import Grid
from specinn.models import read_header


def layouts() -> str:
    """Layouts of a grid, a catalogue, its samples, and of the header of the model that made them."""
    with tempfile.TemporaryDirectory() as folder:
        grid = write_grid(Path(folder))
        catalogue, samples = write_run(Path(folder))
        parts = [
            ("A grid (HDF5)", hdf5(grid)),
            ("Posterior samples (HDF5)", hdf5(samples)),
            ("The header of a catalogue", _json(dict(read(catalogue).meta))),
            ("The header of a model (safetensors)", _json(_bundled())),
        ]
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts)


def write_grid(folder: Path) -> Path:
    """Three models with two labels and five pixels."""
    path = folder / "grid.h5"
    values = np.array([[5777.0, 0.0], [4500.0, -1.0], [6300.0, -2.0]])
    grid = Grid(
        ("teff", "fe_h"),
        values,
        np.array(["sun", "giant", "turn-off"]),
        np.linspace(5160.0, 5160.4, 5),
        {"green": slice(0, 5)},
        lambda rows: np.ones((len(rows), 5), np.float32),
        60_000.0,
        provenance={"code": "none"},
    )
    grid.save(path)
    return path


def write_run(folder: Path) -> tuple[Path, Path]:
    """Catalogue and samples of the example spectra."""
    catalogue, samples = folder / "stars.ecsv", folder / "samples.h5"
    words = ["run", "-q", "-o", str(catalogue), "--save-samples", str(samples), "--samples", "64"]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
    return catalogue, samples


def _bundled() -> dict[str, Any]:
    from reference import shipped

    (offer,) = shipped().offers("estimator")
    return read_header(next(iter(offer.record.models.values())))


def hdf5(path: Path) -> str:
    """Attributes and data sets, with types and shapes."""
    lines = []
    with h5py.File(path) as file:
        for name, value in file.attrs.items():
            lines.append(f"attribute {name} = {_short(value)}")

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                text = h5py.check_string_dtype(item.dtype)
                lines.append(f"{name} {item.shape} {'text' if text else item.dtype}")

        file.visititems(visit)
    return "```text\n" + "\n".join(lines) + "\n```"


def _json(header: dict[str, Any]) -> str:
    """The outer two levels of keys."""
    lines = []
    for key, value in header.items():
        if isinstance(value, dict):
            lines.append(f"{key}: {', '.join(value)}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{key}: list of tables with {', '.join(value[0])}")
        else:
            lines.append(f"{key} = {_short(value)}")
    return "```text\n" + "\n".join(lines) + "\n```"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    text = " ".join(str(value).split())
    return text if len(text) <= 70 else f"{text[:67]}..."
