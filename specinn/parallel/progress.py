"""The callbacks that receive the progress of long work, and its failures."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from specinn.errors import SpectrumWarning

__all__ = ["Progress", "Remark", "Report", "Watch", "remarks"]

Report = Callable[[str, str], None]  # the name of a spectrum or file, and the sentence of its failure
Progress = Callable[[int, int], None]  # how many more spectra, and how many more files, are done
Remark = Callable[[str], None]  # on a file that can be used: its name, a colon, and what was noticed


class Watch(Protocol):
    """Receives the progress of a run."""

    def start(self, files: int, done: int) -> None:
        """The number of files, and how many of them were done by an earlier run."""

    def report(self, name: str, message: str) -> None:
        """A spectrum or a file failed."""

    def progress(self, spectra: int, files: int) -> None:
        """More spectra and files are done; fewer, where a worker died."""

    def remark(self, text: str) -> None:
        """Something was noticed of a file that can be used: ``PATH: sentence``."""

    def say(self, sentence: str) -> None:
        """What else the user should know."""


@contextlib.contextmanager
def remarks(tell: Remark) -> Iterator[None]:
    """While it lasts, each ``SpectrumWarning`` of this process is told; others are shown as usual."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", SpectrumWarning)
        show = warnings.showwarning

        def heard(message: Warning | str, category: type[Warning], *others: Any) -> None:
            if issubclass(category, SpectrumWarning):
                tell(str(message))
            else:
                show(message, category, *others)

        warnings.showwarning = heard  # type: ignore[assignment]
        yield
