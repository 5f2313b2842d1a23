"""The head of a chapter: what is wrong with it is named, and its numbers are those of the verdicts."""

import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from pages import CHAPTERS
from test_build import FIRST, HEADER, Book

ROOT = Path(__file__).resolve().parents[2]

HEAD = """\
# # First
#
# ```{chapter-head}
# paper: ahn2022
# question: Is it $2/\\eta$?
# answer: It is.
# findings:
#   - The width is {exp1/width} and no more.
#   - Second.
#   - Third.
# figure: one
# thumbnails: {two: figure 7}
# ```
"""


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import chapter_head

    return chapter_head


@pytest.fixture
def book(tmp_path):
    """The small book, its first chapter with a head, and an equation."""
    book = Book(tmp_path)
    equation = "# ```{math}\n# :label: own\n# a = b\n# ```\n# See {eq}`own`.\n"
    text = FIRST.replace("# # First\n", HEAD).replace("# Old prose", equation + "#\n# Old prose")
    (tmp_path / "notebooks/first.py").write_text(HEADER + text)
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    return book


def body(**changed) -> str:
    """The YAML of the head."""
    text = "\n".join(line[2:] for line in HEAD.splitlines()[3:-1])
    for old, new in changed.values():
        assert old in text
        text = text.replace(old, new)
    return text


def verdict(cases: dict, **rest) -> dict:
    return {"id": "a/b/c", "cases": cases, "verdict": "reproduced", "scale": "exact", "value": "a: 1 → 2", **rest}


def test_a_measured_value_is_one_number_a_range_or_a_count(extension):
    def measured(*cases):
        return extension.measured(verdict(dict(enumerate(cases))))

    assert measured() == "not run at this preset"
    assert measured(-0.00425) == "−0.00425" and measured(0.99512345, 0.99523456) == "0.995"
    assert measured(-0.5, 2, 0.25) == "−0.5 to 2" and measured(1297) == "1,297"
    assert measured("inf", 0.5) == "a: 1 → 2"
    assert extension.measured(verdict({"x": True, "y": False, "z": True}, missed=["y"])) == "2 of 3"
    assert extension.measured(verdict({"x": [1, 2], "y": [2, 1]}, missed=["y"])) == "1 of 2"


def test_a_placeholder_becomes_the_value_linked_to_the_verdict(extension):
    found = [verdict({"": 0.5}, verdict="not reproduced", scale="toy")]
    html = BeautifulSoup(extension.with_numbers(r"it is {b/c} of ${2/\eta}$", found), "html.parser")
    assert html.get_text() == r"it is 0.5 ○ of ${2/\eta}$"
    link = html.select_one("a.eos-value.eos-not-reproduced")
    assert (link["href"], link["title"]) == ("#a-b-c", "not seen on a toy")
    with pytest.raises(extension.HeadError, match="no claim 'b/d'; it has b/c"):
        extension.with_numbers("{b/d}", found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("answer: It is.", "answer: [It", "is not YAML"),
        ("answer: It is.", "anwser: It is.", "anwser: Extra inputs are not permitted"),
        ("answer: It is.", "", "answer: Field required"),
        ("  - Third.\n", "", "findings: List should have at least 3 items"),
    ],
)
def test_a_malformed_head_says_what_is_wrong(extension, old, new, message):
    extension.parse(body())
    with pytest.raises(extension.HeadError, match=message):
        extension.parse(body(change=(old, new)))


def test_the_head_of_each_chapter_is_read_from_its_source(extension):
    for chapter in CHAPTERS:
        head = extension.head(chapter)
        assert head["question"].endswith("?") and head["answer"].endswith(".")
        its_paper = extension.paper(head["paper"])
        assert its_paper["authors"].count(" and ") == 1 and its_paper["links"]["Paper"].startswith("https://")
        assert re.match("@(inproceedings|misc){" + head["paper"], its_paper["bibtex"])


def test_the_books_own_citation_follows_the_citation_file(extension):
    title = re.search('title: "(.*)"', (ROOT / "CITATION.cff").read_text())[1]
    assert f'title = "{title}"' in extension.bibtex_of_the_book()


def test_the_head_shows_the_verdicts_of_the_page(book):
    book.build()

    def head():
        page = BeautifulSoup(book.page("notebooks/first"), "html.parser")
        assert page.select_one("article h1").get_text().startswith("First")
        return page, page.select_one(".eos-head")

    page, shown = head()
    assert shown.select_one("cite").get_text().startswith("Understanding the unstable convergence")
    value = shown.select_one("a.eos-value")
    assert value.get_text() == "4" and page.select_one(value["href"])["class"][0] == "eos-claim"
    assert shown.select_one(".eos-bar li").get_text() == "1 reproduced"
    thumbnail = shown.select_one(".eos-thumbnails a")
    assert thumbnail.get_text() == "paper, figure 7 → ours" and page.select_one(thumbnail["href"]).name == "figure"
    # the figure itself, by the same file
    assert {i["src"].partition("#")[0] for i in shown.select(".eos-enlarge img")} == {"figures/first-one.svg"}
    assert shown.select_one("a[download]")["href"] == "first.ipynb"
    assert "@inproceedings{ahn2022" in shown.get_text() and "eoslib run first --preset quick" in shown.get_text()
    # an equation of the chapter never looks like one of the paper
    assert page.select_one(".eqno").get_text().startswith("(1.1)") and "See (1.1)" in page.get_text()

    book.edit("notebooks/first.py", "PositiveInt = 4", "PositiveInt = 6")
    book.build()
    _, shown = head()
    assert shown.select_one("a.eos-value").get_text() == "6 ○"
    assert shown.select_one(".eos-bar li").get_text() == "1 not reproduced"


def test_what_is_wrong_with_a_head_fails_the_build_by_name(book):
    for old, new, message in (
        ("{exp1/width}", "{exp1/widht}", "the page has no claim 'exp1/widht'; it has exp1/width"),
        ("figure: one", "figure: three", "no figure three; the page has one, two"),
    ):
        book.edit("notebooks/first.py", old, new)
        assert message in book.build(succeeds=False)
        book.edit("notebooks/first.py", new, old)
