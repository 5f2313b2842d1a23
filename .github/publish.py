"""Add a built site to the branch that Pages serves, beside the versions published before.

    python .github/publish.py SITE REMOTE TAG

The branch gh-pages of REMOTE gets SITE twice: in the folder TAG, where it stays, and at the root, where the last
published version lies, so that addresses without a version work. versions.html lists all. Nothing else of the branch
changes; `make publish-check` does the same with a remote of its own.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from jinja2 import Template

ROOT = Path(__file__).resolve().parents[1]
BRANCH = "gh-pages"
TAG = re.compile(r"v\d+(\.\d+)*\S*")
AUTHOR = ("-c", "user.name=eoslib", "-c", "user.email=eoslib@users.noreply.github.com")  # of the branch's commits


def git(*arguments, cwd: Path | None = None) -> str:
    """What git prints, in this repository or a folder. Raises CalledProcessError where it fails."""
    command = ["git", *AUTHOR, *arguments]
    return subprocess.run(command, cwd=cwd or ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextlib.contextmanager
def checkout(remote: str) -> Iterator[Path]:
    """A folder with the branch as it stands, or empty; what is committed there is pushed at the end."""
    if git("ls-remote", "--heads", remote, BRANCH):
        git("fetch", "--quiet", "--depth", "1", remote, BRANCH)
        start = git("rev-parse", "FETCH_HEAD")
    else:
        empty = git("hash-object", "-t", "tree", "-w", "/dev/null")
        start = git("commit-tree", empty, "-m", "The versions of the site")
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"  # of this repository, whose credentials it shares
        git("worktree", "add", "--quiet", "--detach", pages, start)
        try:
            yield pages
            head = git("rev-parse", "HEAD", cwd=pages)
            git("push", "--quiet", remote, f"{head}:refs/heads/{BRANCH}")  # here, where the remote's path begins
        finally:
            git("worktree", "remove", "--force", pages)


def lay_out(site: Path, pages: Path, tag: str) -> list[str]:
    """Put the site into the folder of its tag and at the root; the tags of all versions there are now."""
    for old in pages.iterdir():
        if old.name != ".git" and (old.name == tag or not TAG.fullmatch(old.name)):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(site, pages / tag)
    shutil.copytree(site, pages, dirs_exist_ok=True)
    versions = [folder.name for folder in pages.iterdir() if folder.is_dir() and TAG.fullmatch(folder.name)]
    versions.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)], reverse=True)
    (pages / ".nojekyll").touch()  # or Pages would leave out the folders that begin with an underscore
    template = Template((ROOT / ".github/versions.html").read_text(encoding="utf-8"), autoescape=True)
    (pages / "versions.html").write_text(template.render(versions=versions), encoding="utf-8")
    return versions


def publish(site: Path, remote: str, tag: str) -> list[str]:
    """Add the site to the branch; the tags of all versions there are now. Raises SystemExit if CITATION.cff has another
    version than the tag says."""
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, but CITATION.cff has version {version}")
    commit = git("rev-parse", "HEAD")
    with checkout(remote) as pages:
        versions = lay_out(site, pages, tag)
        git("add", "--all", cwd=pages)
        git("commit", "--quiet", "--allow-empty", "--message", f"{tag}, built from {commit}", cwd=pages)
    return versions


if __name__ == "__main__":
    site, remote, tag = sys.argv[1:]
    print("published:", ", ".join(publish(Path(site).resolve(), remote, tag)))
