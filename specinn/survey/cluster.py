"""The shards of a survey on the workers of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specinn.errors import SpecinnError
from specinn.parallel.cluster import spread
from specinn.parallel.progress import Watch
from specinn.survey.manifest import Manifest
from specinn.survey.shards import compute_elsewhere

__all__ = ["compute_there", "task"]


def compute_there(
    manifest: Manifest,
    folder: Path,
    shards: Sequence[int],
    watch: Watch,
    *,
    scheduler: str | None = None,
    cluster: str | Path | None = None,
) -> None:
    """Do ``shards`` on the workers of a cluster that see the same files. Dask repeats what it loses.

    Raises ``SpecinnError`` for a scheduler that cannot be reached or vanishes, an error of a worker, and for
    a shard that kills its workers.
    """
    again = "what is done is kept, and the same command with --resume continues"
    there = spread(task, str(folder.resolve()), shards, scheduler=scheduler, cluster=cluster, again=again)
    with contextlib.closing(there) as answers:
        for shard, messages in answers:
            if messages is None:
                raise SpecinnError(
                    f"workers died one after another over {manifest.describe(shard)}, most likely because "
                    f"memory ran out: {again}, on workers with more memory"
                )
            for text in messages["remarks"]:
                watch.remark(text)
            for said in messages["reports"]:
                watch.report(*said)
            watch.progress(*messages["done"])


def task(folder: str, shard: int) -> dict[str, Any]:
    """The work of one worker of the cluster; returns its messages."""
    reports: list[tuple[str, str]] = []
    remarks: list[str] = []
    done = [0, 0]

    def progress(spectra: int, files: int) -> None:
        done[0] += spectra
        done[1] += files

    compute_elsewhere(folder, shard, lambda *said: reports.append(said), progress, remarks.append)
    return {"reports": reports, "remarks": remarks, "done": done}
