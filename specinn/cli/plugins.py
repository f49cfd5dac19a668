"""``specinn plugins``: what the installed plugins offer, and which are broken."""

from __future__ import annotations

from typing import Annotated

import typer

from specinn.cli._options import AsJson

EXAMPLES = ("specinn plugins", "specinn plugins --failed", "specinn plugins --json")


def plugins(
    ctx: typer.Context,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that are broken, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what the plugins offer, or which are broken."""
    from specinn.cli._console import plugins_of, print_json, print_rows

    loaded = plugins_of(ctx, report=not failed)
    if failed:
        broken = loaded.failures
        if as_json:
            fields = ("plugin", "distribution", "reason", "details")
            print_json([{name: getattr(failure, name) for name in fields} for failure in broken])
        elif not broken:
            print("all plugins were loaded")
        for failure in [] if as_json else broken:
            print(f"{failure.plugin} of {failure.distribution}: {failure.reason}\n\n{failure.details}")
        return
    offers = loaded.offers()
    if as_json:
        print_json(
            [
                {"kind": o.kind, "name": o.record.name, "summary": o.record.summary, "plugin": o.plugin,
                 "distribution": o.distribution, "api_version": o.record.api_version}
                for o in offers
            ]
        )  # fmt: skip
    elif not offers:
        print("no plugin is installed")
    else:
        print_rows([(o.kind, o.record.name, o.distribution, o.record.summary) for o in offers])
