"""specinn: posterior distributions of stellar parameters and abundances from high-resolution spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Inference",
    "Posterior",
    "SpectrumBatch",
    "__version__",
    "example_files",
    "infer",
    "load_model",
    "read",
    "register_loaders",
]

if TYPE_CHECKING:
    from specinn.api import Inference, infer, load_model, read
    from specinn.inference.run import example_files
    from specinn.posterior import Posterior
    from specinn.spectra import SpectrumBatch
    from specinn.spectra.specutils import register_loaders

_LAZY = {
    **dict.fromkeys(("Inference", "infer", "load_model", "read"), "specinn.api"),
    "Posterior": "specinn.posterior",
    "SpectrumBatch": "specinn.spectra",
    "example_files": "specinn.inference.run",
    "register_loaders": "specinn.spectra.specutils",
}


def __getattr__(name: str) -> Any:
    """Import the heavy parts when they are first used, so that ``import specinn`` is instant."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'specinn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With what is imported when it is first used, which notebooks complete."""
    return sorted({*globals(), *__all__})
