"""Write the validation split of a grid as a grid of its own: spectra for tests, from which nobody has learnt.

specinn grid import 4most-hr.h5 -o degraded.h5 --resolving-power 28000 --step 0.065
python tools/make_held_out.py degraded.h5 tests/data/4most-hr-held-out.h5

``4most-hr-unseen.h5`` beside it is the whole degraded.h5 of the same recipe with n = 64 and seed = 4091.
"""

from __future__ import annotations

import sys
from pathlib import Path

import attrs

from specinn.grids import load


def main(source: Path, output: Path) -> None:
    grid = load([source])
    chosen = grid.split("validation")
    part = attrs.evolve(
        grid,
        values=grid.values[chosen],
        ids=grid.ids[chosen],
        flux_of=lambda rows: grid.flux_of(chosen[rows]),
    )
    part.save(output, overwrite=True)
    print(f"{output}: {len(part)} of {len(grid)} models, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
