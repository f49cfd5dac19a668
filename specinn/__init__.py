"""specinn: posterior distributions of stellar parameters and abundances from high-resolution spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["SpectrumBatch", "__version__", "infer", "load_model", "read"]

if TYPE_CHECKING:
    from specinn.api import infer, load_model, read
    from specinn.spectra import SpectrumBatch

_LAZY = dict.fromkeys(("infer", "load_model", "read"), "specinn.api") | {"SpectrumBatch": "specinn.spectra"}


def __getattr__(name: str) -> Any:
    """Import the heavy parts when they are first used, so that ``import specinn`` is instant."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'specinn' has no attribute {name!r}")
