"""The pages of the site, and the screens on which the tests read them."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
CHAPTERS = [page for page in NOTEBOOKS if not page.startswith("notebooks/gallery/")]

PHONE = {"width": 390, "height": 844}
SCREENS = {"wide": {"width": 1400, "height": 900}, "phone": PHONE}
# A page that has mathematics sets `MathJax`, with its options, before the script that typesets has come; the fonts of
# what it typeset come last.
TYPESET = "() => !window.MathJax || MathJax.startup?.promise?.then(() => document.fonts.ready).then(() => true)"


def reading(docnames: list[str], *screens: str):
    """Gives a test each of the pages on each of the screens, all of them if none is named, as the fixture `read`. Tests
    of one page run on one worker, so that it is read once."""
    cases = [(docname, screen) for docname in docnames for screen in screens or SCREENS]
    return pytest.mark.parametrize(
        "read",
        [pytest.param(case, id="-".join(case), marks=pytest.mark.xdist_group("-".join(case))) for case in cases],
        indirect=True,
    )


def watched(page, site: str) -> list[str]:
    """What there is to complain of while the page is open, growing: errors, and failed or foreign requests."""
    complaints = []
    own = (site, f"blob:{site}", "data:")
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(f"console: {m.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", lambda r: r.url.startswith(own) or complaints.append(f"asks {r.url}"))
    page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url}"))
    page.on("response", lambda r: r.status >= 400 and complaints.append(f"{r.status}: {r.url}"))
    return complaints
