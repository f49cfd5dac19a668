"""Makes the pictures of the README and of the documentation, with what is bundled.

``python tools/make_pictures.py docs/pictures`` writes them anew, to be done when the model, an emulator or a
figure changes: lines of three example spectra with their model spectra, the posterior of one of them, the
errors of the emulator of three arms, and the page of a catalogue of a simulated survey (where there is a
Chromium, which takes the picture). Each is below 60 kB.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import specinn
from specinn import plotting
from specinn.cli import main
from specinn.evaluation import emulation
from specinn.grids import load
from specinn.plugins import Plugins
from specinn.resimulation import figures
from specinn.simulation.mock_survey import SimulatedSurvey

LIMIT = 60_000  # bytes of a picture
STARS = ("dwarf-g", "giant-clump", "giant-metal-poor")
HELD_OUT = Path(__file__).parents[1] / "tests" / "data" / "4most-hr-held-out.h5"
SURVEY = 120  # stars of the catalogue of which the page is shown


def make(folder: Path) -> None:
    """Write ``spectrum``, ``posterior``, ``emulator`` and ``catalogue.webp`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [path for path in specinn.example_files() if path.stem in STARS]
    result = specinn.infer(files, samples=2048)
    with plotting.style():
        stars = [result.resimulate(star, draws=100) for star in STARS]
        _save(_drawn(figures.examples(stars), 130), folder / "spectrum.webp")
        labels = ("teff", "logg", "fe_h", "mg_fe")
        _save(_drawn(result.posterior.corner("giant-clump", labels), 90), folder / "posterior.webp")
        emulator = Plugins().load("synthesizer", "emulator").load(Path("4most-hr"))
        held_out = emulation.compare(emulator, load([HELD_OUT]), split="all")
        _save(_drawn(emulation.draw(held_out), 110), folder / "emulator.webp")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("there is no Chromium: the picture of the page is left as it is", file=sys.stderr)
    else:
        _save(_page(chromium), folder / "catalogue.webp")


def _page(chromium: str) -> Image.Image:
    """The page of a catalogue as a browser shows it."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        survey = SimulatedSurvey(Plugins(), seed=1).write(SURVEY, work / "spectra")
        table, page, shot = work / "survey.ecsv", work / "page.html", work / "page.png"
        for words in (["run", *survey, "-o", table, "--samples", 512], ["report", table, "-o", page]):
            try:
                main([str(word) for word in words])
            except SystemExit as end:
                if end.code:
                    raise
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [
            "--window-size=1300,1050",
            f"--user-data-dir={work / 'browser'}",
            "--virtual-time-budget=20000",
        ]
        subprocess.run(
            [chromium, *options, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True
        )
        with Image.open(shot) as picture:
            return picture.convert("RGB")


def _drawn(figure: Any, dpi: int) -> Image.Image:
    """A figure on white."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, facecolor="white", bbox_inches="tight")
    return Image.open(drawn).convert("RGB")


def _save(picture: Image.Image, path: Path) -> None:
    """As WebP of the best quality that keeps it small."""
    for quality in range(85, 20, -5):
        packed = io.BytesIO()
        picture.save(packed, "webp", quality=quality, method=6)
        if packed.tell() < LIMIT:
            path.write_bytes(packed.getvalue())
            print(f"{path}: {packed.tell()} bytes, {picture.width} x {picture.height}, quality {quality}")
            return
    raise SystemExit(f"{path} would be larger than {LIMIT} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give the folder for the pictures, docs/pictures in the tree")
    make(Path(sys.argv[1]))
