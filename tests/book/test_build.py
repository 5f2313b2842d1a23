"""What the build extension does on changes, errors and presets, on a miniature book of two small notebooks."""

import atexit
import csv
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]

TOC = """\
format: jb-book
root: book/intro
chapters:
  - file: notebooks/first
  - file: notebooks/second
  - file: book/claims
"""

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
"""

FIRST = """\
# # First
#
# Old prose about $2/\\eta$, and {ref}`one <fig-first-one>`.

# %%
import base64
import gzip
import os
from typing import Literal

from IPython.display import display
from pydantic import PositiveInt

from eoslib.chapter import claims

open("ran.txt", "a").write("first\\n")

# %% tags=["parameters"]
preset: Literal["quick", "standard"] = "quick"
width: PositiveInt = 4

# %%
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAACCAIAAADwyuo0AAAAEElEQVR4nGP4//8/AxwgcQCkTQv1cYtmngAAAABJRU5ErkJggg=="
)


SVG = base64.b64encode(gzip.compress(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4" id="dark"/>')).decode()


def figure(name):
    shown = {"name": name, "caption": f"Caption of **{name}**, $\\\\eta$.", "alt": f"Alt of {name}."}
    shown |= {"thumbnail": PIXEL, "wide": [400, 200], "narrow": [300, 250], "files": {"svg": SVG, "narrow.svg": SVG}}
    shown["runs"] = {"exp1-0123": 2.5} if name == "one" else {}
    shown["links"] = {"wide": [{"url": "#there", "label": "There", "place": {"left": 12.5, "top": 3}}], "narrow": []}
    display({"image/png": PIXEL, "text/plain": "-", "application/vnd.eoslib.figure+json": shown}, raw=True)


ledger = claims.Ledger("first", preset)
print("before the figure")
figure("one")
ledger.measure("exp1/width", {"width": width})
figure("two")
print("after the figures, compute", os.environ["EOSLIB_COMPUTE"])
"""

SECOND = """\
# # Second

# %%
from typing import Literal

open("ran.txt", "a").write("second\\n")

# %% tags=["parameters"]
preset: Literal["quick", "standard"] = "quick"

# %%
print("second at", preset)
"""

LEDGER = """\
paper: tiny2026
claims:
  - id: exp1/width
    where: Experiment 1
    scale: exact
    statement: The width is small.
    quantity: the width
    paper_value: "4"
    criteria:
      quick: {at_most: 5}
      standard: {at_most: 5}
"""


GALLERY = """\
chapter: first
preset: standard
parameters: {width: 7}
text: |
  # A wider one

  Own prose, and {ref}`a wide one <fig-wide-one>`.
"""


@functools.cache
def running_builder() -> subprocess.Popen:
    """A process of builder.py, until this one ends."""
    command = [sys.executable, Path(__file__).with_name("builder.py")]
    builder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(builder.communicate)  # closes its input, and waits
    return builder


class Book:
    """A small book in a folder of its own, with this checkout's library, extension and configuration; or a copy of
    another, whose executed notebooks it has."""

    def __init__(self, root: Path, copied: "Book | None" = None):
        self.root = root
        if copied:
            shutil.copytree(copied.root, root, dirs_exist_ok=True)
            return
        ignore = shutil.ignore_patterns("__pycache__")
        for folder in ("eoslib", "book/_ext", "book/_static", "book/_templates"):
            shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
        for file in ("_config.yml", "book/references.bib", "book/explorer.yaml"):
            shutil.copy(ROOT / file, root / file)
        for file, text in {
            "_toc.yml": TOC,
            "book/intro.md": "# Intro\n\nA small book.\n",
            "book/claims.md": "# Board\n\n```{claims-board}\n```\n",
            "notebooks/first.py": HEADER + FIRST,
            "notebooks/second.py": HEADER + SECOND,
            "notebooks/claims/first.yaml": LEDGER,
            "notebooks/presets/first.yaml": "standard: {width: 5}\n",
            "notebooks/presets/second.yaml": "standard: {}\n",
            "recorded/README": "",
        }.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)

    def environment(self, **more) -> dict[str, str]:
        """That of the tests, without what they say of runs and presets."""
        unset = {"EOSLIB_PRESET", "COMPUTE", "EOSLIB_RUNS", "EOSLIB_RECORDED", "PYTHONPATH"}
        return {name: value for name, value in os.environ.items() if name not in unset} | more

    def run(self, *command) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.root, env=self.environment(), capture_output=True, text=True, timeout=300
        )

    def build(self, succeeds: bool = True, **environment) -> str:
        """``jupyter-book build .``; everything it printed, without colours."""
        output = self.root / "build.log"
        order = {"root": str(self.root), "environment": self.environment(**environment), "output": str(output)}
        builder = running_builder()
        print(json.dumps(order), file=builder.stdin, flush=True)
        status = int(builder.stdout.readline())
        printed = re.sub(r"\x1b\[[\d;]*m", "", output.read_text())
        assert (status == 0) == succeeds, f"exit status {status}\n{printed}"
        return printed

    def fails(self, **environment) -> str:
        """Build, which must fail; the list of causes."""
        printed = self.build(succeeds=False, **environment)
        found = re.search(r"The build failed, for \d+ reason\(s\):\n(.*?)\n\n", printed, re.DOTALL)
        assert found, printed
        return found[1]

    def ran(self) -> list[str]:
        """The chapters that were executed since this was last asked."""
        file = self.root / "ran.txt"
        names = sorted(file.read_text().split()) if file.exists() else []
        file.unlink(missing_ok=True)
        return names

    def page(self, docname: str) -> str:
        return (self.root / "_build/html" / f"{docname}.html").read_text()

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text()
        assert old in text
        (self.root / file).write_text(text.replace(old, new))


def read_again(printed: str) -> list[str]:
    """The pages that Sphinx read."""
    return sorted(re.findall(r"reading sources\.\.\. \[ *\d+%\] (\S+)", printed))


def verdicts_on_the_board(book: Book) -> dict[str, str]:
    """Of the one claim, by preset."""
    row = BeautifulSoup(book.page("book/claims"), "html.parser").find(id="tiny2026-exp1-width")
    return {cell["data-preset"]: cell["data-verdict"] for cell in row.select(".eos-cell")}


@pytest.fixture(scope="session")
def once_built(tmp_path_factory):
    """The small book after a build: to execute its chapters takes most of one."""
    book = Book(tmp_path_factory.mktemp("book"))
    book.build()
    assert book.ran() == ["first", "second"]
    return book


@pytest.fixture
def book(once_built, tmp_path):
    return Book(tmp_path, copied=once_built)


def test_a_build_runs_what_changed_and_nothing_else(tmp_path):
    book = Book(tmp_path)
    book.build()
    assert book.ran() == ["first", "second"]
    page = book.page("notebooks/first")

    # nothing changed: nothing runs, nothing is read
    printed = book.build()
    assert book.ran() == [] and read_again(printed) == [] and "chapter first (quick): unchanged" in printed
    assert book.page("notebooks/first") == page

    # prose: rendered anew around the stored outputs
    book.edit("notebooks/first.py", "Old prose", "New prose")
    assert read_again(book.build()) == ["notebooks/first"]
    assert book.ran() == []
    assert "New prose" in book.page("notebooks/first") and "before the figure" in book.page("notebooks/first")

    # code
    book.edit("notebooks/first.py", "before the figure", "ahead of the figure")
    printed = book.build()
    assert book.ran() == ["first"] and read_again(printed) == ["notebooks/first"]
    assert 'ahead of the figure"' in book.page("notebooks/first").replace("&quot;", '"')

    # a parameter: the verdict's value changes, so the board is read again too
    book.edit("notebooks/first.py", "PositiveInt = 4", "PositiveInt = 3")
    printed = book.build()
    assert book.ran() == ["first"] and read_again(printed) == ["book/claims", "notebooks/first"]
    assert "width: 3" in book.page("book/claims")

    # a claim
    book.edit("notebooks/claims/first.yaml", "The width is small.", "The width is really small.")
    printed = book.build()
    assert book.ran() == ["first"] and "really small" in book.page("book/claims")

    # the library
    book.edit("eoslib/chapter/figures.py", '"""House style', '"""The house style')
    book.build()
    assert book.ran() == ["first", "second"]

    # an executed notebook that is damaged
    executed = book.root / ".executed/quick/second.ipynb"
    executed.write_text(executed.read_text()[:200])
    book.build()
    assert book.ran() == ["second"]


def test_a_page_shows_figures_claims_parameters_and_the_executed_notebook(book):
    book.build()
    page = book.page("notebooks/first")
    body = page[page.index("<article") : page.index("</article")]
    outputs = body[body.index("cell_output") :]
    places = [
        outputs.index(text)
        for text in ("before the figure", 'alt="Alt of one."', "<figcaption", "exp1-width", 'alt="Alt of two."')
    ]
    places.append(outputs.index("after the figures, compute 1"))
    assert places == sorted(places)
    assert body.count("<figure") == body.count("<figcaption") == 2
    assert 'id="fig-first-one"' in body and 'href="#fig-first-one"' in body
    assert "# continued" not in body
    assert "The values of this run (preset quick)" in body
    downloaded = json.loads((book.root / "_build/html/notebooks/first.ipynb").read_text())
    assert 'href="first.ipynb"' in body and downloaded["metadata"]["eoslib"]["parameters"]["width"] == 4
    assert str(book.root) not in json.dumps(downloaded), "a path of this machine"
    ledger = json.loads((book.root / "_build/html/claims.json").read_text())
    assert ledger["commit"] is None  # this small book is in no repository
    (claim,) = ledger["claims"]
    expected = {
        "id": "tiny2026/exp1/width",
        "preset": "quick",
        "verdict": "reproduced",
        "value": "width: 4",
        "criterion": "at most 5",
        "statement": "The width is small.",
        "paper_value": "4",
        "page": "notebooks/first.html#tiny2026-exp1-width",
        "runs": [],
    }
    assert {key: claim[key] for key in expected} == expected
    with open(book.root / "_build/html/claims.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {name: "" if claim[name] is None else str(claim[name]) for name in row} | {"runs": ""}
    assert set(expected) <= set(row)
    anchor = claim["page"].partition("#")[2]
    board = book.page("book/claims")
    assert "1 reproduced" in board, "the verdicts in a bar"
    assert f'id="{anchor}"' in body and f'href="../{claim["page"]}"' in board
    assert f'href="../book/claims.html#{anchor}"' in body and f'id="{anchor}"' in board


def test_a_reason_that_several_claims_share_stands_once_on_the_page(book):
    reason = "    amended: {quick: It was seen.}\n"
    more = LEDGER.partition("claims:\n")[2].replace("exp1/width", "exp1/depth")
    (book.root / "notebooks/claims/first.yaml").write_text(LEDGER + reason + more + reason)
    book.edit("notebooks/first.py", 'figure("two")', 'figure("two")\nledger.measure("exp1/depth", {"": 1})')
    book.build()
    page = book.page("notebooks/first")
    assert page.count("It was seen.") == 1 and '<li id="amended-1">It was seen.</li>' in page
    assert page.count('href="#amended-1"') == 2


def test_a_page_that_is_no_chapter_is_executed_and_shown(book):
    """It stands in no list of chapters, and no command reruns its figures; the notebook is offered."""
    (book.root / "_toc.yml").write_text(TOC + "  - file: book/own\n")
    own = SECOND.replace("# # Second", "# # My own").replace('"second\\n"', '"own\\n"')
    own += FIRST[FIRST.index("PIXEL = (") : FIRST.index("ledger = ")] + 'figure("mine")\n'
    imports = "import base64\nimport gzip\n\nfrom IPython.display import display\n\n"
    (book.root / "book/own.py").write_text(HEADER + own.replace("PIXEL = (", imports + "PIXEL = (", 1))
    book.build()
    body = book.page("book/own")
    body = body[body.index("<article") : body.index("</article")]
    assert "second at quick" in body and 'id="fig-own-mine"' in body and 'href="own.ipynb"' in body
    assert "python -m eoslib run" not in body and (book.root / "_build/html/book/figures/own-mine.svg").is_file()
    assert book.ran() == ["own"]
    assert "My own" not in BeautifulSoup(book.page("book/claims"), "html.parser").article.text
    assert read_again(book.build()) == [] and book.ran() == []


@pytest.fixture
def gallery(book):
    """The small book with a gallery page; of the first chapter all cells but the first figure's are tagged."""
    (book.root / "notebooks/gallery").mkdir()
    (book.root / "notebooks/gallery/wide.yaml").write_text(GALLERY)
    (book.root / "_toc.yml").write_text(TOC + "  - file: notebooks/gallery/wide\n")
    chapter = book.root / "notebooks/first.py"
    before, parameters, rest = chapter.read_text().partition('# %% tags=["parameters"]')
    before = before.replace("# %%\nimport base64", '# %% tags=["gallery"]\nimport base64')
    rest = rest.replace("# %%\nPIXEL", '# %% tags=["gallery"]\nPIXEL')
    rest = rest.replace('print("before the', '\n# %%\nprint("before the')
    rest = rest.replace('figure("one")\n', 'print("left out")\n\n# %% tags=["gallery"]\nfigure("one")\n')
    chapter.write_text(before + parameters.replace('"parameters"', '"parameters", "gallery"') + rest)
    return book


def test_a_gallery_page_shows_tagged_cells_rerun_with_other_parameters(gallery):
    gallery.build()
    page = gallery.page("notebooks/gallery/wide")
    body = page[page.index("<article") : page.index("</article")]
    assert "Own prose" in body and 'id="fig-wide-one"' in body and 'href="#fig-wide-one"' in body
    assert "width: 7" in body and "not reproduced" in body
    # the board has its verdict in a table of its own
    board = BeautifulSoup(gallery.page("book/claims"), "html.parser")
    row = board.find(id="gallery-tiny2026-exp1-width")
    assert 'href="../../book/claims.html#gallery-tiny2026-exp1-width"' in body
    assert row.select_one("a")["href"] == "../notebooks/gallery/wide.html#tiny2026-exp1-width"
    assert [cell["data-verdict"] for cell in row.select(".eos-cell")] == ["not reproduced"]
    assert [th.text for th in row.find_parent("table").select("th")] == ["Claim", "Chapter", "Where", "A wider one"]
    assert verdicts_on_the_board(gallery) == {"quick": "reproduced", "standard": "not run", "paper": "not run"}
    assert "left out" not in body and "left out" in gallery.page("notebooks/first")
    assert "python -m eoslib run first --preset standard -p" in body
    downloaded = json.loads((gallery.root / "_build/html/notebooks/gallery/wide.ipynb").read_text())
    assert 'href="wide.ipynb"' in body and downloaded["metadata"]["eoslib"]["parameters"]["width"] == 7
    # its verdict is no verdict of the chapter
    (claim,) = json.loads((gallery.root / "_build/html/claims.json").read_text())["claims"]
    assert claim["value"] == "width: 4"
    assert gallery.ran() == ["first", "first"]
    # and it is executed again only when something changes
    assert read_again(gallery.build()) == [] and gallery.ran() == []
    gallery.edit("notebooks/gallery/wide.yaml", "width: 7", "width: 6")
    assert read_again(gallery.build()) == ["book/claims", "notebooks/gallery/wide"] and gallery.ran() == ["first"]


def test_what_stands_under_a_figure(book):
    book.edit("notebooks/first.py", "# %%\nPIXEL = (", '# %% tags=["hide-input"]\nPIXEL = (')
    book.build()
    article = BeautifulSoup(book.page("notebooks/first"), "html.parser").article
    folder = book.root / "_build/html/notebooks"
    for figure, name in zip(article.find_all("figure"), ("one", "two"), strict=True):
        assert figure["id"] == f"fig-first-{name}"
        light, dark = figure.find_all("img")
        sources = [source["srcset"] for source in figure.find_all("source")]
        stem = f"figures/first-{name}"
        assert [light["src"], dark["src"]] == [f"{stem}.svg", f"{stem}.svg#dark"]
        assert sources == [f"{stem}.narrow.svg", f"{stem}.narrow.svg#dark"]
        assert (light["width"], light["height"], light["alt"]) == ("400", "200", f"Alt of {name}.")
        assert light["loading"] == "lazy"
        link = figure.find(class_="eos-wide")
        assert (link["href"], link["aria-label"], link["style"]) == ("#there", "There", "left: 12.5%; top: 3%; ")
        footer = figure.find(class_="eos-footer")
        code, command, *runs = footer.find_all("details")
        assert "ledger.measure(" in code.get_text() and "\n\n\ndef figure(name):" in code.get_text()
        assert command.find("pre").get_text() == "python -m eoslib run first --preset quick"
        assert [link["href"] for link in footer.find_all("a")] == [f"{stem}.svg", f"{stem}.png"]
        for suffix in ("svg", "narrow.svg", "png"):
            assert (folder / f"{stem}.{suffix}").stat().st_size > 50
        if name == "one":
            assert runs[0].get_text(" ", strip=True) == "preset quick, 1 run, 2 s exp1-0123 (2.5 s)"
        else:
            assert footer.find_all("span")[-1].get_text() == "preset quick, computed in the notebook"
    # which stands there and nowhere else
    assert "ledger.measure(" not in "".join(cell.get_text() for cell in article.find_all(class_="cell_input"))


def test_header_cells_say_what_they_head(book):
    (book.root / "book/intro.md").write_text("# Intro\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    table = 'from IPython.display import HTML, display\ndisplay(HTML("<table><thead><tr><th>x</th></tr></thead>'
    table += '<tbody><tr><th>y</th></tr></tbody></table>"))\nprint("second at", preset)'
    book.edit("notebooks/second.py", 'print("second at", preset)', table)
    book.build()
    for page, scopes in (("book/intro", ["col", "col"]), ("notebooks/second", ["col", "row"])):
        headers = BeautifulSoup(book.page(page), "html.parser").article.find_all("th")
        assert [header["scope"] for header in headers] == scopes


def test_what_is_wrong_with_a_gallery_page_is_named(gallery):
    gallery.edit("notebooks/gallery/wide.yaml", "width: 7", "widht: 7")
    assert "chapter wide: first: unknown parameter 'widht', did you mean 'width'?" in gallery.fails()
    gallery.edit("notebooks/gallery/wide.yaml", "preset: standard", "presets: standard")
    printed = gallery.build(succeeds=False)
    assert "wide.yaml: expected chapter, preset, parameters and text" in printed


def test_all_failures_are_named_every_time(book):
    book.edit("notebooks/first.py", 'print("before the figure")', 'raise RuntimeError("the first cause")')
    book.edit("notebooks/second.py", 'print("second at", preset)', "import os\nos._exit(1)")
    book.edit("book/intro.md", "A small book.", "A small book. {ref}`no-such-label`")
    first = book.fails()
    assert "RuntimeError: the first cause, in code cell" in first and "chapter first failed" in first
    assert "chapter second failed: DeadKernelError: Kernel died, in code cell" in first and "import os" in first
    assert "2 warning(s) of Sphinx" in first  # the label, and the reference to a figure that was not drawn
    assert "could not be computed" in book.page("notebooks/second")
    assert book.fails() == first
    for partial in ("first", "second"):
        assert (book.root / f".executed/quick/{partial}.partial.ipynb").is_file()
    # mended, except for the warning: no page needs to be read again, and yet the build fails
    book.edit("notebooks/first.py", 'raise RuntimeError("the first cause")', "pass")
    book.edit("notebooks/second.py", "os._exit(1)", "pass")
    assert "first" not in book.fails()
    assert "no-such-label" in book.build(succeeds=False)
    book.edit("book/intro.md", "{ref}`no-such-label`", "")
    book.build()


def test_what_a_chapter_writes_to_stderr_fails_the_build(book):
    book.edit("notebooks/second.py", 'print("second at", preset)', 'import sys\nprint("!", file=sys.stderr)')
    causes = book.fails()
    assert "chapter second: code cell 4 ('import sys') writes to stderr: !" in causes
    assert book.fails() == causes
    assert book.ran() == ["second"]


def test_bad_presets_and_parameters_stop_the_chapter_before_it_runs(book):
    book.edit("notebooks/presets/first.yaml", "width: 5", "widht: 5, preset: quick")
    book.edit("notebooks/second.py", "second at", "then at")
    causes = book.fails(EOSLIB_PRESET="standard")
    assert "chapter first: first: unknown parameter 'widht' (preset standard), did you mean 'width'?" in causes
    assert "second" not in causes
    assert book.ran() == ["second", "second"]  # at quick, too
    causes = book.fails(EOSLIB_PRESET="standrd")
    assert causes.count("unknown preset 'standrd', did you mean 'standard'?") == 2
    assert book.ran() == []


def test_a_page_shows_its_preset_and_quick_is_executed_live(book):
    book.build()
    assert "after the figures, compute 1" in book.page("notebooks/first")
    assert book.page("notebooks/first").count(".ipynb</a>") == 1
    # another preset renders what is recorded, beside quick, whose notebook is kept
    printed = book.build(EOSLIB_PRESET="standard")
    assert book.ran() == ["first", "second"] and "book/intro" not in read_again(printed)
    page = book.page("notebooks/first")
    assert "after the figures, compute 0" in page
    for preset, file in {"standard": "first-standard.ipynb", "quick": "first.ipynb"}.items():
        offered = json.loads((book.root / "_build/html/notebooks" / file).read_text())
        assert f'href="{file}"' in page and f"preset <code>{preset}</code>" in page
        assert offered["metadata"]["eoslib"]["preset"] == preset
    board = book.page("book/claims")
    assert "width: 4" in board and "width: 5" in board
    book.build(EOSLIB_PRESET="standard", COMPUTE="1")
    assert book.ran() == ["first", "second"]
    assert "after the figures, compute 1" in book.page("notebooks/first")
    # back to quick: rendered from what was kept
    assert "notebooks/first" in read_again(book.build())
    assert book.ran() == [] and "width: 5" not in book.page("book/claims")
    # by default each page at the preset it is published at
    (book.root / "notebooks/presets/published.yaml").write_text("first: standard\n")
    printed = book.build(COMPUTE="1")
    for execution in ("first (standard)", "first (quick)", "second (quick)"):
        assert f"chapter {execution}: unchanged" in printed
    assert "second (standard)" not in printed and "width: 5" in book.page("book/claims")
    # what is wrong at either preset fails the build
    book.edit("notebooks/first.py", 'print("before the figure")', 'assert preset == "standard", "not live"')
    assert "AssertionError: not live" in book.fails(COMPUTE="1")
    assert "after the figures" in book.page("notebooks/first")


def test_a_changed_verdict_fails_until_it_is_acknowledged(book):
    accept = (sys.executable, "-m", "eoslib", "claims", "first", "--accept", ".executed/quick")
    book.build()
    done = book.run(*accept)
    assert done.returncode == 0, done.stderr
    book.edit("notebooks/first.py", "PositiveInt = 4", "PositiveInt = 6")
    causes = book.fails()
    assert "tiny2026/exp1/width at quick was 'reproduced' and is now 'not reproduced'" in causes
    assert "--accept .executed/quick" in causes
    book.ran()
    assert book.fails() == causes and book.ran() == []
    assert book.run(*accept).returncode == 0
    book.build()
    # at another preset the acknowledged verdict stands beside the new one
    book.build(EOSLIB_PRESET="standard")
    board = book.page("book/claims")
    assert verdicts_on_the_board(book) == {"quick": "not reproduced", "standard": "reproduced", "paper": "not run"}
    assert "width: 6" in board and "width: 5" in board


def test_a_verdict_acknowledged_on_another_machine_alone_may_differ_near_its_bound_and_is_shown(book):
    book.edit("notebooks/first.py", "PositiveInt = 4", "PositiveInt = 5")
    book.build()
    accept = (sys.executable, "-m", "eoslib", "claims", "first", "--accept", ".executed/quick")
    assert book.run(*accept).returncode == 0
    path = book.root / "recorded/claims/first.yaml"
    ledger = yaml.safe_load(path.read_text())
    ledger["quick"]["tiny2026/exp1/width"]["machines"] = {"an abacus": "not reproduced"}
    path.write_text(yaml.safe_dump(ledger))
    book.build()
    assert "not reproduced on an abacus" in book.page("book/claims")
    book.edit("notebooks/first.py", "PositiveInt = 5", "PositiveInt = 4")
    assert "was 'not reproduced' on other kinds of machine and is now 'reproduced' (width: 4;" in book.fails()


def test_a_control_that_meets_the_criterion_fails_the_build(book):
    book.edit("notebooks/claims/first.yaml", "    criteria:", "    control: three times the width\n    criteria:")
    unmeasured = "chapter first: tiny2026/exp1/width: its control, three times the width, was not measured"
    assert unmeasured in book.fails()
    book.edit("notebooks/first.py", '{"width": width}', '{"width": width}, control={"": 3 * width}')
    book.build()
    assert "three times the width – 12: fails the criterion, as it must" in book.page("notebooks/first")
    (claim,) = json.loads((book.root / "_build/html/claims.json").read_text())["claims"]
    assert claim["control"] == {"text": "three times the width", "cases": {"": 12}, "value": "12", "fails": True}
    # a width of 1 has a control that meets the criterion, and so nothing to say
    book.edit("notebooks/first.py", "PositiveInt = 4", "PositiveInt = 1")
    causes = book.fails()
    assert "tiny2026/exp1/width: its control, three times the width, does not fail the criterion (3;" in causes
    assert "criterion: at most 5)" in causes and book.fails() == causes
    # at another preset that is shown, and no failure
    book.edit("notebooks/first.py", "PositiveInt = 1", "PositiveInt = 4")
    book.edit("notebooks/presets/first.yaml", "width: 5", "width: 1")
    book.build(EOSLIB_PRESET="standard")
    assert "three times the width – 3: does not fail the criterion here" in book.page("notebooks/first")


def test_claims_judged_twice_or_never_or_not_stated_fail_the_build(book):
    book.edit("notebooks/first.py", 'figure("two")', 'ledger.measure("exp1/width", {"width": width})')
    more = "  - {id: exp2/lost, where: x, scale: exact, statement: x, quantity: x, criteria: {quick: {holds: true}}}\n"
    (book.root / "notebooks/claims/first.yaml").write_text(LEDGER + more)
    stray = (
        'from IPython.display import display\nstray = {"id": "tiny2026/exp9/stray", "verdict": "reproduced", '
        '"preset": preset, "value": "1", "criterion": "x", "statement": "x", "quantity": "x", "where": "x", '
        '"paper_value": None, "amended": None, "runs": []}\n'
        'display({"text/plain": "-", "application/vnd.eoslib.claim+json": stray}, raw=True)'
    )
    book.edit("notebooks/second.py", 'print("second at", preset)', stray)
    causes = book.fails()
    assert "claim tiny2026/exp1/width is judged 2 times" in causes
    assert "chapter first: claim tiny2026/exp2/lost is never measured" in causes
    assert "chapter second: claim tiny2026/exp9/stray is not in its ledger" in causes
    assert book.fails() == causes
