"""``specinn instruments``: the spectrographs that the plugins know."""

from __future__ import annotations

from typing import Annotated

import typer

from specinn.cli._options import AsJson, offered

EXAMPLES = ("specinn instruments", "specinn instruments uves", "specinn instruments uves --json")


def instruments(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="Name or TOML file; describes it.", autocompletion=offered("instrument")),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the instruments, or describe one."""
    from specinn.cli._console import plugins_of, print_json, print_rows

    plugins = plugins_of(ctx)
    if name is None:
        offers = plugins.offers("instrument")
        if as_json:
            fields = [(o.record.name, o.record.summary, o.distribution) for o in offers]
            print_json([dict(zip(("name", "summary", "distribution"), row, strict=True)) for row in fields])
        elif not offers:
            print("no instrument is installed")
        else:
            print_rows([(o.record.name, o.record.summary) for o in offers])
        return
    from specinn.instruments import Instrument  # numpy, which the list does without

    path = name if name.endswith(".toml") else plugins.record("instrument", name).toml
    instrument = Instrument.from_toml(path)
    if as_json:
        data = instrument.to_dict()
        del data["source"]
        print_json(data)
        return
    frame = f", {instrument.frame} where a file does not say" if instrument.frame else ""
    print(f"{instrument.name}: {instrument.summary}\nwavelengths in {instrument.medium}{frame}\n")
    rows = [("arm", "range [A]", "R", "pixels", "S/N windows [A]")]
    for arm in instrument.arms:
        windows = ", ".join(f"{low:g}-{high:g}" for low, high in arm.snr_windows) or "whole arm"
        pixels = str(arm.pixels.n) if arm.pixels is not None else "of the file"
        rows.append(
            (arm.name, f"{arm.range[0]:g}-{arm.range[1]:g}", str(arm.resolving_power), pixels, windows)
        )
    print_rows(rows)
    if instrument.note:
        print(f"\n{' '.join(instrument.note.split())}")
    if instrument.source:
        print(f"\nsource: {instrument.source}")
