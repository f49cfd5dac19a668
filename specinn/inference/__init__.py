"""From spectra to results: sources, velocities, preprocessing, the model, corrections and flags.

The options of a run are a :class:`~specinn.inference.options.RunOptions`, which rejects every wrong value
with one sentence; :mod:`specinn.inference.sources` finds the spectra, :mod:`specinn.inference.run` puts the
parts together, and :mod:`specinn.inference.pipeline` takes a batch from the reader to the result.

>>> from specinn.inference.options import RunOptions
>>> options = RunOptions(instrument="uves", rv="12.2", samples=1024)
>>> options.rv, options.device
(12.2, 'cpu')
>>> RunOptions(samples=0)
Traceback (most recent call last):
    ...
specinn.errors.ConfigError: samples 0: ...
"""
