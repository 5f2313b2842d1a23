"""Sphinx extension: docstrings are plain text with `code`, not reStructuredText.

So |λ₁|, a * b or an indented example need no escapes, and no docstring can break the book. A paragraph
without indentation becomes a paragraph; one with indentation, or of dashes, is shown as it stands.
"""

import re

# *emphasised* or **strong** words, which stay, or a single character of markup, which is escaped
MARKUP = re.compile(r"(?<!\w)(\*\*?)\w(?:[^*|_]*\w)?\1(?!\w)|[\\*|_]")
CODE = re.compile(r"`+([^`]+)`+")


def translate(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = [line for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")) for line in as_rst(block)]


def as_rst(block: str) -> list[str]:
    """One block of a docstring in reStructuredText."""
    lines = block.split("\n")
    if any(line.startswith((" ", ">>>")) or not re.search(r"\w", line) for line in lines):
        return [".. code-block:: text", "", *(f"    {line}" for line in lines), ""]
    parts = CODE.split(block)  # text, code, text, code, …
    parts[0::2] = [MARKUP.sub(lambda m: m[0] if m[1] else f"\\{m[0]}", text) for text in parts[0::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    return [*"".join(parts).split("\n"), ""]


def setup(app):
    app.connect("autodoc-process-docstring", translate)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
