"""``specinn evaluate``."""

from __future__ import annotations

from specinn.cli.evaluate.grid import EXAMPLES, evaluate

__all__ = ["EXAMPLES", "evaluate"]
