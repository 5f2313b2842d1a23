"""What a release needs: workflows, the branch that Pages serves, buttons of the configured repository, citations."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from pages import CHAPTERS
from pybtex.database import parse_file
from test_build import Book  # the small book

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text())
REPOSITORY = "https://github.com/someone/her-book"


def test_actionlint_finds_nothing():
    done = subprocess.run([Path(sys.executable).with_name("actionlint")], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_workflows_run_what_exists():
    assert set(WORKFLOWS) == {"test", "publish", "rebuild", "links"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for flow in WORKFLOWS.values() for job in flow["jobs"].values() for step in job["steps"]]
    runs = " ".join(step.get("run", "") for step in steps)
    assert set(re.findall(r"make ([\w-]+)", runs)) <= targets
    files = re.findall(r"(?<!\S)(\.(?:ci|github)/\S+)", runs)
    assert {".ci/run", ".github/publish.py", ".github/linkcheckerrc"} == set(files)
    assert all((ROOT / file).is_file() for file in files)


# --- the branch that Pages serves -----------------------------------------------------------------------


@pytest.fixture
def publish(monkeypatch):
    """The script, in a repository of its own, whose version is as given."""
    spec = importlib.util.spec_from_file_location("publish", ROOT / ".github/publish.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def checkout(tmp_path, monkeypatch, publish):
    """A small repository that the script takes for its own."""
    root = tmp_path / "checkout"
    (root / ".github").mkdir(parents=True)
    (root / ".github/versions.html").write_text((ROOT / ".github/versions.html").read_text())
    monkeypatch.setattr(publish, "ROOT", root)
    for command in (["init", "--quiet", "."], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        publish.git(*command, cwd=root)
    publish.git("init", "--quiet", "--bare", tmp_path / "remote.git", cwd=root)
    return root


def published(remote: Path, publish) -> dict[str, str]:
    """The branch's files with their text."""
    names = publish.git("ls-tree", "-r", "--name-only", publish.BRANCH, cwd=remote).splitlines()
    return {name: publish.git("show", f"{publish.BRANCH}:{name}", cwd=remote) for name in names}


def test_older_versions_stay(publish, checkout, tmp_path):
    remote = tmp_path / "remote.git"
    for version, page, rest in (("0.9", "old", {"gone.html": "-"}), ("0.10", "new", {}), ("0.10", "newer", {})):
        (checkout / "CITATION.cff").write_text(f"version: '{version}'\n")
        site = tmp_path / page
        site.mkdir()
        for name, text in {"index.html": page, **rest}.items():
            (site / name).write_text(text)
        versions = publish.publish(site, "../remote.git", f"v{version}")  # relative, as in `make publish-check`
    assert versions == ["v0.10", "v0.9"]
    files = published(remote, publish)
    listing = files.pop("versions.html")
    newest = {"index.html": "newer", "v0.10/index.html": "newer"}
    assert files == {".nojekyll": "", "v0.9/index.html": "old", "v0.9/gone.html": "-"} | newest
    links = [link["href"] for link in BeautifulSoup(listing, "html.parser").select("li a")]
    assert links == ["v0.10/index.html", "v0.9/index.html"]
    assert len(publish.git("log", "--format=%s", publish.BRANCH, cwd=remote).splitlines()) == 4  # the first is empty
    assert publish.git("worktree", "list", cwd=checkout).count("\n") == 0


def test_a_tag_of_another_version_is_refused(publish, checkout, tmp_path):
    (checkout / "CITATION.cff").write_text("version: 0.1.0\n")
    with pytest.raises(SystemExit, match=r"tag is v0\.2\.0, but CITATION\.cff has version 0\.1\.0"):
        publish.publish(tmp_path, str(tmp_path / "remote.git"), "v0.2.0")
    assert publish.git("ls-remote", str(tmp_path / "remote.git"), cwd=checkout) == ""


# --- the buttons -----------------------------------------------------------------------------------------


def buttons(html: str) -> dict[str, str]:
    """The links of the header: what they say, or else their icon's tip, → address."""
    links = BeautifulSoup(html, "html.parser").select(".article-header-buttons a[href]")
    return {link.get_text(strip=True) or link["title"]: link["href"] for link in links}


def test_buttons_lead_to_the_configured_repository(tmp_path):
    book = Book(tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters: [{file: notebooks/second}]\n")
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\n")
    book.edit("_config.yml", '  url: ""\n', f"  url: {REPOSITORY}\n")
    book.build()
    assert buttons(book.page("notebooks/second")) == {
        "Colab": "https://colab.research.google.com/github/someone/her-book/blob/gh-pages/v1.2.3/notebooks/second.ipynb",
        "Binder": "https://mybinder.org/v2/gh/someone/her-book/v1.2.3?urlpath=lab/tree/notebooks/second.py",
        "Show source": f"{REPOSITORY}/blob/main/notebooks/second.py?plain=1",
        "Suggest edit": f"{REPOSITORY}/edit/main/notebooks/second.py",
        "All versions": "https://someone.github.io/her-book/versions.html",
    }
    assert set(buttons(book.page("book/intro"))) == {"Show source", "Suggest edit", "All versions"}
    offered = nbformat.read(tmp_path / "_build/html/notebooks/second.ipynb", as_version=4)
    first, second = offered.cells[:2]
    assert f"git clone --quiet {REPOSITORY}.git" in first.source and "git checkout --quiet v1.2.3" in first.source
    assert second.source.startswith("# Second")
    nbformat.validate(offered)


def test_without_a_repository_there_are_none(site):
    configured = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    found = buttons((site / f"{CHAPTERS[0]}.html").read_text())
    first = nbformat.read(site / f"{CHAPTERS[0]}.ipynb", as_version=4).cells[0]
    assert bool(found) == ("git clone" in first.source) == bool(configured), found


def test_a_repository_elsewhere_is_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import publishing
    from sphinx.config import Config
    from sphinx.errors import ConfigError

    config = Config({}, {"html_theme_options": {"repository_url": "https://example.org/a/b"}})
    config.add("html_theme_options", {}, "html", [])
    with pytest.raises(ConfigError, match=r"expected https://github\.com/OWNER/NAME"):
        publishing.configure(None, config)


# --- citations -------------------------------------------------------------------------------------------


def test_the_citations_agree():
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    for name in ("title", "version", "license", "keywords"):
        assert zenodo[name] == CFF[name], name
    assert [creator["name"] for creator in zenodo["creators"]] == [author["name"] for author in CFF["authors"]]
    assert f'version = "{CFF["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == CFF["version"]
    configured = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert CFF.get("repository-code", "") == configured


def test_the_citations_name_the_papers_of_the_chapters():
    bibliography = parse_file(ROOT / "book/references.bib").entries
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())["references"]
    ledgers = [ROOT / "notebooks/claims" / f"{Path(chapter).name}.yaml" for chapter in CHAPTERS]
    papers = [bibliography[yaml.safe_load(ledger.read_text())["paper"]] for ledger in ledgers]
    assert len(papers) == len(CFF["references"]) == len(zenodo)
    for paper, cited, line in zip(papers, CFF["references"], zenodo, strict=True):
        names = [" ".join(p.first_names + p.middle_names + p.last_names) for p in paper.persons["author"]]
        assert cited["title"] == paper.fields["title"] and str(cited["year"]) == paper.fields["year"]
        assert [f"{a['given-names']} {a['family-names']}" for a in cited["authors"]] == names
        venue = paper.fields.get("booktitle")
        assert cited.get("collection-title") == venue
        assert line == f"{', '.join(names)}. {cited['title']}. {f'{venue}, ' if venue else ''}{cited['year']}."
