"""What shows verdicts, without a build: the stacked bar, and the claims board in a browser."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]

# of pytest-playwright's own fixture base_url
pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")


@pytest.fixture
def board(monkeypatch):
    """The extension."""
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import claims_board

    return claims_board


def verdict(words: str, verdict: str, scale: str | None) -> dict:
    return {"words": words, "verdict": verdict, "scale": scale}


def test_the_bar_counts_verdicts_by_their_words(board):
    found = [
        verdict("not run", "not run", "toy"),
        verdict("seen on a toy", "reproduced", "toy"),
        verdict("reproduced", "reproduced", "paper"),
        verdict("not reproduced", "not reproduced", None),
        verdict("reproduced", "reproduced", "exact"),
    ]
    html = BeautifulSoup(board.bar(found), "html.parser")
    words = [item.get_text(strip=True) for item in html.select("li")]
    assert words == ["2 reproduced", "1 seen on a toy", "1 not reproduced", "1 not run"]
    parts = html.select(".eos-stack > span")
    assert [part["style"] for part in parts] == [f"flex-grow: {n}" for n in (2, 1, 1, 1)]
    kinds = [["eos-reproduced"], ["eos-reproduced", "eos-toy"], ["eos-not-reproduced"], ["eos-not-run"]]
    assert [[name for name in part["class"] if name] for part in parts] == kinds
    assert html.select_one(".eos-stack")["aria-hidden"] == "true"


def measured(name: str, preset: str, verdict: str, scale: str, value: str, **more) -> dict:
    """A verdict as an executed notebook has it."""
    return {
        "id": f"tiny2026/{name}", "preset": preset, "verdict": verdict, "scale": scale, "value": value,
        "statement": f"The statement of {name}.", "quantity": f"the quantity of {name}", "criterion": "at most 5",
        "where": f"Section {len(name)}", "paper_value": None, "ours": False, "runs": [f"key of {name}"], "cases": {},
    } | more  # fmt: skip


CONTROL = {"text": "a wide one", "value": "9", "fails": True}
VERDICTS = [
    measured("width", "quick", "reproduced", "toy", "width: 4", control=CONTROL),
    measured("width", "paper", "not reproduced", "paper", "width: 7", amended="It was 6 at first."),
    measured("depth", "quick", "partly", "exact", "depth: 3", ours=True),
    measured("abscissa", "quick", "reproduced", "reduced", "x: 1"),
]


@dataclass(eq=False)
class App:
    """Of Sphinx, what the board asks for."""

    chapters: dict
    gallery: dict
    others: dict = field(default_factory=dict)


@pytest.fixture
def open_board(board, tmp_path, monkeypatch, page):
    """Open the board of a chapter and a gallery page, with a query or a fragment."""
    monkeypatch.setenv("EOSLIB_RECORDED", str(tmp_path / "recorded"))
    executions = [SimpleNamespace(verdicts=VERDICTS)]
    chapter = SimpleNamespace(name="tiny", docname="notebooks/tiny", title="Tiny", executions=executions)
    of_page = [measured("width", "standard", "not reproduced", "reduced", "width: 8")]
    wide = SimpleNamespace(chapter="tiny", docname="notebooks/gallery/wide", title="A wider one", verdicts=of_page)
    html = board.html(App({chapter.docname: chapter}, {wide.docname: wide}), up="../")
    (tmp_path / "book").mkdir()
    page_of = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="../_static/eoslib.css">'
    (tmp_path / "book/claims.html").write_text(page_of + html)
    shutil.copytree(ROOT / "book/_static", tmp_path / "_static")
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def open_it(place: str = ""):
        page.goto("about:blank")  # or a new fragment would load nothing
        page.goto(f"{(tmp_path / 'book/claims.html').as_uri()}{place}")
        return page

    yield open_it
    assert errors == []


def shown(page) -> list[str]:
    """The anchors of the rows that are seen, in their order."""
    return [row.get_attribute("id") for row in page.locator(".eos-matrix tbody tr:visible").all()]


EVERYTHING = ["tiny2026-width", "tiny2026-depth", "tiny2026-abscissa", "gallery-tiny2026-width"]


def test_a_cell_says_verdict_and_scale_as_marks_and_in_words(open_board):
    page = open_board()
    assert shown(page) == EVERYTHING
    cells = page.locator("#tiny2026-width .eos-cell")
    assert [cell.locator("[aria-hidden]").inner_text().strip() for cell in cells.all()] == ["● toy", "–", "○ paper"]
    words = [cell.locator(".visually-hidden").text_content() for cell in cells.all()]
    assert words == ["seen on a toy", "not run", "not reproduced"]
    headings = page.locator("#tiny2026-width").locator("xpath=ancestor::table").locator("th").all_inner_texts()
    assert headings == ["Claim", "Chapter", "Where", "quick", "standard", "paper"]


def test_a_row_opens_to_what_was_measured(open_board):
    page = open_board()
    row = page.locator("#tiny2026-width")
    assert not row.get_by_text("the quantity of width").is_visible()
    row.locator("summary").click()
    for text in ("the quantity of width", "width: 4", "width: 7", "It was 6", "a wide one – 9", "key of width"):
        assert row.get_by_text(text).first.is_visible(), text


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("q=STATEMENT+of+depth", ["tiny2026-depth"]),
        ("q=tiny2026%2Fwid", ["tiny2026-width", "gallery-tiny2026-width"]),
        ("q=section+8", ["tiny2026-abscissa"]),
        ("verdict=not+reproduced", ["tiny2026-width", "gallery-tiny2026-width"]),
        ("verdict=not+reproduced&preset=quick", []),
        ("verdict=not+run&preset=paper", ["tiny2026-depth", "tiny2026-abscissa"]),
        ("scale=exact", ["tiny2026-depth"]),
        ("by=ours", ["tiny2026-depth"]),
        ("amended=yes", ["tiny2026-width"]),
        ("chapter=tiny", EVERYTHING),
        ("preset=standrd", EVERYTHING),  # no such value
        ("sort=id", ["tiny2026-abscissa", "tiny2026-depth", "tiny2026-width", "gallery-tiny2026-width"]),
        ("sort=verdict", ["tiny2026-width", "tiny2026-depth", "tiny2026-abscissa", "gallery-tiny2026-width"]),
        ("sort=verdict&preset=quick", ["tiny2026-depth", "tiny2026-width", "tiny2026-abscissa"]),
    ],
)  # fmt: skip
def test_the_address_says_what_is_shown(open_board, query, rows):
    assert shown(open_board(f"?{query}")) == rows


def test_what_is_chosen_is_kept_in_the_address(open_board):
    page = open_board()
    page.get_by_label("Search").fill("width")
    page.get_by_label("Verdict", exact=True).select_option("reproduced")
    page.get_by_label("amended").check()
    assert page.url.partition("?")[2] == "q=width&verdict=reproduced&amended=yes"
    assert shown(page) == []  # the amended verdict is another
    page.get_by_label("amended").uncheck()
    assert shown(page) == ["tiny2026-width"]
    assert page.locator("output").inner_text() == "1 of 3 claims, in the gallery 0 of 1"
    page.reload()
    assert shown(page) == ["tiny2026-width"] and page.get_by_label("Search").input_value() == "width"
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function("!location.search")
    assert shown(page) == EVERYTHING


def test_a_row_that_is_linked_to_opens_even_if_it_was_filtered_out(open_board):
    page = open_board("?by=ours#gallery-tiny2026-width")
    assert page.locator("#gallery-tiny2026-width details").get_attribute("open") is not None
    assert page.locator("details[open]").count() == 1
    assert "gallery-tiny2026-width" in shown(page)
    page.evaluate("location.hash = 'tiny2026-depth'")
    page.wait_for_selector("#tiny2026-depth details[open]")
