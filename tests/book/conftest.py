"""The site, built once for all tests and workers, and the browser to look at it with."""

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import browser  # tests/browser.py
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id) -> Path:
    """The folder of the site, built by ``jupyter-book build .``: executed at quick, shown as published."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # of all workers of pytest-xdist
    log = shared / "site.log"
    with FileLock(shared / "site.lock"):
        if not log.exists():
            command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            log.write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")
    status, _, printed = log.read_text().partition("\n")
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
