"""The cells of tutorials: what one prints, which arrives in pieces of 100 characters, as one block."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes


def join(cell: nodes.Element) -> None:
    """One block of standard output and one of standard error, where the first piece is; without colours."""
    blocks: dict[tuple[str, ...], list[nodes.literal_block]] = {}
    for block in cell.findall(nodes.literal_block):
        if "output" in block["classes"] and {"stream", "stderr"} & set(block["classes"]):
            blocks.setdefault(tuple(block["classes"]), []).append(block)
    for first, *others in blocks.values():
        text = "".join(block.astext() for block in (first, *others))
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
        first.rawsource, first["language"] = text, "none"
        first[:] = [nodes.Text(text)]
        for block in others:
            block.parent.remove(block)


def setup(sphinx: Any) -> dict[str, bool]:
    def read(_app: Any, doctree: nodes.document) -> None:
        for cell in doctree.findall(nodes.container):
            if "cell_output" in cell["classes"]:
                join(cell)
            elif "cell_input" in cell["classes"]:  # where nothing is run, nothing tells that it is IPython
                for block in cell.findall(nodes.literal_block):
                    block["language"] = "ipython3"

    sphinx.connect("doctree-read", read)
    return {"parallel_read_safe": True}
