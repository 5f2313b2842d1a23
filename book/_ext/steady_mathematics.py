"""Sphinx extension: a formula takes its place before MathJax has drawn it, so that the text around it does not jump.

Its TeX is longer than what it says. matplotlib sets formulas in the same fonts, and knows their size to a few percent;
the height of a displayed one is guessed from its lines. The style sheet uses both until MathJax has come.
"""

import functools
import logging
import re

EX = 0.442  # of MathJax's fonts, in em; it scales them so that this is the ex of the text around
SPELLED_OUT = {  # TeX that matplotlib does not know
    r"\\t?frac\s*(\w|\\[a-z]+|{[^{}]*})\s*(\w|\\[a-z]+)": r"\\frac{\1}{\2}", r"\\tfrac": r"\\frac",
    r"\\sqrt\s*(\w|\\\w+)": r"\\sqrt{\1}",
    r"\\le\b": r"\\leq", r"\\ge\b": r"\\geq", r"\\[lr]Vert": r"\\|",
}  # fmt: skip


@functools.cache
def inline(tex: str) -> str:
    """The width and the height of a formula, as a style; none if matplotlib cannot set it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    logging.getLogger("matplotlib.mathtext").setLevel(logging.ERROR)  # it names the glyphs that it lacks
    for short, long in SPELLED_OUT.items():
        tex = re.sub(short, long, tex)
    try:
        box = MathTextParser("path").parse(f"${tex}$", 72, FontProperties(size=100, math_fontfamily="cm"))
    except ValueError:
        return ""
    return f"--wide: {box.width / 100 / EX:.1f}ex; --tall: {box.height / 100 / EX:.1f}ex"


def displayed(tex: str) -> str:
    """The height of a formula with its margins, about, as seen on this book's pages; as a style."""
    return f"--tall: {3 + 3 * tex.count(chr(92) * 2) + 3 * bool(re.search('frac|sum|int|prod', tex))}ex"


def with_style(render, style):
    """A renderer of formulas that writes a style into the first tag."""

    def visit(self, node) -> None:
        begin = len(self.body)
        try:
            render(self, node)
        finally:  # it skips the node's text, by an exception
            self.body[begin] = re.sub(r"^<\w+", rf'\g<0> style="{style(node.astext())}"', self.body[begin])

    return visit


def install(app) -> None:
    registry = app.registry
    for renderers, style in (
        (registry.html_inline_math_renderers, inline),
        (registry.html_block_math_renderers, displayed),
    ):
        visit, depart = renderers["mathjax"]
        renderers["mathjax"] = (with_style(visit, style), depart)


def setup(app):
    app.connect("builder-inited", install, priority=900)  # after myst_parser's own
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
