"""The built site, in a browser: what a reader meets on every page."""

import csv
import json
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from pages import CHAPTERS, NOTEBOOKS, PAGES, PHONE, TYPESET, reading, watched
from playwright.sync_api import expect

# of pytest-playwright's own fixture base_url
pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")

DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture
def visit(served, new_context):
    """Open a page anew, to use it, and wait for its mathematics; at the end, nothing may be complained of."""
    complaints = []

    def open_page(docname: str, **options):
        page = new_context(**options).new_page()
        complaints.append(watched(page, served))
        page.goto(f"{served}/{docname}.html", wait_until="networkidle")
        page.wait_for_function(TYPESET)
        return page

    yield open_page
    assert not any(complaints), complaints


@reading(PAGES, "wide")
def test_a_page_is_whole(read):
    article = read.page.locator("article.bd-article")
    text = article.inner_text()
    assert len(text) > 100
    assert "Traceback (most recent call last)" not in text and article.locator(".traceback").count() == 0
    mathematics = article.locator(".math").count()
    assert article.locator("mjx-container").count() >= mathematics
    assert article.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert "\\(" not in text and "$$" not in text, "mathematics that was not rendered"
    for image in article.locator("img").all():
        assert (image.get_attribute("alt") or "").strip(), "an image without alternative text"
        image.evaluate("i => { i.loading = 'eager'; }")
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth > 0)"), "an image that does not load"
    if read.docname in NOTEBOOKS:
        assert mathematics > 0 and article.locator("figure img").count() > 0
        assert article.locator("figure").count() == article.locator("figure figcaption").count()
        assert article.locator(".eos-claim").count() > 0
        assert article.locator(f"a[download][href='{read.docname.rpartition('/')[2]}.ipynb']").count() >= 1


@reading(PAGES, "wide")
def test_a_page_is_accessible(read):
    accessible(read)


@reading([PAGES[0], *NOTEBOOKS], "phone")  # on which they are laid out otherwise
def test_a_page_is_accessible_on_a_phone(read):
    accessible(read)


# Marks the first of each kind of text: of elements whose tags, classes and styles agree up to the root. On a page of a
# thousand like entries the contrast of all would take a minute.
FIRST_OF_ITS_KIND = """() => {
  const numbers = new Map(), kinds = new Map(), seen = new Set();
  for (const e of document.querySelectorAll("*")) {
    const look = [kinds.get(e.parentElement), e.tagName, e.className, e.getAttribute("style")].join("|");
    if (!numbers.has(look)) numbers.set(look, numbers.size);
    const kind = numbers.get(look);
    kinds.set(e, kind);
    if (!seen.has(kind) && [...e.childNodes].some(c => c.nodeType === Node.TEXT_NODE && c.data.trim())) {
      seen.add(kind);
      e.setAttribute("data-first-of-its-kind", "");
    }
  }
}"""


def accessible(read):
    # without preload, since axe would ask for stylesheets at wrong addresses; it describes only what it asserts
    options = {"preload": False, "resultTypes": ["violations"]}
    shapes, colours = {"rules": {"color-contrast": {"enabled": False}}}, {"runOnly": ["color-contrast"]}
    runs = [("light", None, shapes)]
    if read.screen == "wide":  # a phone differs in all but colours
        read.page.evaluate(FIRST_OF_ITS_KIND)
        runs += [(scheme, "[data-first-of-its-kind]", colours) for scheme in ("light", "dark")]
    for scheme, context, which in runs:
        read.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # or buttons fade to their new colours
        read.page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")  # the theme listens
        found = Axe().run(read.page, context=context, options=options | which).response["violations"]
        read.page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        assert [(v["id"], v["impact"], [n["target"] for n in v["nodes"]]) for v in found] == []


