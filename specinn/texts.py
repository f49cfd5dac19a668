"""Text from outside (file names, headers, tables), made safe for files and terminals."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["in_json", "native", "path_of", "plural", "portable", "shown"]

# C0 and C1 controls, which a terminal obeys and XML forbids; bytes that are not UTF-8, which Python holds as
# lone surrogates; the marks that reverse the direction of a line; what XML does not allow besides
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})")


def portable(text: str) -> str:
    """The text in UTF-8 without control characters: those, and bytes of a file name that are not UTF-8,
    become escapes such as ``\\x1b`` and ``\\udce9``. :func:`native` is the way back."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def native(text: str) -> str:
    """The text that :func:`portable` made portable."""
    return _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text)


def path_of(text: str) -> Path:
    """The file that a catalogue names: as it is written there, or by the name before :func:`portable`."""
    path = Path(text)
    if "\\" in text and not path.exists():
        return Path(native(text))
    return path


def shown(text: str) -> str:
    """The text for a terminal: as :func:`portable`, but lines and tabs stay."""
    return (
        "".join(c if c in "\n\t" else _UNSAFE.sub(_escape, c) for c in text) if _UNSAFE.search(text) else text
    )


def in_json(text: str) -> str:
    """The JSON ``text`` with escapes for what JSON may hold and a terminal obeys or cannot print."""
    return _UNSAFE.sub(lambda c: "\n" if c[0] == "\n" else f"\\u{ord(c[0]):04x}", text)


def plural(n: int, one: str, many: str = "") -> str:
    """``1 spectrum``, ``2 files``: a count with its noun, whose plural is formed with s unless ``many`` gives
    it."""
    return f"{n} {one if n == 1 else many or one + 's'}"
