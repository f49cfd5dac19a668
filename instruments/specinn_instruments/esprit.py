"""Libre-ESpRIT ``.s`` text: reduced spectra of NARVAL and ESPaDOnS (Donati et al. 1997)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from specinn.errors import ReadError
from specinn.plugins.interfaces import Reader
from specinn.spectra import SpectrumBatch
from specinn_instruments.batches import make_batch
from specinn_instruments.columns import to_angstrom
from specinn_instruments.orders import split_orders
from specinn_instruments.text import parse_numbers, read_lines

_COUNTS = re.compile(r"^\s*(\d+)\s+(\d+)\s*$")
# the last column is sigma where there is more than the intensity: (I), (I, sigma), (I, V, N1, N2, sigma)
_SIGMA = {2: None, 3: 2, 6: 5}


class LibreEsprit(Reader):
    """Wavelength in nm (air, heliocentric), intensity, sigma; with polarimetry V and two nulls between.

    Orders overlap and follow one another: they become the arms, see :func:`split_orders`.
    """

    def recognises(self, path: Path) -> bool:
        with open(path, "rb") as file:
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
        if announced is not None and len(data) < announced:
            raise ReadError(
                f"truncated: line 2 announces {announced} pixels, there are {len(data)}: fetch the file again"
            )
        if data.shape[1] not in _SIGMA:
            raise ReadError(f"{data.shape[1]} columns: expected 2, 3 or 6, as in Libre-ESpRIT files")
        keep, arms = split_orders(data[:, 0])
        column = _SIGMA[data.shape[1]]
        named = re.search(r"'(.*?)'", title)
        yield make_batch(
            path,
            to_angstrom(data[keep, 0], "nm"),
            data[keep, 1],
            sigma=None if column is None else data[keep, column],
            columns={"object": [named[1].strip()]} if named and named[1].strip() else None,
            arms=arms,
        )
