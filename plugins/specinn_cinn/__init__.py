"""The conditional invertible neural network of Ksoll et al. (2026), on FrEIA, and the model that it ships."""

from __future__ import annotations

from pathlib import Path

from specinn.plugins import EstimatorRecord, hookimpl

_WEIGHTS = Path(__file__).parent / "weights"
_MODELS = ("4most-hr",)  # the first is the default


@hookimpl
def specinn_estimators() -> list[EstimatorRecord]:
    return [
        EstimatorRecord(
            name="cinn",
            summary="conditional invertible neural network with GLOW coupling blocks",
            factory="specinn_cinn.estimator:CINN",
            trainer="specinn_cinn.training:train",
            models={name: _WEIGHTS / f"{name}.safetensors" for name in _MODELS},
            speed="specinn_cinn.timing:ways",
        )
    ]
