"""The posterior of the labels of stars: samples, their summary, and their display.

A :class:`Posterior` holds the samples of a batch of stars, with names and units in its labels; a
:class:`Summary` is what enters a catalogue.

>>> import numpy as np
>>> from specinn.labels import LabelSet, make_label
>>> from specinn.posterior import QUANTILES, Posterior
>>> labels = LabelSet([make_label("teff", (4000.0, 7000.0)), make_label("logg", (0.0, 5.0))])
>>> rng = np.random.default_rng(1)
>>> samples = np.stack([rng.normal(5772.0, 50.0, (1, 4000)), rng.normal(4.44, 0.05, (1, 4000))], axis=-1)
>>> posterior = Posterior(labels, samples, log_prob=np.zeros((1, 4000)), ids=["sun"])
>>> summary = posterior.summary()
>>> summary.std.shape, summary.quantiles.shape  # (n_spec, n_labels), (n_quantiles, n_spec, n_labels)
((1, 2), (6, 1, 2))
>>> median = summary.quantiles[list(QUANTILES).index("median")]
>>> bool(abs(median[0, 0] - 5772.0) < 3.0)
True
"""

from __future__ import annotations

from specinn.posterior.samples import Posterior
from specinn.posterior.summary import QUANTILES, Summary

__all__ = ["QUANTILES", "Posterior", "Summary"]
