"""A(Li) in 3D NLTE, from that in 1D LTE: a table made with breidablik (tools/make_lithium_correction.py)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from specinn.labels import Label

__all__ = ["LITHIUM", "correction", "lithium_columns"]

LITHIUM = Label(
    "a_li_3dnlte", "dex", (-0.5, 4.0), description="Lithium abundance A(Li) in 3D NLTE, from that in 1D LTE"
)
_NEEDED = ("teff", "logg", "fe_h", "a_li")
_ENDS = ("", "_median", "_p2_5", "_p16", "_p84", "_p97_5", "_upper")


@lru_cache(maxsize=1)
def _table() -> Any:
    """The interpolator, which is linear and NaN outside."""
    from scipy.interpolate import RegularGridInterpolator

    with resources.files("specinn.catalogue").joinpath("lithium_3d_nlte.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        values = np.where(stored["correction"] == stored["none"], np.nan, stored["correction"])
        axes = tuple(stored[name] for name in _NEEDED)
        return RegularGridInterpolator(axes, values * stored["unit"], bounds_error=False)


def correction(teff: Any, logg: Any, fe_h: Any, a_li: Any) -> np.ndarray:
    """A(Li) in 3D NLTE minus ``a_li``, that in 1D LTE from the line at 670.8 nm, in dex.

    Parameters
    ----------
    teff, logg, fe_h, a_li : array_like
        Teff in K, log g, [Fe/H] and A(Li), which are broadcast.

    Returns
    -------
    ndarray
        By Wang et al. (2021, MNRAS 500, 2159), interpolated by breidablik 1.5.1 at the nodes of a table, and
        linearly in between: to 0.008 dex in 95 % of cases. NaN outside the atmospheres, which reach from 4000
        to 7000 K (giants: 5000 K), 1.5 to 5 in log g, -4 to 0.5 in [Fe/H], and -0.5 to 4 in A(Li).

    Examples
    --------
    >>> correction([5772.0, 4700.0, 3900.0], [4.44, 2.5, 4.6], 0.0, [1.05, 3.0, 1.0]).round(2)
    array([-0.06, -0.33,   nan])
    """
    values = np.broadcast_arrays(*(np.asarray(v, float) for v in (teff, logg, fe_h, a_li)))
    out: np.ndarray = _table()(np.stack(values, axis=-1)).reshape(values[0].shape)
    return out


def lithium_columns(columns: Mapping[str, Any], which: str = "") -> dict[str, np.ndarray]:
    """The columns ``a_li_3dnlte``, ..., from those of A(Li) at the MAP of Teff, log g and [Fe/H].

    Percentiles and limits keep their meaning, because the result rises with A(Li); the standard deviation is
    scaled like the interval from the 16 to the 84 percentile. ``which`` follows the names of labels. Nothing
    where a label is missing; NaN outside the range of the table.
    """
    if not all(f"{name}{which}" in columns for name in _NEEDED):
        return {}
    teff, logg, fe_h = (columns[f"{name}{which}"] for name in _NEEDED[:3])
    lte, name = f"a_li{which}", f"{LITHIUM.name}{which}"
    values = np.stack([columns[f"{lte}{end}"] for end in _ENDS])
    corrected = values + correction(teff, logg, fe_h, values)
    out = {f"{name}{end}": one for end, one in zip(_ENDS, corrected, strict=True)}
    with np.errstate(invalid="ignore", divide="ignore"):
        before, after = (of[f"{x}_p84"] - of[f"{x}_p16"] for of, x in ((columns, lte), (out, name)))
        out[f"{name}_std"] = columns[f"{lte}_std"] * np.where(before > 0, after / before, 1.0)
    return out
