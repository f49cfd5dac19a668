"""Writes N simulated 4MOST HR spectra to FOLDER: ``python benchmarks/make_survey.py 10000 survey``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from specinn.errors import SpecinnError
from specinn.plugins import Plugins
from specinn.simulation.mock_survey import PER_FILE, SimulatedSurvey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", metavar="N", type=int, help="how many spectra")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument(
        "--per-file", type=int, default=PER_FILE, help="spectra per file (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    options = parser.parse_args()
    start = time.monotonic()

    def progress(done: int) -> None:
        seconds = time.monotonic() - start
        print(f"{done} of {options.n} spectra, {seconds:.0f} s", file=sys.stderr)

    try:
        survey = SimulatedSurvey(Plugins(), seed=options.seed)
        files = survey.write(options.n, options.folder, options.per_file, progress)
    except SpecinnError as error:
        sys.exit(f"make_survey: {error}")
    size = sum(path.stat().st_size for path in files) / 1e9
    print(f"{options.n} spectra in {len(files)} files of {options.folder}, {size:.2f} GB")


if __name__ == "__main__":
    main()
