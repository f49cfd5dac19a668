"""What steps record about spectra: the table ``meta``, copied only when it changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table

from specinn.flags import flags_of


def with_columns(meta: Table, flags: np.ndarray, **columns: Any) -> Table:
    """``meta`` with these flags and columns; the same table where nothing changes, as is the rule for flags
    (a copy takes a millisecond, as much as all the pixels of a spectrum)."""
    if not columns and "flags" in meta.colnames and np.array_equal(flags, flags_of(meta)):
        return meta
    out = meta.copy()
    out["flags"] = flags
    for name, values in columns.items():
        out[name] = values
    return out
