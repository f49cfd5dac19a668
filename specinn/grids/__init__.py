"""Grids of synthetic spectra: the file, its recipe, and how it is computed and degraded."""

from __future__ import annotations

from specinn.grids.grid import Grid, load

__all__ = ["Grid", "load"]
