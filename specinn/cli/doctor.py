"""``specinn doctor``: what is there, what is missing, how to get it."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at versions, device, plugins, models, write access and synthesis codes.

    Ends with status 1 if something is broken; what is merely missing is optional.
    """
    import attrs

    from specinn.cli.context import plugins_of, print_json, print_rows
    from specinn.doctor import examine

    findings = examine(plugins_of(ctx, report=False))
    if as_json:
        print_json([attrs.asdict(finding) for finding in findings])
    else:
        rows = []
        for finding in findings:
            detail = f"{finding.detail}; {finding.remedy}" if finding.remedy else finding.detail
            rows.append((finding.group, finding.name, finding.state, detail))
        print_rows(rows)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)
