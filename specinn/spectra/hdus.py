"""What the headers of a FITS file declare, compared with the file before any library trusts them.

astropy takes the sizes of a header as they are: it loops over four billion axes, or takes the memory that
they add up to. The rules are those of the FITS standard (version 4.0, sections 3, 4.4.1, 7 and 10).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.errors import ReadError

__all__ = ["check_hdus"]

_MOST_IMAGE_BYTES = 2**30  # of a compressed image, which takes them all as memory
_BLOCK, _CARD = 2880, 80
_MOST = 999  # axes, and columns
_END = re.compile(rb"END {0,76}[^A-Z0-9_-]")
_VALUE = re.compile(
    rb"(SIMPLE|XTENSION|EXTEND|BITPIX|BSCALE|BZERO|NAXIS\d*|GCOUNT|PCOUNT|GROUPS|TFIELDS|THEAP|TFORM\d+"
    rb"|TBCOL\d+|ZIMAGE|ZBITPIX|ZNAXIS\d*|ZTILE\d+|ZCMPTYPE|ZNAME\d+|ZVAL\d+)"
    rb" *= *('(?:[^']|'')*'?|[^/]*)([^/]*)"
)
_NO_VALUE = re.compile(rb"(BSCALE|BZERO) +[^ =]")  # astropy makes text of what follows
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?")
_KINDS = ("IMAGE", "BINTABLE", "TABLE", "IUEIMAGE", "A3DTABLE", "FOREIGN", "DUMP")
_METHODS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS")
_DEPTHS = (8, 16, 32, 64, -32, -64)
_BINARY = re.compile(r"(\d*)(?:([LXBIJKAEDCM])|([PQ])(?=[LXBIJKAEDCM](\(|$)))", re.I)
_WIDTHS = dict(zip("LBIJKAEDCMPQ", (1, 1, 2, 4, 8, 1, 4, 8, 8, 16, 8, 16), strict=True))  # bytes
_TEXT = re.compile(r"[AIFED](\d+)(\.\d+)?$", re.I)


def check_hdus(path: Path, file: Any, size: int) -> int:
    """Where the last HDU of an open FITS ``file`` of ``size`` bytes ends.

    Raises ``ReadError`` where a header is no header, or declares sizes that are none, that contradict one
    another, or that the file does not have.
    """
    number, end = 0, 0
    for number, header in enumerate(_headers(path, file, size)):
        needed = header.data + header.size()  # without the padding, which some programs leave out at the end
        if needed > size:
            raise ReadError(
                f"{path}: truncated: {size} bytes, but HDU {number} announces {needed}: fetch the file again"
            )
        header.check_columns()
        header.check_image(size)
        end = min(header.end(), size)
    file.seek(end)
    blocks = iter(lambda: file.read(_BLOCK), b"")
    if size - end >= _BLOCK and any(block.strip(b"\0 \r\n\x1a") for block in blocks):
        raise ReadError(  # they may have been an HDU, and astropy makes something of them and what follows
            f"{path}: damaged: {size - end} bytes after the last HDU are not understood: fetch the file again"
        )
    return end


@attrs.frozen
class _Header:
    """The values of one header that say how large its data are, and where these begin."""

    path: Path
    hdu: int
    values: dict[str, str]
    data: int

    def damaged(self, what: str) -> ReadError:
        return ReadError(
            f"{self.path}: the FITS header of HDU {self.hdu} is damaged: {what}: fetch the file again"
        )

    def number(self, key: str, low: int, high: int | None = None, default: int | None = None) -> int:
        text = self.values.get(key)
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        if text is None:
            if default is not None:
                return default
            raise self.damaged(f"{key} is missing, expected a whole number, {limits}")
        if not re.fullmatch(r"[+-]?\d{1,30}", text):
            raise self.damaged(f"{key} is {_shown(text)}, expected a whole number, {limits}")
        if int(text) < low or (high is not None and int(text) > high):
            raise self.damaged(f"{key} is {text}, expected {limits}")
        return int(text)

    def kind(self) -> str:
        return self.values.get("XTENSION", "").strip("' ")

    def depth(self, key: str) -> int:
        """Bytes of a pixel."""
        depth = self.number(key, -64, 64)
        if depth not in _DEPTHS:
            raise self.damaged(f"{key} is {depth}, expected one of {', '.join(map(str, _DEPTHS))}")
        return abs(depth) // 8

    def axes(self, key: str) -> list[int]:
        return [self.number(f"{key}{i + 1}", 0) for i in range(self.number(key, 0, _MOST))]

    def size(self) -> int:
        """Bytes of the data, without padding."""
        simple = self.values.get("SIMPLE")
        if simple not in (None, "T"):
            raise self.damaged(f"SIMPLE is {_shown(simple)}, expected T")
        if self.values.get("EXTEND", "T") not in ("T", "F"):
            raise self.damaged(f"EXTEND is {_shown(self.values['EXTEND'])}, expected T or F")
        extension = self.values.get("XTENSION", "")
        if simple is None and self.kind() not in _KINDS:
            raise self.damaged(f"XTENSION is {_shown(extension)}, expected IMAGE, BINTABLE or TABLE")
        if simple is None and not re.fullmatch("'[^']*'", extension):
            raise self.damaged(f"XTENSION is {_shown(extension)}, expected quotes around it")
        for key in ("BSCALE", "BZERO"):
            if key in self.values and not _NUMBER.fullmatch(self.values[key]):
                raise self.damaged(f"{key} is {_shown(self.values[key])}, expected a number")
        depth, axes = self.depth("BITPIX"), self.axes("NAXIS")
        if not axes:
            return 0
        if axes[0] == 0 and self.values.get("GROUPS") == "T":
            axes = axes[1:]
        groups, more = self.number("GCOUNT", 0, default=1), self.number("PCOUNT", 0, default=0)
        return depth * groups * (more + _product(axes))

    def end(self) -> int:
        return self.data + -(-self.size() // _BLOCK) * _BLOCK

    def check_columns(self) -> None:
        """That the columns of a table fill its rows: otherwise numbers are read from the wrong places."""
        kind = self.kind()
        if kind not in ("BINTABLE", "A3DTABLE", "TABLE"):
            return
        axes = self.axes("NAXIS")
        if len(axes) != 2:
            raise self.damaged(f"NAXIS is {len(axes)}, expected 2 for a table")
        for key in ("PCOUNT", "GCOUNT"):
            self.number(key, 0)
        ends = [0]
        for i in range(1, self.number("TFIELDS", 0, _MOST) + 1):
            text = self.values.get(f"TFORM{i}")
            if text is None:
                raise self.damaged(f"TFORM{i} is missing, expected the format of column {i}")
            form = text.strip("' ")
            if kind == "TABLE":
                match = _TEXT.match(form)
                start = self.number(f"TBCOL{i}", 1) - 1
            else:
                match = _BINARY.match(form)
                start = ends[-1]
            if match is None:
                raise self.damaged(f"TFORM{i} is {_shown(text)}, expected a format such as 1D or E16.8")
            ends.append(start + (int(match[1]) if kind == "TABLE" else _width(match)))
        if (kind == "TABLE" and max(ends) > axes[0]) or (kind != "TABLE" and ends[-1] != axes[0]):
            raise self.damaged(f"its columns take {max(ends)} bytes of a row, but NAXIS1 is {axes[0]}")
        heap = self.number("THEAP", 0, default=_product(axes))
        if not _product(axes) <= heap <= self.size():
            raise self.damaged(f"THEAP is {heap}, expected {_product(axes)} to {self.size()}")

    def check_image(self, size: int) -> None:
        """That a compressed image, of which only the tiles are in the file, is none that memory cannot
        hold."""
        if self.values.get("ZIMAGE") != "T":
            return
        axes = self.axes("ZNAXIS")
        declared = self.depth("ZBITPIX") * _product(axes)
        if declared > _MOST_IMAGE_BYTES:
            raise ReadError(
                f"{self.path}: the compressed image of HDU {self.hdu} declares {declared} bytes, in a file "
                f"of {size}: expected at most {_MOST_IMAGE_BYTES}"
            )
        tiles = 1
        for i, n in enumerate(axes):
            tiles *= -(-n // self.number(f"ZTILE{i + 1}", 1, max(n, 1), default=1 if i else max(n, 1)))
        self.number("NAXIS2", tiles)  # a row for each tile
        method = self.values.get("ZCMPTYPE", "").strip("' ")
        if method not in _METHODS:
            raise self.damaged(f"ZCMPTYPE is {_shown(method)}, expected one of {', '.join(_METHODS)}")
        for key, value in self.values.items():
            if key.startswith("ZNAME") and not value.startswith("'"):
                raise self.damaged(f"{key} is {_shown(value)}, expected the name of a parameter")
            if key.startswith("ZVAL") and not (_NUMBER.fullmatch(value) and abs(_float(value)) < 2**31):
                raise self.damaged(f"{key} is {_shown(value)}, expected a number below 2**31")
        for key, value in self.values.items():
            if key.startswith("ZNAME") and value.strip("' ") == "BLOCKSIZE":
                self.number(key.replace("NAME", "VAL"), 16, 32)
            if key.startswith("ZNAME") and value.strip("' ") == "BYTEPIX":
                width = self.number(key.replace("NAME", "VAL"), 1, 8)
                if width not in (1, 2, 4, 8):
                    raise self.damaged(f"BYTEPIX is {width}, expected 1, 2, 4 or 8")


def _headers(path: Path, file: Any, size: int) -> Iterator[_Header]:
    """The headers of a file, from HDU to HDU, as far as there are any."""
    number, at = 0, 0
    while at < size:
        file.seek(at)
        values: dict[str, str] = {}
        so_far = _Header(path, number, values, at)
        ended = False
        while not ended:
            block = file.read(_BLOCK)
            if not values and not block.startswith(b"XTENSION" if number else b"SIMPLE"):
                return  # what follows the last HDU is none
            for start in range(0, len(block), _CARD):
                card = block[start : start + _CARD]
                if _END.match(card.ljust(_CARD + 1)):
                    more = card[3:].strip(b"\0 ").decode("latin-1")
                    # at bytes that are not ASCII astropy reads on more slowly, and stops here
                    if more and card.isascii():
                        raise so_far.damaged(f"END is followed by {_shown(more)}, expected blanks")
                    ended = True
                    break
                match = _VALUE.match(card)
                if match is None:
                    if _NO_VALUE.match(card):
                        text = _shown(card[8:].decode("latin-1").strip())
                        name = _shown(card[:8].decode("latin-1").strip())
                        raise so_far.damaged(f"{name} is followed by {text}, expected =")
                    continue
                key, value = match[1].decode(), match[2].decode("latin-1").strip(" ")
                if key == "XTENSION" and match[3].strip():
                    text = _shown(card[9:].decode("latin-1").strip())
                    raise so_far.damaged(f"XTENSION is {text}, expected a comment after /")
                if values.setdefault(key, value) != value:
                    raise so_far.damaged(
                        f"{key} stands in it twice, as {_shown(values[key])} and {_shown(value)}"
                    )
            if len(block) < _BLOCK:
                raise ReadError(
                    f"{path}: truncated: it ends within the header of HDU {number}: fetch the file again"
                )
        header = _Header(path, number, values, file.tell())
        yield header
        number, at = number + 1, header.end()


def _width(form: re.Match[str]) -> int:
    n, kind = int(form[1] or 1), (form[2] or form[3]).upper()
    return -(-n // 8) if kind == "X" else n * _WIDTHS[kind]


def _float(number: str) -> float:
    return float(number.upper().replace("D", "E"))


def _product(axes: list[int]) -> int:
    return int(np.prod(np.array(axes, dtype=object))) if axes else 0


def _shown(text: str) -> str:
    """A value as the header has it, short, with whatever cannot be printed escaped."""
    short = text if len(text) <= 30 else text[:27] + "..."
    return short if short and short.isprintable() else repr(short)
