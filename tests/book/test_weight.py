"""What a page costs: bytes sent, how far its content jumps while it loads, paper."""

import gzip
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fontTools.ttLib import TTFont
from pages import NOTEBOOKS, PAGES, ROOT, reading

sys.path.insert(0, str(ROOT / "book/_ext"))
import light_assets

# of pytest-playwright's own fixture base_url
pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")

KB = 1000


def sent(file: Path) -> int:
    """The bytes of a file as a server sends it."""
    whole = file.read_bytes()
    return min(len(whole), len(gzip.compress(whole)))


@reading(NOTEBOOKS, "wide")
def test_a_chapter_is_light(read, site, served):
    """1 MB with the first figure, 3 MB with all of them."""
    files = {urlsplit(url).path.lstrip("/") for url in read.asked if url.startswith(served)}
    sizes = {name: sent(site / name) for name in files if (site / name).is_file()}
    image = read.page.locator("article figure img:visible").first
    first = urlsplit(image.evaluate("i => i.currentSrc")).path.lstrip("/")
    pictures = {name for name in sizes if name.endswith((".png", ".svg", ".jpg", ".webp"))}
    before = sum(size for name, size in sizes.items() if name not in pictures) + sizes[first]
    heaviest = sorted(((size // KB, name) for name, size in sizes.items()), reverse=True)[:8]
    print(read.docname, "first figure:", before // KB, "kB; all:", sum(sizes.values()) // KB, "kB;", heaviest)
    assert f"{read.docname}.html" in sizes and len(sizes) > 10
    assert before <= 1000 * KB, heaviest
    assert sum(sizes.values()) <= 3000 * KB, heaviest


@reading(PAGES)
def test_a_page_does_not_jump(read):
    """The sum of all layout shifts, from the first paint to the end of the page; not of the list of contents beside it,
    which opens where one reads."""
    total = sum(shift[0] for shift in read.shifts)
    print(read.docname, read.screen, f"layout shift: {total:.4f}")
    assert total <= 0.05, read.shifts[:5]


@reading(NOTEBOOKS, "wide")
def test_a_chapter_fits_25_sheets(read):
    """Also from a dark screen, in the light colours, whose background is white: the paper's."""
    page = read.page
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme == 'dark'")  # the theme listens
    page.evaluate("""() => { onbeforeprint = () => { window.theme = document.documentElement.dataset.theme; }; }""")
    sheets = len(re.findall(rb"/Type\s*/Page\b(?!s)", page.pdf(format="A4")))
    print(read.docname, "sheets:", sheets)
    assert page.evaluate("theme") == "light"
    page.wait_for_function("document.documentElement.dataset.theme == 'dark'")
    page.emulate_media(color_scheme="light")
    assert 0 < sheets <= 25


@pytest.fixture
def paper(read):
    """The page as a printer gets it, from a dark screen. Its width makes the page choose its narrow pictures, which it
    may keep: no test that looks at pictures may follow."""
    screen = read.page.viewport_size
    read.page.set_viewport_size({"width": 718, "height": 1000})
    read.page.emulate_media(media="print", color_scheme="dark")
    yield read.page
    read.page.emulate_media(media="screen", color_scheme="light")
    read.page.set_viewport_size(screen)


@reading(PAGES, "wide")
def test_nothing_of_a_page_is_cut_off_on_paper(paper):
    cut = paper.evaluate(
        """() => {
          const edge = document.documentElement.clientWidth + 1, seen = e => e.checkVisibility() && e.clientWidth;
          return [...document.querySelectorAll("article :not(mjx-assistive-mml, mjx-assistive-mml *)")]
            .filter(e => seen(e) && (e.getBoundingClientRect().right > edge ||
                                     e.matches("pre") && e.scrollWidth > e.clientWidth + 1))
            .map(e => e.outerHTML.slice(0, 120));
        }"""
    )
    assert cut == []
    clickable = paper.locator(
        ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer, #jb-print-docs-body, "
        "article button, article select, details.hide > summary"
    )
    assert [e.evaluate("e => e.outerHTML.slice(0, 120)") for e in clickable.all() if e.is_visible()] == []


def test_the_theme_brings_only_what_is_used(site):
    static = site / "_static"
    assert not list(static.rglob("*.map")) and not (static / "scripts/fontawesome.js").exists()
    assert not [file for file in static.rglob("*.[cj]s*") if "sourceMappingURL" in file.read_text(encoding="utf-8")]
    fonts = list((static / "vendor/fontawesome").rglob("*.*"))
    assert fonts and sum(file.stat().st_size for file in fonts if "webfonts" in file.parts) < 20 * KB


@reading(PAGES, "phone")
def test_every_icon_is_in_the_fonts(read, site):
    glyphs = read.page.locator("[class*='fa-']").evaluate_all(
        """all => all.map(e => [e.className, getComputedStyle(e, "::before").content.replaceAll('"', "")])"""
    )
    drawn = set().union(*(TTFont(font).getBestCmap() for font in site.glob("_static/vendor/fontawesome/webfonts/*")))
    assert len(glyphs) > 3
    assert [(name, glyph) for name, glyph in glyphs if len(glyph) != 1 or ord(glyph) not in drawn] == []


def test_an_icon_that_the_theme_lacks_is_named(tmp_path, caplog):
    css = (
        '.fa-star:before,.fa-old-star:before{content:"\\f005"}.fa-solid,.fa-lg{font-size:2em}'
        '.a:after{content:"\\f107"}b{--i:"\uf0f3"}'
    )
    for name, text in {
        "_static/styles/pydata-sphinx-theme.css": css,
        "_static/theme.js": "icon.className = 'fa-old-star'",
        "index.html": '<p class="fa-no-icon-outside">fa-prose</p><i class="fa-solid fa-lg fa-unicorn">',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert light_assets.icons(tmp_path) == {0xF005, 0xF107, 0xF0F3}
    assert [record.getMessage() for record in caplog.records] == [
        f"index.html: the theme has no icon {name}" for name in ("fa-no-icon-outside", "fa-unicorn")
    ]
