"""The emulator: labels -> coefficients of principal components -> normalised flux."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from specinn.plugins import ModelError, Synthesizer, fitting, load_weights, save_weights, structure

from . import BUNDLED, WEIGHTS
from .header import FORMAT, header_of, physics_of, spectra_of
from .labels import features
from .process import ProcessEmulator

_PLAIN = ("center", "spread", "mean", "basis", "scale")  # the tensors beside the network's
# Components of an arm that a file holds as float16; the others are int8, of a step for each. On held-out
# spectra at R = 20 000 that changes the flux by 1.5e-4 (blue), 8e-5 and 6e-5 (rms, median star).
_LEADING = 64


class CoefficientNetwork(nn.Module):
    """``members`` perceptrons whose outputs are averaged: ``(n, n_labels) -> (n, n_components)``."""

    def __init__(self, n_labels: int, n_components: int, width: int, depth: int, members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList()
        for _ in range(members):
            layers: list[nn.Module] = [nn.Linear(n_labels, width), nn.SiLU()]
            for _ in range(depth - 1):
                layers += [nn.Linear(width, width), nn.SiLU()]
            self.members.append(nn.Sequential(*layers, nn.Linear(width, n_components)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


@attrs.frozen
class Settings:
    """The table ``[synthesizer]`` of a grid that an emulator makes: the file of its weights."""

    path: str = ""


@attrs.define(eq=False)
class Emulator(Synthesizer):
    """``flux = mean + (scale * network(standardised features)) @ basis``, on any device, differentiable.

    ``basis (n_components, n_pix)`` and ``mean (n_pix,)`` are the principal components of the training
    spectra; the network gives their coefficients in units of ``scale (n_components,)``. Because flux is
    linear in the basis, :meth:`resampled` gives the emulator on another pixel grid at no cost per star.

    Where arms have components of their own, ``blocks`` are the ``(coefficients, pixels)`` of each, ``basis``
    has as many rows as the arm with most components, and the pixels of an arm use the first of them.
    """

    differentiable = True

    labels: tuple[str, ...]
    bounds: np.ndarray
    wavelength: np.ndarray
    arms: dict[str, slice]
    resolving_power: float
    medium: str
    network: CoefficientNetwork
    center: torch.Tensor
    spread: torch.Tensor
    mean: torch.Tensor
    basis: torch.Tensor
    scale: torch.Tensor
    header: dict[str, Any]
    blocks: tuple[tuple[slice, slice], ...] = attrs.field(
        default=attrs.Factory(lambda self: blocks_of([self.scale.numel()], [self.wavelength.size]), True)
    )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], labels: Sequence[str]) -> Any:
        """With the weights in the file ``path``, or the bundled ones of this name."""
        settings = structure(dict(config), Settings, "[synthesizer]")
        return cls.load(Path(settings.path) if settings.path else None)

    @property
    def provenance(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The physics of the grid that it was trained on."""
        return physics_of(self.header)

    @classmethod
    def load(cls, path: Path | None = None, device: str = "cpu") -> Any:
        """Read weights that :meth:`save` wrote, or those of a ``ProcessEmulator``, which is returned then.

        ``path`` may be the name of bundled ones; without it those are taken.
        """
        path = BUNDLED if path is None else _file_of(path)
        tensors, header = load_weights(path, FORMAT)
        if "windows" in header:
            return ProcessEmulator.of(tensors, header, path).to(device)
        with fitting(path):
            network = CoefficientNetwork(**header["network"])
            stored = {
                k.removeprefix("network."): v.float() for k, v in tensors.items() if k.startswith("network.")
            }
            network.load_state_dict(stored)
            network.requires_grad_(False)
            spectra = spectra_of(header)
            arms = spectra["arms"]
            blocks = blocks_of([tensors["scale"].numel()], [tensors["mean"].numel()])
            if "components" in header:
                sizes = [arm.stop - arm.start for arm in arms.values()]
                blocks = blocks_of([header["components"][name] for name in arms], sizes)
                tensors["basis"] = _unpacked(tensors, blocks)
            spectra |= {name: tensors[name].float().to(device) for name in _PLAIN}
            return cls(**spectra, network=network.to(device).eval(), blocks=blocks)

    def save(self, path: Path) -> None:
        """Write one safetensors file, weights as float16: 3e-5 of flux (rms), a hundredth of its error; of
        arms with components of their own all but the leading ones as int8."""
        half = {f"network.{k}": v.half() for k, v in self.network.state_dict().items()}
        half |= _packed(self.basis, self.blocks) if len(self.blocks) > 1 else {"basis": self.basis.half()}
        exact = {"center": self.center, "spread": self.spread, "mean": self.mean, "scale": self.scale}
        save_weights(path, half | exact, header_of(self, self.header))

    def coefficients(self, labels: torch.Tensor) -> torch.Tensor:
        """``(n, n_labels)`` physical labels to coefficients ``(n, n_components)`` of the basis."""
        x = (features(labels.to(self.center), self.labels) - self.center) / self.spread
        return self.network(x) * self.scale

    def __call__(self, labels: Any) -> Any:
        """Flux ``(n, n_pix)`` of physical labels ``(n, n_labels)``; tensors for tensors, else numpy."""
        if not torch.is_tensor(labels):
            with torch.no_grad():
                return self(torch.as_tensor(np.asarray(labels), dtype=torch.float32)).cpu().numpy()
        coefficients = self.coefficients(labels)
        parts = [
            torch.addmm(
                self.mean[pixels], coefficients[:, rows], self.basis[: rows.stop - rows.start, pixels]
            )
            for rows, pixels in self.blocks
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def resampled(self, wavelength: np.ndarray, arms: Mapping[str, slice], operator: Any) -> Emulator:
        """This emulator followed by a linear operator ``(n_out, n_pix)`` (scipy sparse) to ``wavelength``.

        The result's :attr:`resolving_power` is that of the operator's output, which the caller knows.
        Raises ``ModelError`` where a pixel of it would mix arms that have components of their own.
        """
        blocks = self._blocks_after(operator)
        stack = torch.cat([self.mean[None], self.basis]).cpu().double().numpy()
        out = torch.as_tensor(np.ascontiguousarray((operator @ stack.T).T), dtype=torch.float32).to(
            self.mean.device
        )
        arms = dict(arms)
        return attrs.evolve(
            self, wavelength=wavelength, arms=arms, mean=out[0], basis=out[1:].contiguous(), blocks=blocks
        )

    def _blocks_after(self, operator: Any) -> tuple[tuple[slice, slice], ...]:
        """The blocks of the output, whose pixels each need the pixels of one block only."""
        operator, stops = csr_array(operator), list[int]()
        for _, pixels in self.blocks:
            touched = np.flatnonzero(np.diff(operator[:, pixels].indptr))
            before = stops[-1] if stops else 0
            if touched.size and len(self.blocks) > 1 and touched[0] < before:
                raise ModelError(
                    "a pixel of the output mixes arms of the emulator, which has components for each: "
                    "resample arm by arm, in order of wavelength"
                )
            stops.append(int(touched[-1]) + 1 if touched.size else before)
        stops[-1] = operator.shape[0]
        return tuple(
            (rows, slice(start, stop))
            for (rows, _), start, stop in zip(self.blocks, [0, *stops[:-1]], stops, strict=True)
        )

    def to(self, device: str) -> Emulator:
        """A copy of this emulator on another device (a module's own ``to`` would move this one)."""
        moved = {n: getattr(self, n).to(device) for n in _PLAIN}
        return attrs.evolve(self, network=copy.deepcopy(self.network).to(device), **moved)


def blocks_of(components: Sequence[int], pixels: Sequence[int]) -> tuple[tuple[slice, slice], ...]:
    """Blocks with these numbers of components and pixels, one after the other."""
    rows, columns = (np.cumsum([0, *sizes]).tolist() for sizes in (components, pixels))
    return tuple((slice(*rows[i : i + 2]), slice(*columns[i : i + 2])) for i in range(len(components)))


def _packed(basis: torch.Tensor, blocks: Sequence[tuple[slice, slice]]) -> dict[str, torch.Tensor]:
    """The tensors of a file with the components of each block."""
    out = {}
    for i, (rows, pixels) in enumerate(blocks):
        own = basis[: rows.stop - rows.start, pixels]
        fine = own[_LEADING:]
        step = fine.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        out[f"basis.{i}"] = own[:_LEADING].half()
        out[f"fine.{i}"] = (fine / step).round().to(torch.int8)
        out[f"step.{i}"] = step
    return out


def _file_of(path: Path) -> Path:
    """The file of bundled weights, if this is their name."""
    bundled = WEIGHTS / f"{path}.safetensors"
    return bundled if bundled.parent == WEIGHTS and bundled.is_file() else Path(path)


def _unpacked(tensors: Mapping[str, torch.Tensor], blocks: Sequence[tuple[slice, slice]]) -> torch.Tensor:
    """The basis of :func:`_packed`."""
    most = max(rows.stop - rows.start for rows, _ in blocks)
    basis = torch.zeros(most, blocks[-1][1].stop)
    for i, (rows, pixels) in enumerate(blocks):
        fine = tensors[f"fine.{i}"].float() * tensors[f"step.{i}"]
        basis[: rows.stop - rows.start, pixels] = torch.cat([tensors[f"basis.{i}"].float(), fine])
    return basis
