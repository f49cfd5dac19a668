"""The catalogue, one row per spectrum: its columns, its files, the samples, and stars of several epochs."""

from __future__ import annotations

from specinn.catalogue.table import (
    CARRIED,
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
    "CARRIED",
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
