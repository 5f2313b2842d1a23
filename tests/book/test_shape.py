"""How a chapter's page spends its height: what a reader meets first, and what verdicts take."""

import pytest
from test_site import CHAPTERS, SCREENS, TYPESET

# the pages of the gallery are results alone
CHAPTERS = [docname for docname in CHAPTERS if not docname.startswith("notebooks/gallery/")]

# of pytest-playwright's own fixture base_url
pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")


@pytest.fixture(params=SCREENS)
def chapter(request, served, new_context):
    """Opens a chapter, with its formulas drawn."""

    def opened(docname):
        page = new_context(viewport=SCREENS[request.param]).new_page()
        page.goto(f"{served}/{docname}.html", wait_until="networkidle")
        page.wait_for_function(TYPESET)
        return page

    return opened


@pytest.mark.parametrize("docname", CHAPTERS)
def test_closed_verdicts_take_a_fifth_of_a_chapter_at_most(chapter, docname):
    heights = chapter(docname).evaluate(
        """() => [...document.querySelectorAll("article, details.eos-claim")]
             .map(e => [e.tagName, e.getBoundingClientRect().height])"""
    )
    whole = sum(height for tag, height in heights if tag == "ARTICLE")
    verdicts = [height for tag, height in heights if tag == "DETAILS"]
    assert len(verdicts) > 20
    assert sum(verdicts) <= 0.2 * whole


@pytest.mark.parametrize("docname", CHAPTERS)
def test_a_verdict_that_holds_is_one_low_row(chapter, docname):
    page = chapter(docname)
    if page.viewport_size["width"] < 1000:
        pytest.skip("on a phone the parts of a row stand below one another")
    rows = page.locator("details.eos-claim:not(:has(.eos-why))").evaluate_all(
        "all => all.map(e => [e.getBoundingClientRect().height, e.id])"
    )
    assert rows and [row for row in rows if row[0] > 44] == []


@pytest.mark.parametrize("docname", CHAPTERS)
def test_a_figure_comes_within_the_first_900_pixels(chapter, docname):
    figure = chapter(docname).locator("article .eos-enlarge").first
    top = figure.evaluate("e => e.getBoundingClientRect().top + scrollY")
    assert top <= 900
