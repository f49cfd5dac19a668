"""``specinn doctor``: what is there, what is missing, how to get it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from specinn.cli._options import AsJson

if TYPE_CHECKING:
    from specinn.doctor import Finding

EXAMPLES = ("specinn doctor", "specinn doctor --json > doctor.json    # to attach to a bug report")


def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what is installed, what is missing, and how to get it.

    Looks at versions, device, plugins, models, write access and synthesis codes. The status is 1 if something
    is broken; what is merely missing is optional.
    """
    import attrs

    from specinn.cli._console import plugins_of, print_json, print_rows
    from specinn.doctor import examine

    findings = examine(plugins_of(ctx, report=False))
    if as_json:
        print_json([attrs.asdict(finding) for finding in findings])
    else:
        group = ""
        rows = []
        for finding in findings:
            detail = f"{finding.detail}; {finding.remedy}" if finding.remedy else finding.detail
            rows.append(
                (finding.group if finding.group != group else "", finding.name, finding.state, detail)
            )
            group = finding.group
        print_rows(rows)
        print()
        print(_summary(findings))
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def _summary(findings: Sequence[Finding]) -> str:
    names = {
        state: ", ".join(finding.name or finding.group for finding in findings if finding.state == state)
        for state in ("broken", "missing")
    }
    lines = (
        [f"to be fixed: {names['broken']}"] if names["broken"] else ["everything that specinn needs is there"]
    )
    lines += [f"missing, but optional: {names['missing']}"] if names["missing"] else []
    return "\n".join(lines)
