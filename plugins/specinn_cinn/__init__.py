"""The conditional invertible neural network of Ksoll et al. (2026), on FrEIA, and the model that it ships."""

from __future__ import annotations

from pathlib import Path

from specinn.plugins import EstimatorRecord, hookimpl

_WEIGHTS = Path(__file__).parent / "weights"
_MODELS = ("4most-hr-gr",)  # the first is the default
_DOUBTFUL = {
    "4most-hr-gr": {
        "a_li": "the line list of the grid has a blend at 6707.8 Angstrom, 0.26 deep in the Sun, that no "
        "real star shows"
    }
}


@hookimpl
def specinn_estimators() -> list[EstimatorRecord]:
    return [
        EstimatorRecord(
            name="cinn",
            summary="conditional invertible neural network with GLOW coupling blocks",
            factory="specinn_cinn.estimator:CINN",
            trainer="specinn_cinn.training:train",
            models={name: _WEIGHTS / f"{name}.safetensors" for name in _MODELS},
            doubtful=_DOUBTFUL,
            speed="specinn_cinn.timing:ways",
        )
    ]