@reading(PAGES, "phone")
def test_a_page_fits_a_phone(read):
    wide = read.page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const scrolls = e => e && e !== document.body &&
            (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
          const outside = e => e.getBoundingClientRect().right > width + 1 && !scrolls(e);
          return [document.documentElement.scrollWidth - width,
                  [...document.querySelectorAll("article *")].filter(outside).map(e => e.outerHTML.slice(0, 200))];
        }"""
    )
    assert wide == [0, []]


def test_links_inside_the_site_resolve(site):
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]  # a template of the theme is there
    pages = {path: BeautifulSoup(path.read_text(), "html.parser") for path in files}
    places = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in pages.items()}
    assert len(pages) > len(PAGES)
    broken = []
    for path, soup in pages.items():
        for link in soup.select("a[href], link[href], script[src], img[src]"):
            url = link.get("href") or link.get("src")
            address, anchor = urldefrag(urljoin(path.as_uri(), url))
            if not address.startswith("file:"):
                continue
            target = Path(unquote(urlsplit(address).path))
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {url} does not exist")
            elif anchor and target in pages and unquote(anchor).partition("?")[0] not in places[target]:
                broken.append(f"{path.relative_to(site)}: {url} has no such place")
    assert broken == []


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_chapter(served, site, page, scheme):
    address = served if scheme == "http" else site.as_uri()
    page.goto(f"{address}/search.html?q=sharpness")
    page.wait_for_selector("#search-results li a")
    found = [link.get_attribute("href") for link in page.locator("#search-results li a").all()]
    assert any("unstable_convergence" in href for href in found), found


def test_pages_open_from_the_file_system(site, page):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{site.as_uri()}/{CHAPTERS[0]}.html", wait_until="networkidle")
    page.wait_for_function(TYPESET)
    assert page.locator("mjx-container").count() > 0
    assert [url for url in requests if not url.startswith((site.as_uri(), "data:"))] == []


def test_the_board_filters_by_keyboard(visit):
    page = visit("book/claims", viewport=DESKTOP)
    claims = page.locator(".eos-matrix").first.locator("tbody tr")
    everything = claims.count()
    assert everything > 0 and page.locator(".eos-matrix").first.locator("tbody tr:visible").count() == everything
    verdict = page.get_by_label("Verdict", exact=True)
    for _ in range(verdict.locator("option").count() - 1):
        verdict.focus()
        page.keyboard.press("ArrowDown")
        chosen = verdict.input_value()
        shown = page.locator(".eos-matrix").first.locator("tbody tr:visible")
        for row in shown.all():
            assert row.locator(f".eos-cell[data-verdict='{chosen}']").count() > 0
        assert page.locator(".eos-filter output").inner_text().startswith(f"{shown.count()} of {everything} claims")


def test_a_screen_holds_many_claims_of_the_board(visit):
    page = visit("book/claims", viewport={"width": 1400, "height": 900})
    places = [row.bounding_box() for row in page.locator(".eos-matrix tbody tr").all()[:20]]
    assert sum(place["y"] + place["height"] <= 900 for place in places) >= 15


def test_the_board_is_complete_without_javascript(served, new_context):
    page = new_context(viewport=DESKTOP, java_script_enabled=False).new_page()
    page.goto(f"{served}/book/claims.html")
    rows = page.locator(".eos-matrix tbody tr")
    assert rows.count() == page.locator(".eos-matrix tbody tr:visible").count() > 0
    assert not page.locator(".eos-filter").is_visible()
    rows.first.locator("summary").click()
    assert rows.first.get_by_text("Measured").is_visible()


def test_an_opened_row_fits_a_phone(visit):
    page = visit("book/claims", viewport=PHONE, has_touch=True, is_mobile=True)
    page.locator(".eos-matrix details").evaluate_all("rows => rows.forEach(row => row.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_the_landing_page_plays_and_stops(visit):
    page = visit("book/intro", viewport=DESKTOP, reduced_motion="no-preference")
    button, place = page.locator(".eos-play button"), page.locator(".eos-play input")
    end = int(place.get_attribute("max"))
    assert button.inner_text() == "Pause"
    button.click()
    at = int(place.input_value())
    assert button.inner_text() == "Play" and at < end
    width = page.locator(".eos-play clipPath rect").first.evaluate("r => r.width.baseVal.value")
    place.fill(str(end))
    full = page.locator(".eos-play clipPath rect").first.evaluate("r => r.width.baseVal.value")
    assert width < full and abs(width / full - at / end) < 0.01


def test_the_landing_page_is_still_where_that_is_preferred(visit):
    page = visit("book/intro", viewport=DESKTOP, reduced_motion="reduce")
    place = page.locator(".eos-play input")
    assert page.locator(".eos-play button").inner_text() == "Play"
    assert place.input_value() == place.get_attribute("max")


def test_the_landing_page_has_a_card_for_each_chapter(visit):
    page = visit("book/intro", viewport=DESKTOP)
    links = page.locator(".eos-card h3 a")
    assert [link.get_attribute("href") for link in links.all()] == [f"../{docname}.html" for docname in CHAPTERS]
    for docname, card in zip(CHAPTERS, page.locator(".eos-card").all(), strict=True):
        assert card.locator(".eos-bar li").count() > 0
        title = visit(docname).locator("article h1").evaluate("h => h.firstChild.textContent")
        assert card.locator("h3").inner_text() == title


def test_search_results_quote_mathematics_as_text(served, page):
    page.goto(f"{served}/search.html?q=relative+progress")
    expect(page.locator("#search-results .search-summary")).to_contain_text("finished", timeout=30_000)
    unread = page.locator("#search-results li:not(:has(p.context, span))")  # each page is fetched for what it says
    expect(unread).to_have_count(0, timeout=30_000)
    quoted = " ".join(page.locator("#search-results p.context").all_inner_texts())
    assert "η" in quoted and "\\" not in quoted, quoted


def test_the_site_has_an_icon_where_browsers_ask_for_it(site):
    assert (site / "favicon.ico").read_bytes()[:4] == b"\0\0\1\0"


def test_claims_json_lists_every_verdict_with_its_place(site):
    ledger = json.loads((site / "claims.json").read_text())
    assert set(ledger) == {"commit", "claims"} and ledger["claims"]
    fields = {"id", "preset", "verdict", "value", "criterion", "statement", "paper_value", "page", "runs"}
    for claim in ledger["claims"]:
        assert fields <= set(claim)
        page, _, anchor = claim["page"].partition("#")
        assert f'id="{anchor}"' in (site / page).read_text(), claim["id"]
    with open(site / "claims.csv", newline="", encoding="utf-8") as file:
        rows = [(row["id"], row["preset"], row["verdict"]) for row in csv.DictReader(file)]
    assert rows == [(claim["id"], claim["preset"], claim["verdict"]) for claim in ledger["claims"]]


@reading(CHAPTERS, "wide")
def test_exercises_have_folded_solutions_with_what_they_printed(read):
    exercises, solutions = (read.page.locator(f"div.{kind}") for kind in ("exercise", "solution"))
    assert exercises.count() == solutions.count() >= 2
    for solution in solutions.all():
        assert solution.locator(".cell_output").count() >= 1
        assert not solution.locator(".cell_output").first.is_visible()
    solutions.first.locator("button.toggle-button").click()
    assert solutions.first.locator(".cell_output").first.is_visible()
    solutions.first.locator("button.toggle-button").click()  # other tests look at this page, too
