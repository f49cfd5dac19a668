"""Formulae as MathML, by docutils: browsers render it themselves, and nothing is downloaded."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(sphinx: Any) -> dict[str, bool]:
    sphinx.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}
