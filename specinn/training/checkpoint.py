"""Checkpoints of a training: nested state (tensors, numbers, strings) in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from specinn.errors import ConfigError
from specinn.weights import load_weights, save_weights

__all__ = ["FORMAT", "fingerprint", "load_checkpoint", "one_cycle", "save_checkpoint"]

FORMAT = "specinn checkpoint"


def fingerprint(config: Any) -> str:
    """Identifies ``config`` (JSON values), so that a checkpoint of another one is not resumed by mistake."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def save_checkpoint(path: Path, state: Mapping[str, Any], of: str) -> None:
    """Write ``state`` (nested dicts, lists, tensors, plain values) atomically; ``of`` is a fingerprint."""
    tensors: dict[str, torch.Tensor] = {}
    save_weights(path, tensors, {"format": FORMAT, "of": of, "state": _flatten(state, tensors)})


def load_checkpoint(path: Path, of: str) -> dict[str, Any] | None:
    """The state that was saved, or None where there is no checkpoint yet.

    Raises ``ConfigError`` if the checkpoint is that of another configuration than ``of``.
    """
    if not path.exists():
        return None
    tensors, header = load_weights(path, FORMAT)
    if header["of"] != of:
        raise ConfigError(
            f"{path} is the checkpoint of a training with another configuration: delete it to start anew, or "
            "give another folder"
        )
    state: dict[str, Any] = _restore(header["state"], tensors)
    return state


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if torch.is_tensor(value):
        key = f"t{len(tensors)}"
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": [[k, _flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_flatten(v, tensors) for v in value]
    if isinstance(value, float) and not math.isfinite(value):  # which JSON cannot represent
        return {"float": repr(value)}
    return value


def _restore(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(v, tensors) for v in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "float" in value:
            return float(value["float"])
        return {k: _restore(v, tensors) for k, v in value["dict"]}
    return value


def one_cycle(fraction: float, peak: float, warm: float = 0.1) -> float:
    """Learning rate at a ``fraction`` of the training: a linear rise over the fraction ``warm`` to ``peak``,
    then a cosine down to zero."""
    if fraction < warm:
        return peak * (0.04 + 0.96 * fraction / warm)
    angle = torch.tensor((fraction - warm) / (1.0 - warm) * torch.pi)
    return peak * 0.5 * (1.0 + float(torch.cos(angle))) + 1e-9
