"""Libre-ESpRIT ``.s`` text: reduced spectra of NARVAL and ESPaDOnS (Donati et al. 1997)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import unpacked
from specinn_instruments.batches import Piece, assemble, pixels, say
from specinn_instruments.columns import to_angstrom
from specinn_instruments.facts import Statement
from specinn_instruments.text import parse_numbers, read_lines

_COUNTS = re.compile(r"^\s*(\d+)\s+(\d+)\s*$")
# the last column is sigma where there is more than the intensity: (I), (I, sigma), (I, V, N1, N2, sigma)
_SIGMA = {2: None, 3: 2, 6: 5}


class LibreEsprit(Reader):
    """Wavelength in nm (air, heliocentric), intensity, sigma; with polarimetry V and two nulls between.

    Orders overlap and follow one another: they are merged, see
    :func:`specinn_instruments.orders.merge_orders`."""

    def recognises(self, path: Path) -> bool:
        with unpacked(path) as (file, _):
            lines = file.read(400).decode("latin-1").splitlines()
        return len(lines) > 2 and lines[0].startswith("***") and _COUNTS.match(lines[1]) is not None

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        lines = read_lines(path)
        first, announced, title = 0, None, ""
        if lines and lines[0].startswith("***"):
            counts = _COUNTS.match(lines[1]) if len(lines) > 1 else None
            if counts is None:
                raise ReadError(
                    "line 2 does not give the numbers of lines and columns, as in Libre-ESpRIT files"
                )
            first, announced, title = 2, int(counts[1]), lines[0]
        data = parse_numbers(lines, first, None)
        if announced is not None and abs(len(data) - announced) == 1:
            say(f"line 2 announces {announced} pixels, there are {len(data)}: all of them are read")
        elif announced is not None and len(data) < announced:
            raise ReadError(
                f"truncated: line 2 announces {announced} pixels, there are {len(data)}: fetch the file again"
            )
        if data.shape[1] not in _SIGMA:
            raise ReadError(f"{data.shape[1]} columns: expected 2, 3 or 6, as in Libre-ESpRIT files")
        column = _SIGMA[data.shape[1]]
        name = re.search(r"'(.*?)'", title)
        star = name[1].strip() if name else ""
        flux, sigma, mask = pixels(data[:, 1], sigma=None if column is None else data[:, column])
        piece = Piece(to_angstrom(data[:, 0], "nm"), flux, sigma, mask, object=star)
        yield from assemble(
            path,
            [piece],
            medium=Statement("air", "the format Libre-ESpRIT"),
            frame=Statement("heliocentric", "the format Libre-ESpRIT"),
            columns={"object": [star]} if star else None,
        )
