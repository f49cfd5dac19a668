"""The exceptions that specinn raises on purpose; each message says what was found and what to do."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

__all__ = [
    "ConfigError",
    "GridError",
    "ModelError",
    "OutputError",
    "PluginError",
    "ReadError",
    "SpecinnError",
    "SpectrumWarning",
    "SynthesisError",
    "as_arguments",
    "in_python",
    "near",
    "nearest",
]

_BEGINNING = 3  # letters that suffice to recognise a name


class SpecinnError(Exception):
    """Base of every error that the user can fix; the command line prints it without a traceback."""


class ReadError(SpecinnError):
    """A file of spectra that cannot be read, or that holds no usable spectrum."""


class SpectrumWarning(UserWarning):
    """A usable spectrum in which something was not understood, was left out, or looks wrong."""


class GridError(SpecinnError):
    """A grid of synthetic spectra that is incomplete or inconsistent."""


class ConfigError(SpecinnError):
    """A TOML file or an option with a wrong value."""


class ModelError(SpecinnError):
    """A trained model that cannot be found, loaded or applied."""


class PluginError(SpecinnError):
    """A plugin that is missing, broken or in conflict with another."""


class OutputError(SpecinnError):
    """A result that cannot be written."""


class SynthesisError(SpecinnError):
    """A spectrum that a synthesis code did not compute, or a code that is not installed."""


_FLAGS = ("overwrite", "recursive", "resume", "synthetic")  # options without a value


@contextlib.contextmanager
def in_python() -> Iterator[None]:
    """Errors that name options of the command line name the arguments of Python instead."""
    try:
        yield
    except SpecinnError as error:
        text = str(error)
        if (translated := as_arguments(text)) == text:
            raise
        raise type(error)(translated) from error


def as_arguments(text: str) -> str:
    """The sentence ``text`` with ``--model FILE`` as ``model=FILE``, and ``--overwrite`` as
    ``overwrite=True``."""
    text = re.sub(r"--(\w+) \(\1=True\)", r"\1=True", text)

    def argument(match: re.Match[str]) -> str:
        name, value = match[1].replace("-", "_"), match[2]
        return f"{name}={value}" if value else f"{name}=True" if name in _FLAGS else name

    return re.sub(r"(?<![\w-])--([a-z][a-z-]*)(?: ([A-Z][A-Z]*(?:\.\w+)?)\b)?", argument, text)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that was probably meant, or None. Case is ignored; a beginning may suffice."""
    by_lower = {str(word).lower(): str(word) for word in reversed(list(names))}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    close += [word for word in by_lower if len(name) >= _BEGINNING and word.startswith(name.lower())]
    return by_lower[close[0]] if close else None


def near(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``did you mean 'teff'?``, or, of all known names, ``there
    are teff, logg``."""
    names = list(names)
    close = nearest(name, names)
    return f"did you mean {close!r}?" if close else f"there are {', '.join(names) or 'none'}"
