"""Grids of synthetic spectra: the file, its recipe, and how it is computed and degraded.

A :class:`Grid` (:mod:`specinn.grids.grid`) holds labels, spectra and their provenance. It is read by
:func:`load` in any layout that a plugin knows, or computed: labels are drawn from a prior
(:mod:`specinn.grids.priors`) as a recipe says (:mod:`specinn.grids.recipe`), and a synthesizer turns them
into spectra (:mod:`specinn.grids.make`).

>>> from specinn.grids.priors import sobol
>>> sobol(2, 4, seed=0).shape  # numbers in [0, 1) that fill the space evenly: (n, dimensions)
(4, 2)
"""

from __future__ import annotations

from specinn.grids.grid import Grid, load

__all__ = ["Grid", "load"]
