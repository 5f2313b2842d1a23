"""The figures of the built site, in a browser: legible on wide screens and on phones, in light and dark."""

import gzip
import io
import re

import pytest
from pages import NOTEBOOKS, SCREENS, TYPESET, reading
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")


def shown_figures(page) -> list[dict]:
    """Of each figure the visible image: its file, its width in the file and on the screen, and the room it has."""
    return page.evaluate(
        """() => Promise.all([...document.querySelectorAll(".eos-enlarge")].map(async link => {
          const image = [...link.querySelectorAll("img")].find(i => i.checkVisibility());
          image.loading = "eager";
          await image.decode();
          const [width, room] = [image, link].map(e => e.getBoundingClientRect().width);
          return {file: image.currentSrc, natural: image.naturalWidth, width, room};
        }))"""
    )


@reading(NOTEBOOKS)
def test_text_in_figures_is_at_least_11_pixels_high(read, served, site):
    figures = shown_figures(read.page)
    assert figures
    for figure in figures:
        path = figure["file"].removeprefix(f"{served}/")
        assert path.endswith(".narrow.svg" if read.screen == "phone" else ".svg")
        assert figure["width"] <= figure["room"] + 0.5
        # matplotlib draws the outlines of letters at 100 points and scales them
        scales = re.findall(r"scale\((0\.\d+) -(0\.\d+)\)", (site / path).read_text())
        assert scales and all(across == down for across, down in scales), path
        on_screen = figure["width"] / figure["natural"] * 96 / 72
        assert min(100 * float(across) for across, _ in scales) * on_screen >= 11, path


@reading(NOTEBOOKS, "wide")
def test_figures_have_no_ground_of_their_own(read):
    for scheme in ("dark", "light"):
        read.page.emulate_media(color_scheme=scheme)
        shown_figures(read.page)
        for link in read.page.locator(".eos-enlarge").all()[:3]:
            picture = Image.open(io.BytesIO(link.screenshot())).convert("RGB")
            ground = read.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert picture.getpixel((0, 0)) == tuple(map(int, re.findall(r"\d+", ground)[:3]))


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("docname", NOTEBOOKS)
def test_the_page_does_not_shift_while_its_figures_come(served, new_context, docname, screen):
    """On a page of its own: on one that was read to its end, they have come."""
    page = new_context(viewport=SCREENS[screen]).new_page()
    page.goto(f"{served}/{docname}.html", wait_until="networkidle")
    page.wait_for_function(TYPESET)
    before = page.evaluate("document.documentElement.scrollHeight")
    shown_figures(page)
    # but for fractions of a pixel
    assert page.evaluate("document.documentElement.scrollHeight") == pytest.approx(before, abs=3)


@pytest.mark.parametrize("docname", NOTEBOOKS)
def test_the_figures_of_a_chapter_are_light(site, docname):
    chapter = site / docname
    files = set(chapter.parent.glob(f"figures/{chapter.name}-*.svg"))
    narrow = {file for file in files if file.name.endswith(".narrow.svg")}
    for screen in (narrow, files - narrow):
        sent = sum(len(gzip.compress(file.read_bytes())) for file in screen)
        assert 0 < sent < 2_000_000  # of the 3 MB of a chapter


def test_a_click_enlarges_a_figure_and_escape_closes_it(served, new_context):
    page = new_context(viewport=SCREENS["wide"]).new_page()
    page.goto(f"{served}/{NOTEBOOKS[0]}.html")
    link = page.locator(".eos-enlarge").first
    width = link.locator("img:visible").bounding_box()["width"]
    link.focus()
    page.keyboard.press("Enter")
    enlarged = page.locator("dialog.eos-enlarged img")
    assert enlarged.bounding_box()["width"] > 1.3 * width
    assert enlarged.get_attribute("alt") == link.locator("img").first.get_attribute("alt")
    page.keyboard.press("Escape")
    assert page.locator("dialog.eos-enlarged").count() == 0


def test_code_is_one_click_away(served, new_context):
    page = new_context(viewport=SCREENS["wide"]).new_page()
    page.goto(f"{served}/{NOTEBOOKS[0]}.html")
    figure = page.locator("figure:has(.eos-enlarge)").first
    code = figure.locator("details").first
    assert not code.locator("pre").is_visible()
    code.locator("summary").click()
    assert "with panels(" in code.locator("pre").inner_text()
