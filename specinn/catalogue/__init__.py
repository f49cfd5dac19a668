"""The catalogue, one row per spectrum: its columns, its files, the samples, and stars of several epochs."""

from __future__ import annotations

from specinn.catalogue.table import (
    MANIFEST,
    Field,
    build,
    check,
    is_folder,
    read,
    schema,
    summarise,
    write,
    write_rows,
)

__all__ = [
    "MANIFEST",
    "Field",
    "build",
    "check",
    "is_folder",
    "read",
    "schema",
    "summarise",
    "write",
    "write_rows",
]
