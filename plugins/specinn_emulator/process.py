"""The emulator of windows: a Gaussian process in each, from labels to the cube root of the optical depth.

A plain network needs far more spectra than a grid has, since it must learn what is known beforehand. Here

* carbon, nitrogen and oxygen enter as what CO and N2 leave free (:func:`inputs`): where C/O nears 1, spectra
  of cool stars change abruptly with the abundances, and smoothly with these;
* the process gives ``z = (0.003 - ln flux)^(1/3)``, in which weak and saturated lines are nearly linear in
  the inputs, and flux is never negative;
* most of what an element does is quadratic in its logarithmic abundance, with coefficients that vary from
  star to star as smoothly as the spectra do (:class:`Process`);
* a window of some 50 Angstrom has lines of few elements, and its process learns of which.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement, pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from scipy.sparse import coo_array

from specinn.plugins import ModelError, Synthesizer, fitting, save_weights

from .header import header_of, physics_of, spectra_of
from .labels import features, refuse_beyond

__all__ = [
    "Process",
    "ProcessEmulator",
    "Window",
    "elements_of",
    "flux_of",
    "inputs",
    "root_of",
    "windows_of",
    "with_products",
]

_WEAK = 0.003  # optical depth below which z is linear in it
# Layers in which molecules form: temperature in units of Teff, log10 of the gas pressure relative to that of
# the photosphere.
_LAYERS = ((0.88, 0.0), (0.75, -0.8))
_SOLAR = {"c_fe": 8.56, "n_fe": 7.98, "o_fe": 8.77}  # Magg et al. (2022)
# log10 of the dissociation constants in dyn cm-2 as polynomials in 5040 K / T: Tsuji (1973, A&A 23, 411).
_CO = (13.820, -11.795, -0.17222, 0.022888, -0.0011349)
_N2 = (13.590, -10.585, 0.22067, -0.029997, 0.0014993)

_PARAMETERS = ("teff", "logg", "fe_h", "vmic")  # whose products are inputs, too

_BATCH = 64  # stars at a time, whose covariances stay in the cache of a processor
_LEADING = 16  # components of a window that a file holds as float16, the others as int8
_PARTS = (
    "mixing",
    "amplitude",
    "slopes",
    "rest",
    "weights",
    "mean",
)  # of a window in a file, beside its basis


def inputs(values: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """``(n, n_inputs)`` of labels ``(n, n_labels)``: 5040 K / Teff, [X/H], and for C, N and O, where all are
    labels, the logarithms of the free atoms per hydrogen atom in two layers in their place and at the end."""
    columns = list(features(values, names).unbind(-1))
    if {"logg", *_SOLAR} <= set(names):
        for k, layer in enumerate(_LAYERS):
            for name, column in _free_atoms(values, names, *layer).items():
                if k == 0:
                    columns[names.index(name)] = column
                else:
                    columns.append(column)
    return torch.stack(columns, dim=-1)


def _free_atoms(
    values: torch.Tensor, names: tuple[str, ...], temperature: float, depth: float
) -> dict[str, torch.Tensor]:
    """log10 of the atoms of C, N and O per hydrogen atom that are not in CO and N2, by label."""
    value = {name: values[..., names.index(name)].double() for name in ("teff", "logg", "fe_h", *_SOLAR)}
    theta = 5040.0 / (temperature * value["teff"])
    # the gas pressure of the photosphere: 3.5e4 dyn cm-2 in the Sun, and how MARCS models scale
    pressure = 4.55 + depth + 0.6 * (value["logg"] - 4.44) - 0.35 * value["fe_h"]
    carbon, nitrogen, oxygen = (
        10 ** (solar - 12 + value[name] + value["fe_h"] + pressure) for name, solar in _SOLAR.items()
    )
    co, n2 = (10 ** sum(c * theta**k for k, c in enumerate(constants)) for constants in (_CO, _N2))

    def free(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        excess = other - one + co
        root = (excess.square() + 4 * co * one).sqrt()
        return torch.where(excess > 0, 2 * co * one / (excess.abs() + root), (root + excess.abs()) / 2)

    free_nitrogen = 2 * nitrogen / (1 + (1 + 8 * nitrogen / n2).sqrt())
    atoms = (free(carbon, oxygen), free_nitrogen, free(oxygen, carbon))
    return {
        name: (part.log10() - pressure).to(values.dtype) for name, part in zip(_SOLAR, atoms, strict=True)
    }


def with_products(x: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """Standardised inputs ``(n, n_inputs)``, then the products of each two of those of the atmosphere, then
    ``(x^2 - 1) / 2`` of the others, the abundances."""
    products = [x[:, i] * x[:, j] for i, j in _pairs(names)]
    squares = 0.5 * (x[:, _abundances(names, x.shape[1])].square() - 1.0)
    return torch.cat([x, torch.stack(products, dim=1), squares], dim=1)


def _pairs(names: tuple[str, ...]) -> list[tuple[int, int]]:
    return list(combinations_with_replacement([names.index(n) for n in _PARAMETERS if n in names], 2))


def _abundances(names: tuple[str, ...], n_inputs: int) -> list[int]:
    return [i for i in range(n_inputs) if (i, i) not in _pairs(names)]


def elements_of(names: tuple[str, ...], n_inputs: int) -> torch.Tensor:
    """1 for the columns of :func:`with_products` of ``n_inputs`` that are abundances or their squares."""
    squares = _abundances(names, n_inputs)
    out = torch.zeros(n_inputs + len(_pairs(names)) + len(squares), dtype=torch.float64)
    out[squares] = 1.0
    out[len(out) - len(squares) :] = 1.0
    return out


def root_of(flux: torch.Tensor) -> torch.Tensor:
    """``z`` of flux, which is positive."""
    return (_WEAK - flux.clamp(1e-6, 1.0).log()) ** (1 / 3)


def flux_of(z: torch.Tensor) -> torch.Tensor:
    """Flux of any ``z``: above 0, at most 1."""
    return (_WEAK - z * z.square()).clamp(max=0.0).exp()


@attrs.define(eq=False)
class Process:
    """The covariance of two stars with inputs ``a`` and ``b (n_inputs,)``:

        scale(a) scale(b) [(1 + (a * slopes) . (b * slopes)) c_0 + rest c_1],
        scale(a) = exp(a . amplitude),

    ``c_k = exp(-|a M_k - b M_k|^2 / 2)`` with the matrices ``M`` of ``mixing (2, n_smooth, n_smooth)``,
    ``amplitude (n_smooth,)``, ``slopes (n_inputs,)``, and the number ``rest``. All but the slopes leave
    out the squares of abundances, which come last and which older files do not have.
    """

    mixing: torch.Tensor
    amplitude: torch.Tensor
    slopes: torch.Tensor
    rest: torch.Tensor

    def covariance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """``(n_a, n_b)``."""
        return self.scale(a)[:, None] * self.scale(b) * self.likeness(self.placed(a), self.placed(b))

    def scale(self, a: torch.Tensor) -> torch.Tensor:
        """``(n_a,)``."""
        return (a[:, : self.amplitude.numel()] @ self.amplitude).exp()

    def placed(self, a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What :meth:`likeness` takes of stars: ``a M_0``, ``a M_1`` and ``a * slopes``."""
        smooth = a[:, : self.mixing.shape[1]]
        return smooth @ self.mixing[0], smooth @ self.mixing[1], a[:, : self.slopes.numel()] * self.slopes

    def likeness(self, left: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The brackets ``(n_a, n_b)`` of stars that were placed."""
        smooth, rest = (_gaussian(a, b) for a, b in zip(left[:2], right[:2], strict=True))
        return (1.0 + left[2] @ right[2].T) * smooth + self.rest * rest

    def to(self, device: str) -> Process:
        parts = {name: getattr(self, name).to(device) for name in ("mixing", "amplitude", "slopes", "rest")}
        return Process(**parts)


def _gaussian(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    exponent = torch.addmm(-0.5 * right.square().sum(1), left, right.T)
    return (exponent - 0.5 * left.square().sum(1)[:, None]).clamp(max=0.0).exp()


@attrs.define(eq=False)
class Window:
    """``z = mean (n_pix,) + scale(x) likeness(x, anchors) @ weights (n_train, n_components) @ basis``.

    ``anchors`` are the training stars as the process places them. All but ``mean`` and ``basis`` is float64,
    since the sums are much smaller than their terms.
    """

    pixels: slice
    process: Process
    anchors: tuple[torch.Tensor, ...]
    weights: torch.Tensor
    mean: torch.Tensor
    basis: torch.Tensor

    @classmethod
    def of(cls, parts: Mapping[str, torch.Tensor], stars: torch.Tensor, pixels: slice) -> Window:
        """From the tensors of a file or a checkpoint, and the training stars ``(n_train, n_inputs)``."""
        process = Process(*(parts[name].double() for name in ("mixing", "amplitude", "slopes", "rest")))
        return cls(
            pixels, process, process.placed(stars), parts["weights"].double(), parts["mean"], parts["basis"]
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Flux ``(n, n_pix)`` for inputs ``x (n, n_inputs)``."""
        likeness = self.process.likeness(self.process.placed(x), self.anchors)
        coefficients = self.process.scale(x)[:, None] * (likeness @ self.weights)
        return flux_of(torch.addmm(self.mean, coefficients.to(self.mean.dtype), self.basis))

    def to(self, device: str) -> Window:
        names = ("process", "weights", "mean", "basis")
        moved = {name: getattr(self, name).to(device) for name in names}
        return attrs.evolve(self, anchors=tuple(each.to(device) for each in self.anchors), **moved)


@attrs.define(eq=False)
class ProcessEmulator(Synthesizer):
    """Windows of all arms, their training stars ``(n_train, n_inputs)``, and the ``center`` and ``spread``
    by which inputs are standardised; ``operator``, if any, is applied to flux (see :meth:`resampled`).

    Labels beyond ``bounds`` raise ``ModelError``.
    """

    differentiable = True

    labels: tuple[str, ...]
    bounds: np.ndarray
    wavelength: np.ndarray
    arms: dict[str, slice]
    resolving_power: float
    medium: str
    center: torch.Tensor
    spread: torch.Tensor
    stars: torch.Tensor
    windows: tuple[Window, ...]
    header: dict[str, Any]
    operator: torch.Tensor | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The physics of the grid that it was trained on."""
        return physics_of(self.header)

    def __call__(self, labels: Any) -> Any:
        """Flux ``(n, n_pix)`` of physical labels ``(n, n_labels)``; tensors for tensors, else numpy."""
        if not torch.is_tensor(labels):
            with torch.no_grad():
                return self(torch.as_tensor(np.asarray(labels), dtype=torch.float32)).cpu().numpy()
        refuse_beyond(self.bounds, self.labels, labels)
        x = (inputs(labels.to(self.center), self.labels) - self.center) / self.spread
        x = with_products(x, self.labels)
        flux = torch.cat(
            [torch.cat([window(part) for window in self.windows], 1) for part in x.split(_BATCH)]
        )
        return flux if self.operator is None else torch.sparse.mm(self.operator, flux.T).T

    def resampled(self, wavelength: np.ndarray, arms: Mapping[str, slice], operator: Any) -> ProcessEmulator:
        """This emulator followed by a linear operator ``(n_out, n_pix)`` (scipy sparse) to ``wavelength``.

        The result's :attr:`resolving_power` is that of the operator's output, which the caller knows.
        """
        if self.operator is not None:
            raise ModelError("this emulator was resampled already: resample the one that was loaded")
        coo = coo_array(operator)
        index = torch.as_tensor(np.stack([coo.row, coo.col]).astype(np.int64))
        data = torch.as_tensor(coo.data, dtype=torch.float32)
        matrix = torch.sparse_coo_tensor(index, data, coo.shape, check_invariants=True)
        matrix = matrix.coalesce().to(self.center.device)
        return attrs.evolve(self, wavelength=wavelength, arms=dict(arms), operator=matrix)

    def to(self, device: str) -> ProcessEmulator:
        """A copy of this emulator on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("center", "spread", "stars")}
        operator = None if self.operator is None else self.operator.to(device)
        windows = tuple(window.to(device) for window in self.windows)
        return attrs.evolve(self, windows=windows, operator=operator, **moved)

    def save(self, path: Path) -> None:
        """Write one safetensors file: components as int8 with a step for each, the leading ones as float16,
        all else as float32. Raises ``ModelError`` for a resampled one."""
        if self.operator is not None:
            raise ModelError("this emulator was resampled already: save the one that was loaded")
        tensors = {name: getattr(self, name).float() for name in ("center", "spread", "stars")}
        for i, window in enumerate(self.windows):
            fine = window.basis[_LEADING:]
            step = fine.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
            process = window.process
            parts = {"mixing": process.mixing.float(), "amplitude": process.amplitude.float(),
                     "slopes": process.slopes.float(), "rest": process.rest.float(),
                     "weights": window.weights.float(), "mean": window.mean,
                     "leading": window.basis[:_LEADING].half(), "step": step,
                     "basis": (fine / step).round().to(torch.int8)}  # fmt: skip
            tensors |= {f"{i}.{name}": part.contiguous() for name, part in parts.items()}
        windows = [[window.pixels.start, window.pixels.stop] for window in self.windows]
        save_weights(path, tensors, header_of(self, self.header, windows=windows))

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], header: dict[str, Any], path: Path) -> ProcessEmulator:
        """From the content of the file ``path`` that :meth:`save` wrote. Raises ``ModelError``."""
        with fitting(path):
            windows, stars = [], tensors["stars"].double()
            placed = with_products(stars, tuple(header["labels"]))
            for i, (start, stop) in enumerate(header["windows"]):
                parts = {name: tensors[f"{i}.{name}"] for name in _PARTS}
                fine = tensors[f"{i}.basis"].float() * tensors[f"{i}.step"]
                parts["basis"] = torch.cat([tensors[f"{i}.leading"].float(), fine])
                sizes = (parts["weights"].shape[1], stop - start)
                if parts["basis"].shape != sizes or len(parts["weights"]) != len(stars):
                    raise ValueError(f"window {i} has {tuple(parts['basis'].shape)} components, not {sizes}")
                windows.append(Window.of(parts, placed, slice(start, stop)))
            return cls(
                **spectra_of(header),
                center=tensors["center"].double(),
                spread=tensors["spread"].double(),
                stars=stars,
                windows=tuple(windows),
            )


def windows_of(wavelength: np.ndarray, arms: Mapping[str, slice], width: float) -> list[tuple[str, slice]]:
    """Arm and pixels of windows of nearly ``width`` Angstrom."""
    out = []
    for name, arm in arms.items():
        n = max(1, round((wavelength[arm][-1] - wavelength[arm][0]) / width))
        edges = np.linspace(arm.start, arm.stop, n + 1).round().astype(int).tolist()
        out += [(name, slice(*pair)) for pair in pairwise(edges)]
    return out
