"""A fast, differentiable stand-in for the synthesis code: Gaussian processes, or a small network, that drive
principal components."""

from __future__ import annotations

from pathlib import Path

from specinn.plugins import SynthesizerRecord, hookimpl

WEIGHTS = Path(__file__).parent / "weights"
BUNDLED = WEIGHTS / "4most-hr.safetensors"


@hookimpl
def specinn_synthesizers() -> list[SynthesizerRecord]:
    return [
        SynthesizerRecord(
            name="emulator",
            summary="emulators of grids, one of which ships: processes in windows, or a network",
            factory="specinn_emulator.emulator:Emulator",
            trainer="specinn_emulator.training:train",
        )
    ]
