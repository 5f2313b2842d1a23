"""The landing page: the scales of the figure that plays, and what it shows of a build, on the miniature book."""

import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from test_build import FIRST, HEADER, LEDGER, Book, read_again

ROOT = Path(__file__).resolve().parents[2]

TABLE = """\
# figure exp3
# panel 1: x: iteration; y: training loss
panel,curve,label,colour,x,y
1,1,$\\eta = 2/60$,blue,0,2
1,1,$\\eta = 2/60$,blue,1000,1
1,2,$\\eta = 0.1$,orange,0,2
1,2,$\\eta = 0.1$,orange,500,nan
2,1,,blue,0,-1
3,1,,blue,0,10
3,1,,blue,1000,60
3,2,,orange,0,10
"""


@pytest.fixture
def landing(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import landing

    return landing


def test_curves_and_thresholds_share_their_scale(landing):
    found = landing.motion(TABLE)
    blue, orange = found["labels"]
    assert list(found["labels"].values()) == ["η = 2/60", "η = 0.1"]
    sharpness, loss = found["panels"]
    assert (sharpness["name"], loss["name"]) == ("sharpness", "training loss")
    assert sharpness["steps"] == loss["steps"] == 1000
    first, last = (point.split(",") for point in sharpness["curves"][blue].split())
    assert float(last[1]) == sharpness["dashed"][blue] < sharpness["dashed"][orange] < float(first[1])  # 60, 20, 10
    assert float(last[0]) == sharpness["x"]["1,000"] == landing.RIGHT and float(first[0]) == landing.LEFT
    assert sharpness["y"]["0"] == landing.BOTTOM and loss["dashed"] == {}
    assert len(loss["curves"][orange].split()) == 1  # not a number is no point


def test_the_threshold_is_read_off_a_label(landing):
    assert [landing.threshold(label) for label in ("η = 2/60", "η = 2/2.5", "η = 0.1")] == [60, 2.5, 20]


TOC = """\
format: jb-book
root: book/intro
chapters:
  - file: notebooks/unstable_convergence
  - file: book/claims
"""
INTRO = """\
# Intro

```{sharpness-in-motion}
Its caption.
```

```{chapter-cards}
```

```{verdict-legend}
```
"""
HEAD = """\
# # Unstable
#
# ```{chapter-head}
# paper: ahn2022
# question: Why $2/\\eta$?
# answer: Because.
# findings: [One., Two., Three.]
# figure: exp3
# thumbnails: {exp3: figure 7}
# ```
"""


@pytest.fixture
def book(tmp_path):
    """The small book with one chapter, whose figure has a table."""
    book = Book(tmp_path)
    shutil.copy(ROOT / "CITATION.cff", tmp_path)  # which a chapter's head cites
    text = FIRST.replace("# # First\n", HEAD).replace("fig-first-one", "fig-unstable_convergence-exp3")
    text = text.replace('"first"', '"unstable_convergence"').replace('figure("one")', 'figure("exp3")')
    packed = f"import base64, gzip\n\nTABLE = base64.b64encode(gzip.compress({TABLE!r}.encode())).decode()\n"
    text = text.replace("\nSVG =", f"\n{packed}SVG =").replace('"files": {', '"files": {"csv": TABLE, ')
    for file, content in {
        "_toc.yml": TOC,
        "book/intro.md": INTRO,
        "notebooks/unstable_convergence.py": HEADER + text,
        "notebooks/claims/unstable_convergence.yaml": LEDGER,
        "notebooks/presets/unstable_convergence.yaml": "standard: {width: 5}\n",
    }.items():
        (tmp_path / file).write_text(content)
    return book


def test_the_page_shows_this_build(book):
    book.build()
    page = BeautifulSoup(book.page("book/intro"), "html.parser").select_one("article")
    assert [len(panel.select("polyline")) for panel in page.select(".eos-play svg")] == [2, 2]
    assert "Its caption." in page.select_one(".eos-play figcaption").text
    (card,) = page.select(".eos-card")
    assert card.select_one("h3 a").text == "Unstable" and card.select_one("img")["src"].startswith("data:image/png")
    assert card.select_one("h3 a")["href"] == "../notebooks/unstable_convergence.html"
    assert card.select_one("strong .math") and "Because." in card.text and "1 reproduced" in card.text
    assert "takes" in card.text and "not judged" in page.select_one(".eos-meanings").text
    assert (book.root / "_build/html/favicon.ico").is_file()
    # nothing changed; then the head, and a verdict
    assert read_again(book.build()) == []
    book.edit("notebooks/unstable_convergence.py", "answer: Because.", "answer: Therefore.")
    assert "book/intro" in read_again(book.build()) and "Therefore." in book.page("book/intro")
    book.edit("notebooks/unstable_convergence.py", "PositiveInt = 4", "PositiveInt = 6")
    book.build()
    assert "1 not reproduced" in book.page("book/intro")
