"""The callbacks that receive the progress of long work, and its failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Progress", "Report", "Watch"]

Report = Callable[[str, str], None]  # the name of a spectrum or file, and the sentence of its failure
Progress = Callable[[int, int], None]  # how many more spectra, and how many more files, are done


class Watch(Protocol):
    """Receives the progress of a run."""

    def start(self, files: int, done: int) -> None:
        """The number of files, and how many of them were done by an earlier run."""

    def report(self, name: str, message: str) -> None:
        """A spectrum or a file failed."""

    def progress(self, spectra: int, files: int) -> None:
        """More spectra and files are done; fewer, where a worker died."""

    def say(self, sentence: str) -> None:
        """Anything else the user should know."""
