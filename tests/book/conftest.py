"""The site, built once for all tests and workers, and the browser to look at it with.

Reading a page takes seconds, so that the tests that only look at it share one reading of it for each screen:

    @reading(CHAPTERS, "phone")
    def test_…(read):
        read.page.evaluate(…)
"""

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import browser  # tests/browser.py
import pytest
from filelock import FileLock
from pages import SCREENS, TYPESET, watched
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
ENVIRONMENT = dict(os.environ)  # before tests change it, beside which the site is built


@functools.cache
def built(shared: Path) -> str:
    """The exit status of ``jupyter-book build .`` and what it printed, from whoever asks first in a session."""
    log = shared / "site.log"
    with FileLock(shared / "site.lock"):
        if not log.exists():
            command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
            done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
            log.write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")
    return log.read_text()


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id) -> Path:
    """The folder of all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session", autouse=True)
def site_ahead(request, shared) -> None:
    """The site is built beside the tests that do not look at it, which run first."""
    if any("site" in item.fixturenames for item in request.session.items):
        threading.Thread(target=built, args=[shared], daemon=True).start()


@pytest.fixture(scope="session")
def site(shared) -> Path:
    """The folder of the site, built by ``jupyter-book build .``: executed at quick, shown as published."""
    status, _, printed = built(shared).partition("\n")
    if status != "0":
        pytest.fail(f"jupyter-book build . exits with {status}\n{printed}")
    return SITE


@pytest.fixture(scope="session")
def served(site):
    """The address of the site on a small local server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args) -> dict:
    """The system's Chromium, or Playwright's own; without either, the tests fail."""
    executable = browser.path()
    if executable is None:
        pytest.fail("no browser: install the package chromium, or run `playwright install chromium`")
    off = ("gpu", "background-networking", "component-update", "sync", "quic")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in off)]
    return browser_type_launch_args | {"executable_path": executable, "args": arguments}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Tests of the site come last, those of one page on one screen one after the other, whatever the file."""

    def place(item):
        read = item.callspec.params.get("read", ()) if hasattr(item, "callspec") else ()
        return "site" in item.fixturenames, read

    items.sort(key=place)


@dataclass
class Read:
    """A page of the site that was read to its end on a screen. asked: the addresses that it asked for; shifts: the
    layout shifts."""

    docname: str
    screen: str
    page: Page
    asked: list[str]
    shifts: list


SHIFTS = """
    window.shifts = [];
    new PerformanceObserver(list => {
      for (const entry of list.getEntries())
        if (!entry.hadRecentInput && entry.sources.some(s => !s.node?.parentElement?.closest(".bd-sidebar-secondary")))
          shifts.push([entry.value, ...entry.sources.map(s => s.node?.outerHTML?.slice(0, 80) ?? s.node?.nodeName)]);
    }).observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(scope="session")
def read(request, served, browser) -> Iterator[Read]:
    """The page and screen that `pages.reading` gives the test; it is left as it was found. Once no test needs it any
    more, complains of errors and of failed or foreign requests."""
    docname, screen = request.param
    context = browser.new_context(viewport=SCREENS[screen], is_mobile=screen == "phone", has_touch=screen == "phone")
    page, asked = context.new_page(), []
    complaints = watched(page, served)
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script(SHIFTS)
    page.goto(f"{served}/{docname}.html", wait_until="networkidle")
    page.wait_for_function(TYPESET)
    for _ in range(200):  # a screen at a time, so that all of it is loaded
        if page.evaluate("() => innerHeight + scrollY >= document.documentElement.scrollHeight - 2"):
            break
        page.evaluate("() => scrollBy({ top: innerHeight, behavior: 'instant' })")
        page.wait_for_timeout(30)
    page.wait_for_load_state("networkidle")
    shifts = sorted(page.evaluate("shifts"), reverse=True)
    page.evaluate("() => scrollTo({ top: 0, behavior: 'instant' })")
    yield Read(docname, screen, page, list(asked), shifts)
    context.close()
    assert complaints == []
