"""The search for the best configuration of a training: Hyperband (Li et al. 2018, JMLR 18, 185) with Optuna.

A search is a folder: ``search.toml`` (complete), ``journal.log`` (its history, lines of JSON), ``claims``
(which process works on which trial), and a folder for every trial. Any number of processes, also on several
machines, may share it; a trial whose process died is resumed by the next free one.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from specinn.errors import ConfigError, OutputError, PluginError, SpecinnError
from specinn.files import write_error
from specinn.parallel.locks import Claim, Claims, Lock
from specinn.training.search import Search

if TYPE_CHECKING:
    from optuna import Study, Trial

    from specinn.plugins import Plugins

__all__ = [
    "FRUITLESS",
    "JOURNAL",
    "Report",
    "check_optuna",
    "fail",
    "open_study",
    "trial_folder",
    "trial_of",
    "work",
]

log = logging.getLogger(__name__)

Report = Callable[[int, str], None]  # the number of a trial, and what happened to it

JOURNAL = "journal.log"
FRUITLESS = 8  # trials that fail, before any that does not, end a process
_STUDY = "specinn"  # Optuna assigns trials to brackets by the name of the study and their number


def check_optuna() -> None:
    """Raises ``ConfigError`` where Optuna is missing or too old."""
    try:
        import optuna.storages.journal  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a search needs Optuna, version 4 or later ({error}): pip install 'specinn[tune]'"
        ) from None


def open_study(search: Search, folder: Path) -> Study:
    """The study in the folder's journal, made where it is missing. Raises ``ConfigError`` without Optuna."""
    check_optuna()
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder.resolve() / JOURNAL
    budget = search.budget
    # one step more than needed: the logarithm by which Optuna counts the brackets is inexact
    most = budget.first * budget.reduction ** (len(budget.brackets) - 1) + 1
    pruner = optuna.pruners.HyperbandPruner(budget.first, most, budget.reduction)
    try:
        backend = JournalFileBackend(str(path), _JournalLock(path))  # type: ignore[arg-type]
        storage = optuna.storages.JournalStorage(backend)
        if any(study.study_name == _STUDY for study in storage.get_all_studies()):  # nothing is written
            return optuna.load_study(study_name=_STUDY, storage=storage, pruner=pruner)
        return optuna.create_study(
            study_name=_STUDY, storage=storage, pruner=pruner, direction="minimize", load_if_exists=True
        )
    except OSError as error:
        raise write_error(path, error) from error


class _JournalLock(Lock):
    """Acquiring it removes a line that a killed process left unfinished."""

    def __init__(self, journal: Path) -> None:
        super().__init__(journal.with_name(f"{journal.name}.lock"))
        self.journal = journal

    def acquire(self) -> bool:
        super().acquire()
        with self.journal.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return True


def work(search: Search, folder: Path, plugins: Plugins, report: Report) -> None:
    """Try configurations until the search has all its trials. Raises ``SpecinnError`` where all fail."""
    train = plugins.trainer(search.what, search.kind)
    study = open_study(search, folder)
    _check_where(study, folder)
    worker = _Worker(search, folder, train, study, Claims(folder / "claims"), report)
    failed = 0
    while (chosen := worker.next()) is not None:
        trial, claim = chosen
        with claim:
            sentence = worker.attempt(trial, claim)
        failed = failed + 1 if sentence and failed >= 0 else -1
        if failed == FRUITLESS:
            raise SpecinnError(
                f"the first {FRUITLESS} trials of this process all failed, the last one because {sentence}: "
                f"fix the search or its recipe, and begin in a folder other than {folder}"
            )


def _check_where(study: Study, folder: Path) -> None:
    """Paths in recipes are relative to where the command runs, which machines may know by several names."""
    current = os.path.relpath(Path.cwd(), folder.resolve())
    then = study.user_attrs.get("began_in")
    if then is None:
        study.set_user_attr("began_in", current)
    elif then != current:
        began = os.path.normpath(folder.resolve() / then)
        raise ConfigError(
            f"the search in {folder} began in the folder {began}, to which the paths of its recipe are "
            "relative: run the command there"
        )


class _TakenOver(Exception):
    """Another machine took this process for dead and works on its trial."""


