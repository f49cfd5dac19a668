"""From model spectra to observed ones: rotation, resolution, noise, and other disturbances of a spectrum.

An :class:`~specinn.simulation.observer.Observer` broadens model spectra and puts them on an instrument's
pixels, :class:`~specinn.simulation.observer.Noise` disturbs them as
:class:`~specinn.simulation.observer.Disturbances` say; :mod:`specinn.simulation.mock_survey` makes whole
files of them.

The transform of the profile of a rotating disc, by which spectra are multiplied in Fourier space:

>>> import torch
>>> from specinn.simulation.observer import rotation_transfer
>>> rotation_transfer(torch.tensor([0.0, 0.005, 0.01]), vbroad=torch.tensor([50.0])).round(decimals=2)
tensor([[1.0000, 0.7500, 0.2400]])
"""
