"""``specinn evaluate``: how good a model is, on grid spectra and on benchmark stars, and how robust."""

from __future__ import annotations

import typer

from specinn.cli._framework import add
from specinn.cli.evaluate import emulator, grid, ood, robustness, stars
from specinn.cli.evaluate._former import Evaluate

app = typer.Typer(cls=Evaluate, rich_markup_mode=None, help="Measure how good a model is, and how robust.")

for _module in (grid, stars, robustness, ood, emulator):
    _name = _module.__name__.rpartition(".")[2]
    add(app, _name, getattr(_module, _name), _module.EXAMPLES)
