"""Find what the tests need of the system, or install it: a Chromium, which `path()` names, and bubblewrap.

Tried in this order: a Chromium or Chrome on the PATH, Playwright's own, the system's package manager where we
may use it, Playwright's download. With none of them this says what to install, and the browser tests fail. Without
bubblewrap, which only the system's package manager has, the tests of the course's sandbox fail.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def path() -> str | None:
    """The executable to launch, or None if there is no browser."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def install() -> None:
    """Try to install what is missing."""
    missing = [*(["chromium"] if path() is None else []), *(["bubblewrap"] if shutil.which("bwrap") is None else [])]
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", *arguments], env=environment, stdout=subprocess.DEVNULL)
    if path() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


if __name__ == "__main__":
    install()
    print(path() or "no browser found: install Debian's chromium, or run playwright install chromium", file=sys.stderr)
    print(shutil.which("bwrap") or "no sandbox found: install bubblewrap, 0.8 or newer", file=sys.stderr)
