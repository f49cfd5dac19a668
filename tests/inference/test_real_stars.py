"""Every real file of the development data: read, in the right medium and frame, at the right velocity, and
with values that are right or flagged.

    python tests/inference/test_real_stars.py

prints the table. The pipeline compares with model spectra (``check``): that is what knows the M dwarfs (A12),
the giant whose arms disagree (A13) and the double-lined HIP 109303.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specinn
from specinn.errors import SpectrumWarning
from specinn.flags import is_warn, names
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.plugins import Plugins

SHARED = Path(os.environ.get("SPECINN_SHARED", Path(__file__).parents[3] / "shared")) / "data"
# Of a model whose typical errors are 87 K, 0.11 and 0.08.
TOLERANCE = {"teff": 200.0, "logg": 0.35, "fe_h": 0.2}
# Medium, frame, velocity in km/s where it is known, and whether a warning must say that something is wrong.
EXPECTED: dict[str, tuple[str, str, float | None, bool | None]] = {
    "sun_uves.txt": ("air", "unknown", 0.0, False),
    "procyon_uvespop.fits": ("air", "unknown", 0.0, False),
    "arcturus_kpno.fits": ("air", "unknown", 0.0, False),
    "hd22879_narval.fits": ("air", "unknown", 0.0, False),
    "alfcenb_harps.fits": ("air", "unknown", 0.0, False),
    "61cygb_espadons.fits": ("air", "unknown", 0.0, True),
    "hd122563_mike.fits": ("air", "unknown", 0.0, True),  # [Ba/Fe] below the bounds
    "wasp120_uves.fits": ("air", "unknown", 0.0, False),
    "sun_kurucz1984.fits": ("air", "unknown", 0.3, False),
    "sun_harps_s1d.fits": ("air", "barycentric", None, False),
    "alfcenb_harps_s1d.fits": ("air", "barycentric", -22.6, False),
    "iotahor_harps_s1d.fits": ("air", "barycentric", None, None),  # its misfit is at the limit
    "hd106270_fies.fits": ("air", "unknown", None, False),
    "epseri_apf.fits": ("air", "unknown", None, False),
    "dstuca_salt_hrs.fits": ("air", "unknown", None, True),  # young and active
    "hd122563_mike_multispec.fits": ("air", "unknown", None, True),
    "hd122563_uves_sdp.fits": ("air", "barycentric", -26.1, True),
    "hd140283_hires_makee.fits": ("vacuum", "unknown", None, True),
    "hd104304_uves_old.fits": ("air", "unknown", None, False),
    "hd886_elodie.fits": ("air", "unknown", None, True),
    "hip107864_arces.fits": ("air", "unknown", None, True),
    "gj581_harps_s1d.fits": ("air", "barycentric", -9.5, True),
    "gj908_sophie.fits": ("air", "unknown", None, True),
    "hip109303_sb2_echelle.fits": ("air", "unknown", None, True),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data (SPECINN_SHARED)"),
]


def stars() -> Iterator[tuple[Path, dict[str, str]]]:
    for folder in ("spectra", "spectra2"):
        with (SHARED / folder / "stars.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield SHARED / folder / row["file"], row


class Inference:
    """Rows of files, each by its instrument and resolving power."""

    def __init__(self) -> None:
        self.plugins, self.model = Plugins(), specinn.load_model("4most-hr")
        self.check = self.plugins.load("synthesizer", "emulator").load()

    def __call__(self, path: Path, row: dict[str, str]) -> dict[str, Any]:
        options = RunOptions(samples=512, resolving_power=float(row["resolving_power"]))
        instrument = self.plugins.instrument(row["instrument"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SpectrumWarning)
            (batch,) = specinn.read(path)
        pipeline = Pipeline(self.model, self.plugins, options, instrument=instrument, check=self.check)
        result = pipeline(batch)
        columns = "medium medium_from frame frame_from rv rv_error ood_score misfit flags message remarks"
        out = {name: result.meta[name][0] for name in columns.split() if name in result.meta.colnames}
        values = dict(zip(self.model.labels.names, result.summary.map[0], strict=False))
        return out | {name: float(values[name]) for name in TOLERANCE}


@pytest.fixture(scope="module")
def infer() -> Inference:
    return Inference()


def test_every_file_of_the_tables_is_expected() -> None:
    assert {path.name for path, _ in stars()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_values_are_right_or_flagged(infer: Inference, name: str) -> None:
    ((path, row),) = ((path, row) for path, row in stars() if path.name == name)
    medium, frame, velocity, warned = EXPECTED[name]
    out = infer(path, row)
    assert (out["medium"], out["frame"]) == (medium, frame)
    if velocity is not None:
        assert out["rv"] == pytest.approx(velocity, abs=1.0)
    if warned is not None:
        assert bool(is_warn(np.array([out["flags"]]))[0]) == warned, names(int(out["flags"]))
    for label, tolerance in TOLERANCE.items():
        if row[label] and not warned:
            assert out[label] == pytest.approx(float(row[label]), abs=tolerance), label


if __name__ == "__main__":
    rows = Inference()
    for path, row in stars():
        out = rows(path, row)
        print(
            f"{path.name:28s} {out['medium']} ({out['medium_from']}), {out['frame']} ({out['frame_from']}), "
            f"rv {out['rv']:.2f} +- {out['rv_error']:.2f},",
            ", ".join(f"{label} {out[label]:.2f} (lit. {row[label] or '-'})" for label in TOLERANCE),
            f"ood_score {out['ood_score']:.2f}, misfit {out.get('misfit', np.nan):.2f},",
            " ".join(names(int(out["flags"]))), out["message"], flush=True,
        )  # fmt: skip
