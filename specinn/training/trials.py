"""The results of a search: one row per trial, their table, and the best recipe."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.files import replacing
from specinn.training import recipe as recipes
from specinn.training.search import Search
from specinn.training.tuning import open_study, trial_folder

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["BEST", "TABLE", "best", "checkpoints", "counts", "found", "table", "write"]

TABLE, BEST = "trials.ecsv", "best.toml"

_STATES = {
    "COMPLETE": "complete",
    "PRUNED": "stopped",
    "RUNNING": "running",
    "WAITING": "waiting",
    "FAIL": "failed",
}  # by Optuna's names, in the order of the table
_COLUMNS = {
    "trial": "Number of the trial, as in the name of its folder",
    "state": "complete, stopped early, running (or interrupted, and taken up again), failed",
    "validation": "Lowest validation loss so far",
    "step": "Step of the last validation",
}


def found(search: Search, folder: Path) -> list[dict[str, Any]]:
    """A row for every trial, the best first: complete ones by their loss, then the most advanced."""
    rows = []
    for trial in open_study(search, folder).get_trials(deepcopy=False):
        losses = trial.intermediate_values
        rows.append(
            {
                "trial": trial.number,
                "state": "failed" if "message" in trial.user_attrs else _STATES[trial.state.name],
                "validation": min(losses.values(), default=None),
                "step": max(losses, default=None),
                "values": {name: key.value(trial.params.get(name)) for name, key in search.vary.items()},
                "message": trial.user_attrs.get("message", ""),
            }
        )
    order = list(_STATES.values())

    def rank(row: Mapping[str, Any]) -> tuple[Any, ...]:
        far = 0 if row["state"] == "complete" else -(row["step"] or 0)
        loss = np.inf if row["validation"] is None else row["validation"]
        return order.index(row["state"]), far, loss, row["trial"]

    return sorted(rows, key=rank)


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The complete trial with the lowest loss, if one is complete."""
    return rows[0] if rows and rows[0]["state"] == "complete" else None


def write(search: Search, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``trials.ecsv`` and, where a trial is complete, ``best.toml``: each whole or not at all."""
    with replacing(folder / TABLE) as temporary:
        table(search, rows).write(temporary, format="ascii.ecsv")
    if (winner := best(rows)) is None:
        return
    text = (
        f"Trial {winner['trial']} of a search with specinn tune, validation loss {winner['validation']:.6g}."
    )
    recipe = recipes.to_toml(search.recipe(winner["values"]), text)
    with replacing(folder / BEST) as temporary:
        temporary.write_text(recipe, encoding="utf-8")


def table(search: Search, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as a table, one column for every key that varies."""
    from astropy.table import MaskedColumn, Table

    out = Table(meta={"kind": search.kind, "steps": search.budget.steps, "sampler": search.sampler})
    columns = {name: ([row[name] for row in rows], text) for name, text in _COLUMNS.items()}
    for name in search.vary:
        columns[name] = [row["values"][name] for row in rows], "Key of the recipe"
    columns["message"] = [row["message"] or None for row in rows], "Why it failed"
    for name, (values, text) in columns.items():
        kinds = {type(value) for value in values if value is not None}
        if not kinds <= {int, float} and kinds not in ({str}, {bool}):  # lists, and choices of many kinds
            values = [None if value is None else json.dumps(value) for value in values]
            kinds = {str}
        kind: Any = next(iter(kinds), str) if len(kinds) < 2 else float
        filled = np.array([kind() if value is None else value for value in values], dtype=kind)
        out[name] = MaskedColumn(filled, mask=[value is None for value in values], description=text)
    return out


def counts(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many trials are in which state, in words."""
    number = Counter(row["state"] for row in rows)
    words = [f"{number[state]} {state}" for state in _STATES.values() if number[state]]
    trials = "1 trial" if len(rows) == 1 else f"{len(rows)} trials"
    return trials + (f": {', '.join(words)}" if words else "")


def checkpoints(folder: Path, row: Mapping[str, Any]) -> Path:
    """The folder of the checkpoint and model of the trial in a row."""
    return trial_folder(folder, row["trial"])
