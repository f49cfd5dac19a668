"""What a run reports on standard error: failures as they occur, and its progress."""

from __future__ import annotations

import re
import time

import typer

from specinn.parallel.progress import remarks
from specinn.texts import plural

NAMED = 5  # of those with the same failure
_LONGEST = 160  # characters of a remark that is repeated
INTERVAL = 60.0  # seconds between lines where the output is not a terminal


class Watch:
    """A bar over the files (or another ``unit``) on a terminal, else one line per minute; with rate and time
    left either way. Ctrl-C ends the command with a sentence that says how to ``resume``, and status 130."""

    def __init__(self, quiet: bool, unit: str = "files", resume: str = "the same command resumes") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from specinn.cli._console import stderr_console

        self._console = stderr_console()
        self._quiet, self._unit, self._resume = quiet, unit, resume
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        show = not quiet and self._console.is_terminal
        self._bar = Progress(
            *bar, TextColumn("{task.fields[left]}"), console=self._console, transient=True, disable=not show
        )
        self._task = self._bar.add_task("reading", total=None, left="")
        self._total = self._earlier = self._files = self._spectra = 0
        self._began = self._told = time.monotonic()
        self._said: str | None = None
        self._again: list[str] = []
        self._remarks: dict[str, tuple[str, dict[str, None]]] = {}
        self._listening = remarks(self.remark)

    def __enter__(self) -> Watch:
        self._listening.__enter__()
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._listening.__exit__(None, None, None)
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        if stopped:
            self.say(f"stopped; {self._resume}")
        self._repeat()
        for sentence, files in self._remarks.values():
            if len(files) > 1:
                what = sentence if len(sentence) <= _LONGEST else sentence[: _LONGEST - 3] + "..."
                more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
                self.say(f"{len(files)} files: {what} ({', '.join(list(files)[:NAMED])}{more})")
        self._bar.stop()
        if stopped:
            raise typer.Exit(130) from None

    def remark(self, text: str) -> None:
        """Say a remark on a file once, and at the end of how many files it holds: numbers apart."""
        path, _, sentence = text.partition(": ")
        if not sentence:
            path, sentence = "", path
        _, files = self._remarks.setdefault(re.sub(r"\d+(\.\d+)?", "N", sentence), (sentence, {}))
        if not files:
            self.say(text)
        files[path] = None  # once, though a worker that died may have told it before

    def start(self, files: int, done: int) -> None:
        """The number of files, and how many of them an earlier run did."""
        self._total, self._earlier = files, done
        self._began = self._told = time.monotonic()
        self._bar.update(self._task, total=files, completed=done)
        if done and not self._quiet:
            self.say(f"{done} of {files} {self._unit} are already done")

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        from specinn.texts import shown

        self._console.print(f"specinn: {shown(sentence)}", markup=False, highlight=False, soft_wrap=True)

    def report(self, name: str, message: str) -> None:
        """Print a failure; further ones with the same message are counted, and named together."""
        if message != self._said:
            self._repeat()
            self._said = message
            self.say(message if name in message else f"{name}: {message}")
        else:
            self._again.append(name)

    def _repeat(self) -> None:
        """Print which others failed as the last one that was printed."""
        names, self._again = list(dict.fromkeys(self._again)), []
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            self.say(f"the same holds for {len(names)} more: {', '.join(names[:NAMED])}{more}")

    def progress(self, spectra: int, files: int) -> None:
        """Count spectra and files that are done."""
        self._spectra += spectra
        self._files += files
        now = time.monotonic()
        if self._bar.disable:
            if not self._quiet and now - self._told >= INTERVAL:
                self._told = now
                done = self._earlier + self._files
                self.say(f"{self._rate(now)}, {done} of {self._total} {self._unit}{self._left(now)}")
            return
        self._bar.update(
            self._task,
            completed=self._earlier + self._files,
            description=self._rate(now),
            left=self._left(now).removeprefix(", "),
        )

    def _rate(self, now: float) -> str:
        rate = self._spectra / max(now - self._began, 1e-3)
        return f"{plural(self._spectra, 'spectrum', 'spectra')}, {rate:.3g} per second"

    def _left(self, now: float) -> str:
        """The time left at the rate of files so far; nothing before the first is done."""
        if self._files < 1:
            return ""
        seconds = (now - self._began) / self._files * (self._total - self._earlier - self._files)
        hours, minutes = divmod(round(seconds / 60), 60)
        return f", {hours} h {minutes:02d} min left" if seconds >= 60 else f", {seconds:.0f} s left"
