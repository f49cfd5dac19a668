"""The catalogue, one row per spectrum: its columns, its files, the samples, and stars of several epochs.

:mod:`specinn.catalogue.schema` has the columns, :mod:`specinn.catalogue.table` builds tables of them, and
:mod:`specinn.catalogue.files` writes and reads these in the formats of :mod:`specinn.catalogue.formats`.
:mod:`specinn.catalogue.samples` holds posterior samples beside them, and :mod:`specinn.catalogue.combine`
makes one row of several spectra of a star.

>>> from specinn import catalogue
>>> from specinn.labels import LabelSet, make_label
>>> fields = catalogue.schema(LabelSet([make_label("teff", (4000.0, 7000.0))]), arms=["green", "red"])
>>> [(field.name, field.unit) for field in fields if field.name.startswith("teff")][:3]
[('teff', 'K'), ('teff_median', 'K'), ('teff_p2_5', 'K')]
"""

from __future__ import annotations

from specinn.catalogue.files import MANIFEST, check, is_folder, read, write, write_rows
from specinn.catalogue.schema import CARRIED, Field, schema
from specinn.catalogue.table import build, summarise

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
