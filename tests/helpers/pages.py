"""The pages of the documentation, and what makes its reference."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import layouts  # noqa: E402
import reference  # noqa: E402
import settings  # noqa: E402

__all__ = ["DOCS", "FILES", "PAGES", "ROOT", "code", "layouts", "reference", "settings"]

FILES = {  # with their paths from the root
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
}
PAGES = {page.name: FILES[f"docs/{page.name}"] for page in DOCS.glob("*.md")}


def code(text: str) -> Iterator[str]:
    """The lines of code of a page, fenced or indented, with lines that go on joined."""
    text = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^(```+|~~~+)[^\n]*\n(.*?)^\1", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (line for _, block in fenced for line in block.splitlines())
    yield from re.findall(r"^ {4}\S.*", rest, flags=re.MULTILINE)