@attrs.frozen(eq=False)
class _Worker:
    search: Search
    folder: Path
    train: Callable[..., Any]
    study: Study
    claims: Claims
    report: Report

    def next(self) -> tuple[Trial, Claim] | None:
        """A trial whose process died, else a new one; None when there are enough."""
        from optuna.trial import TrialState

        running = TrialState.RUNNING
        while True:
            with self.claims.turn:
                for dead in self.study.get_trials(deepcopy=False, states=(running,)):
                    if (claim := self.claims.take(dead.number)) is not None:
                        if self.study.get_trials(deepcopy=False)[dead.number].state == running:
                            return trial_of(self.study, dead.number), claim
                        claim.release()  # it ended meanwhile
                if len(self.study.get_trials(deepcopy=False)) >= self.search.trials:
                    return None
                trial = self.study.ask()
                if (claim := self.claims.take(trial.number)) is not None:
                    return trial, claim

    def attempt(self, trial: Trial, claim: Claim) -> str:
        """Train one configuration, from its checkpoint if it has one. Returns the message of a failure."""
        import optuna
        from optuna.trial import TrialState

        number, budget = trial.number, self.search.budget
        self.study.sampler = self._sampler(number)
        values = {name: values.suggest(trial, name) for name, values in self.search.vary.items()}
        losses: dict[int, float] = dict(self.study.get_trials(deepcopy=False)[number].intermediate_values)
        folder = trial_folder(self.folder, number)
        words = ", ".join(f"{name} {_word(value)}" for name, value in values.items())
        self.report(number, f"resumes after step {max(losses)}" if losses else words)

        def progress(state: dict[str, Any]) -> None:
            loss = state.get("validation")
            if loss is None:
                return
            step = int(state["step"] if "step" in state else state["epoch"])
            if not claim.held:
                raise _TakenOver
            if not math.isfinite(loss):
                raise ConfigError(f"the validation loss is {loss} at step {step}")
            if step not in losses:
                losses[step] = float(loss)
                trial.report(losses[step], step)
            self.report(number, f"step {step} of {budget.steps}, validation {loss:.4g}")
            if step < budget.steps and trial.should_prune():
                raise optuna.TrialPruned

        sentence = ""
        try:
            table = self.search.recipe(values)[self.search.what]
            config = {key: value for key, value in table.items() if key != "kind"}
            again = folder.is_dir() and any(folder.iterdir())
            model = self.train(config, _made(folder), progress)
            if not losses and again:  # killed between its last checkpoint and its only report
                shutil.rmtree(folder)
                model = self.train(config, _made(folder), progress)
            if not losses:
                raise ConfigError(
                    f"the {self.search.what} {self.search.kind!r} reports no validation loss while it "
                    "trains, so there is nothing to compare"
                )
            model.save(folder / "model.safetensors")
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            self.report(number, f"stopped at step {max(losses)}")
        except _TakenOver:
            self.report(number, "is now trained by another machine")
            return ""
        except (OutputError, PluginError):
            raise  # not due to a bad configuration
        except Exception as error:
            log.debug("trial %d failed", number, exc_info=True)
            sentence = str(error) if isinstance(error, SpecinnError) else f"{type(error).__name__}: {error}"
            fail(self.study, number, sentence)
            self.report(number, f"failed: {sentence}")
        else:
            best = min(losses, key=lambda step: losses[step])
            self.study.tell(trial, losses[best])
            self.report(number, f"complete, validation {losses[best]:.4g} at step {best}")
            return ""
        shutil.rmtree(folder, ignore_errors=True)  # checkpoints are large
        return sentence

    def _sampler(self, number: int) -> Any:
        """A new one for every trial: processes with the same seed would all draw the same."""
        import optuna

        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        return kinds[self.search.sampler](seed=(self.search.seed * 1_000_003 + number) % 2**32)


def _made(folder: Path) -> Path:
    """The folder, without the unfinished files of a process that was killed: checkpoints are large."""
    try:
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*.partial*"):
            left.unlink()
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trial_folder(folder: Path, number: int) -> Path:
    """The folder of the checkpoint of a trial and, when it is complete, of its model."""
    return folder / f"trial-{number:04d}"


def trial_of(study: Study, number: int) -> Trial:
    """The trial of that number, to work on it."""
    import optuna

    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def fail(study: Study, number: int, sentence: str) -> None:
    """End a trial as one that failed. Optuna's sampler learns nothing from what Optuna calls failed, so a
    trial without any validation is one that was stopped before it: the worst."""
    from optuna.trial import TrialState

    trial = trial_of(study, number)
    trial.set_user_attr("message", sentence)
    seen = study.get_trials(deepcopy=False)[number].intermediate_values
    study.tell(number, state=TrialState.FAIL if seen else TrialState.PRUNED)
