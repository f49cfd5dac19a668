"""The contract of synthesizers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from specinn.plugins.interfaces import Synthesizer
from specinn.testing.rules import close, section

_require = section("synthesizers")


def check_synthesizer(
    synthesizer: Synthesizer, values: Any = None, differentiable: bool = False
) -> np.ndarray:
    """A synthesizer: shapes, finite flux, independence of spectra; for ``differentiable`` ones also
    gradients.

    ``values (n_spec, n_labels)`` default to three points inside the bounds. Returns the flux ``(n_spec,
    n_pix)``.
    """
    low, high = np.asarray(synthesizer.bounds, float).T
    _require(low.size == len(synthesizer.labels), "bounds and labels differ in length")
    _require((low < high).all(), "a lower bound is not below its upper one")
    wavelength = np.asarray(synthesizer.wavelength)
    _require((np.diff(wavelength) != 0).all() and (wavelength > 0).all(), "wavelengths repeat")
    _require(synthesizer.resolving_power > 1, f"resolving power is {synthesizer.resolving_power}")
    _require(synthesizer.medium in ("air", "vacuum"), f"medium is {synthesizer.medium!r}")
    try:
        json.dumps(dict(synthesizer.provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        _require(False, f"the provenance does not consist of JSON values ({error})")
    if values is None:
        values = low + np.linspace(0.35, 0.65, 3)[:, None] * (high - low)
    values = np.asarray(values, float)
    kept = values.copy()
    flux = np.asarray(synthesizer(values))
    _require(np.array_equal(values, kept), "the labels were changed")
    shape = (len(values), wavelength.size)
    _require(flux.shape == shape, f"flux has shape {flux.shape}: expected {shape}")
    _require(np.isfinite(flux).all(), "flux is not finite")
    _require((flux > -0.05).all() and flux.max() < 2, "flux is not normalised to the continuum")
    _require(flux.std(axis=1).min() > 0, "a spectrum has no lines")
    _require(close(np.asarray(synthesizer(values[:1])), flux[:1], 1e-5, 1e-6), "a spectrum alone differs")
    if differentiable:
        _check_gradient(synthesizer, values, flux)
    return flux


def _check_gradient(synthesizer: Synthesizer, values: np.ndarray, flux: np.ndarray) -> None:
    import torch

    tensor = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    out = synthesizer(tensor)
    _require(isinstance(out, torch.Tensor), "a tensor in did not give a tensor out")
    _require(close(out.detach().cpu().numpy(), flux, 1e-4, 1e-4), "torch and numpy give different flux")
    _require(out.requires_grad, "the flux has no gradient")
    out.std(dim=1).sum().backward()
    gradient = tensor.grad.numpy() if tensor.grad is not None else np.zeros(values.shape)
    _require(np.isfinite(gradient).all(), "a gradient is not finite")
    dead = [name for name, column in zip(synthesizer.labels, gradient.T, strict=True) if not column.any()]
    _require(not dead, f"the flux does not depend on {', '.join(dead)}")
