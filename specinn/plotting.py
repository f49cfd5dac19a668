"""The matplotlib figure that is handed to people."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.figure
from matplotlib.colors import to_rgba


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows, once, although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        clear = to_rgba(self.get_facecolor())[3] == 0  # illegible on a dark page
        options: dict[str, Any] = {"facecolor": "white"} if clear else {}
        self.savefig(drawn, format="png", **options)
        return drawn.getvalue()
