"""``specinn flags``: the bits of the catalogue's column ``flags``."""

from __future__ import annotations

from typing import Annotated

import typer


def flags(
    value: Annotated[
        int | None, typer.Argument(help="A value of the column, to see which bits are set.", min=0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain the bits of the column flags of a catalogue, or those that one value sets."""
    from specinn.cli.context import print_json, print_rows
    from specinn.errors import ConfigError
    from specinn.flags import FLAGS

    known = sum(info.flag for info in FLAGS)
    if value is not None and value & ~int(known):
        raise ConfigError(f"{value} has bits that this version does not know: they end at {known}")
    chosen = [info for info in FLAGS if value is None or value & info.flag]
    named = [(int(info.flag), str(info.flag.name).lower(), info.severity, info.meaning) for info in chosen]
    if as_json:
        print_json([dict(zip(("value", "name", "severity", "meaning"), row, strict=True)) for row in named])
    elif not named:
        print("no flag is set")
    else:
        print_rows([(f"{bit:>6}", *rest) for bit, *rest in named])
        if value is None:
            print("\nflag_bad: a bad bit is set, the row has no values; flag_warn: a warn or bad bit is set")
