"""``specinn flags``: the bits of the catalogue's column ``flags``."""

from __future__ import annotations

from typing import Annotated

import typer

from specinn.cli._options import AsJson
from specinn.cli._options import flags as names

EXAMPLES = ("specinn flags", "specinn flags 4128", "specinn flags out_of_distribution")


def flags(
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="VALUE|NAME", help="A value of the column, or the name of a flag.", autocompletion=names
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain the flags of a catalogue, or those that a value sets."""
    from specinn.cli._console import print_json, print_rows
    from specinn.flags import FLAGS

    bits = None if value is None else _bits(value)
    chosen = [info for info in FLAGS if bits is None or bits & info.flag]
    named = [(int(info.flag), str(info.flag.name).lower(), info.severity, info.meaning) for info in chosen]
    if as_json:
        print_json([dict(zip(("value", "name", "severity", "meaning"), row, strict=True)) for row in named])
    elif not named:
        print("no flag is set")
    else:
        print_rows([(f"{bit:>6}", *rest) for bit, *rest in named])
        if value is None:
            print("\nflag_bad: a bad bit is set, the row has no values; flag_warn: a warn or bad bit is set")


def _bits(text: str) -> int:
    """The bits of a value of the column, or the one of a flag."""
    from specinn.cli._console import note
    from specinn.errors import ConfigError, near
    from specinn.flags import FLAGS, Flag

    by_name = {str(info.flag.name).lower(): int(info.flag) for info in FLAGS}
    all_bits = sum(by_name.values())
    if not text.isdecimal():
        flag = Flag.__members__.get(text.upper())
        if flag is not None and text.upper() != flag.name:
            note(f"the flag {text.lower()} is now called {str(flag.name).lower()}")
            return int(flag)
        if text.lower() not in by_name:
            raise ConfigError(
                f"{text!r} is neither a value of the column flags nor the name of a flag; "
                f"{near(text, by_name)}"
            )
        return by_name[text.lower()]
    if int(text) & ~all_bits:
        raise ConfigError(f"{text} has bits that this version does not know: its largest value is {all_bits}")
    return int(text)
