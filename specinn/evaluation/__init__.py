"""How good a model is: on spectra of a grid, on benchmark stars, and on spectra out of distribution.

On a grid the truth is known: :mod:`specinn.evaluation.comparison` compares,
:mod:`specinn.evaluation.coverage` asks whether the truth lies where posteriors say,
:mod:`specinn.evaluation.information` how well anybody could do. On benchmark stars:
:mod:`specinn.evaluation.stars`, :mod:`specinn.evaluation.robustness` and
:mod:`specinn.evaluation.corrections`. :mod:`specinn.evaluation.saliency` asks which pixels decide.

Posteriors that are too narrow by a fifth, seen in the ranks of the truth among their samples:

>>> import numpy as np
>>> from specinn.evaluation.coverage import points_for, ranks, uniformity
>>> rng = np.random.default_rng(0)
>>> centre = rng.normal(size=(1000, 1, 1))
>>> def chance(width):
...     samples = centre + width * rng.normal(size=(1000, 500, 1))
...     truth = centre[:, 0] + rng.normal(size=(1000, 1))
...     u = ranks(samples, truth, rng.random((1000, 1)))[:, 0]
...     return uniformity(u, points_for(1000))
>>> bool(chance(1.0) > 0.01), bool(chance(0.8) > 0.01)
(True, False)
"""
