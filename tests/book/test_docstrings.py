"""Docstrings in the library reference."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

from plain_docstrings import as_rst


@pytest.mark.parametrize(
    "text, rst",
    [
        ("Takes `theta` and ``x``.", "Takes ``theta`` and ``x``."),
        ("|λ₁| is a_ * b.", r"\|λ₁\| is a\_ \* b."),
        ("Valid **at minimisers** only, *not* elsewhere.", "Valid **at minimisers** only, *not* elsewhere."),
        ("2*a*b and f(*args, **options)", r"2\*a\*b and f(\*args, \*\*options)"),
    ],
)
def test_a_paragraph_keeps_its_code_and_emphasis_and_nothing_else(text, rst):
    assert as_rst(text) == [rst, ""]


@pytest.mark.parametrize("text", ["hanging:\n    indent", ">>> 1 + 1\n2", "Title\n====="])
def test_a_laid_out_block_is_shown_as_it_stands(text):
    assert as_rst(text) == [".. code-block:: text", "", *(f"    {line}" for line in text.split("\n")), ""]
