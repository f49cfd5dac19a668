"""The forms of ``specinn evaluate`` before it had commands below it, which still work."""

from __future__ import annotations

import shlex
from typing import Any

from specinn.cli._console import note
from specinn.cli._framework import Group
from specinn.errors import ConfigError

_KINDS = {"--robustness": "robustness", "--strangers": "ood", "--stars": "stars", "--grid": "grid"}
_SOURCES = {"robustness": "--stars", "ood": "--grid", "stars": "--stars", "grid": "--grid"}


class Evaluate(Group):
    """The commands; ``specinn evaluate MODEL --grid GRID.h5`` and the like are translated to them, and a line
    on standard error says so."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {word.partition("=")[0] for word in args}
        if args and args[0] not in self.commands and options & _KINDS.keys() and not ctx.resilient_parsing:
            args = replaced(args)
            note(f"this form has been replaced by: specinn evaluate {shlex.join(args)}")
        return super().parse_args(ctx, args)


def replaced(args: list[str]) -> list[str]:
    """The arguments of the command that replaces the former options. Raises ``ConfigError``."""
    sources: dict[str, list[str]] = {"--grid": [], "--stars": []}
    switches: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option in sources:
            sources[option].append(value if equals else next(words, ""))
        elif option in _KINDS:
            switches.append(option)
        else:
            rest.append(word)
    if sources["--grid"] and sources["--stars"]:
        raise ConfigError("choose what to evaluate the model on: either --grid GRID or --stars STARS.csv")
    kind = next(_KINDS[option] for option in (*switches, "--stars", "--grid") if sources.get(option, True))
    if not sources[_SOURCES[kind]]:
        needed = "for benchmark stars: give --stars STARS.csv"
        if kind == "ood":
            needed = "for spectra of a grid: give --grid GRID"
        raise ConfigError(f"{switches[0]} is {needed}")
    return [kind, *rest, *sources[_SOURCES[kind]]]
