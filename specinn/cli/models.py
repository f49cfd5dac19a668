"""``specinn models``: the trained models, and the card of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from specinn.cli._options import AsJson, ModelNameOrNone

if TYPE_CHECKING:
    from specinn.models import Model

_SHOWN = (
    "format",
    "version",
    "name",
    "estimator",
    "labels",
    "instrument",
    "preprocessing",
)  # not as plain values


EXAMPLES = ("specinn models", "specinn models 4most-hr", "specinn models my-model.safetensors --json")


def models(ctx: typer.Context, name: ModelNameOrNone = None, as_json: AsJson = False) -> None:
    """List the trained models, or print the card of one.

    The card has the physics, the labels with their bounds, and the errors of the model.
    """
    from specinn import models
    from specinn.cli._console import plugins_of, print_json, print_rows

    plugins = plugins_of(ctx)
    if name is not None:
        model = models.find(plugins, name)
        if as_json:
            print_json(
                {**model.header, "path": str(model.path), "bytes": model.size, "sha256": model.sha256()}
            )
        else:
            _card(model)
        return
    available = models.installed(plugins)
    if as_json:
        print_json([_summary(model) for model in available])
    elif not available:
        print("no model is installed; use a file with specinn run --model FILE.safetensors")
    else:
        rows = [("name", "estimator", "instrument", "arms", "size", "labels")]
        for model in available:
            names = " ".join(label["name"] for label in model.labels)
            size = f"{model.size / 1e6:.1f} MB"
            rows.append((model.name, model.estimator, model.instrument, "+".join(model.arms), size, names))
        print_rows(rows)


def _summary(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "estimator": model.estimator,
        "instrument": model.instrument,
        "arms": model.arms,
        "labels": [label["name"] for label in model.labels],
        "path": str(Path(model.path)),
        "bytes": model.size,
        "sha256": model.sha256(),
    }


def _card(model: Model) -> None:
    """Everything that the header says, the known parts first and in the field's own layout."""
    from specinn.cli._console import echo, print_rows

    header = model.header
    echo(f"{model.name}, run by the estimator {model.estimator}")
    echo(f"{model.path}, {model.size / 1e6:.1f} MB, SHA-256 {model.sha256()}")
    print("\nlabels, with the bounds of the training set")
    rows: list[tuple[str, ...]] = []
    for label in model.labels:
        low, high = label["bounds"]
        scale = "as log10" if label.get("transform") == "log10" else ""
        rows.append(
            (label["name"], f"{low:g} to {high:g}", label["unit"], scale, label.get("description", ""))
        )
    print_rows(rows, "  ")
    instrument = header.get("instrument", {})
    echo(f"\ninstrument: {model.instrument}, wavelengths in {instrument.get('medium', 'air')}")
    rows = []
    for arm in instrument.get("arms", []):
        power = arm.get("resolving_power", "")
        text = f"R {power:g}" if isinstance(power, (int, float)) else f"R {power[0][1]:g} to {power[-1][1]:g}"
        rows.append((str(arm["name"]), f"{arm['range'][0]:g}-{arm['range'][1]:g} A", text))
    print_rows(rows, "  ")
    steps = [
        step[0] if isinstance(step, (list, tuple)) else str(step) for step in header.get("preprocessing", [])
    ]
    if steps:
        echo(f"\npreprocessing: {', '.join(steps)}")
    for key, value in header.items():
        if key not in _SHOWN:
            _section(key, value)


def _section(title: str, value: Any, indent: str = "") -> None:
    """A part of the header: mappings with one set of keys as a table, the rest as key and value."""
    from specinn.cli._console import echo, print_rows

    heading = f"{indent}{title.replace('_', ' ')}"
    if not isinstance(value, Mapping):
        echo(f"\n{heading}: {_text(value)}" if not indent else f"{heading}: {_text(value)}")
        return
    if not value:
        return
    echo(f"\n{heading}" if not indent else heading)
    indent += "  "
    inner = list(value.values())
    if len(inner) > 1 and all(
        isinstance(v, Mapping) and list(v) == list(inner[0]) and _flat(v) for v in inner
    ):
        rows = [("", *(str(column) for column in inner[0]))]
        rows += [(str(name), *(_text(cell) for cell in row.values())) for name, row in value.items()]
        print_rows(rows, indent)
        return
    plain = [(str(k).replace("_", " "), _text(v)) for k, v in value.items() if not isinstance(v, Mapping)]
    print_rows(plain, indent)
    for key, part in value.items():
        if isinstance(part, Mapping):
            _section(str(key), part, indent)


def _flat(mapping: Mapping[str, Any]) -> bool:
    return bool(mapping) and not any(isinstance(cell, Mapping) for cell in mapping.values())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)
