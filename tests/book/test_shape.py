"""How a chapter's page spends its height: what a reader meets first, and what verdicts take."""

import pytest
from pages import CHAPTERS, reading

# of pytest-playwright's own fixture base_url
pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")

# The heights at 1400 pixels of the default build at commit 9588917, before the pages were made to be read in minutes
BEFORE = {
    "notebooks/unstable_convergence": 33_390,
    "notebooks/forward_invariance": 28_780,
    "notebooks/self_stabilization": 43_624,
}


def height(read) -> float:
    return read.page.evaluate("document.querySelector('article').getBoundingClientRect().height")


@reading(list(BEFORE), "wide")
def test_a_chapter_is_at_most_seven_tenths_as_high_as_it_was(read):
    assert height(read) <= 0.7 * BEFORE[read.docname]


@reading(CHAPTERS)
def test_closed_verdicts_take_a_fifth_of_a_chapter_at_most(read):
    verdicts = read.page.locator("details.eos-claim").evaluate_all("all => all.map(e => e.offsetHeight)")
    assert len(verdicts) > 20
    assert sum(verdicts) <= 0.2 * height(read)


@reading(CHAPTERS, "wide")  # on a phone the parts of a row stand below one another
def test_a_verdict_that_holds_is_one_low_row(read):
    rows = read.page.locator("details.eos-claim:not(:has(.eos-why))").evaluate_all(
        "all => all.map(e => [e.getBoundingClientRect().height, e.id])"
    )
    assert rows and [row for row in rows if row[0] > 44] == []


@reading(CHAPTERS)
def test_a_figure_comes_within_the_first_900_pixels(read):
    figure = read.page.locator("article .eos-enlarge").first
    assert figure.evaluate("e => e.getBoundingClientRect().top + scrollY") <= 900
