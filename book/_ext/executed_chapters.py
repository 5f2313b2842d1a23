"""Sphinx extension: run the chapters before Sphinx reads them, and show their outputs in the current prose.

What happens, in the order of the Sphinx events:

- ``builder-inited``: every chapter of the table of contents is executed at ``quick``, live, and at the preset that its
  page shows, where that is another, from the recorded runs: through papermill (`eoslib.chapter.execution.execute`),
  several at once, and only what has another cache key than the executed notebook kept in ``.executed/<preset>/``. Then
  the claims that the notebooks carry are checked.
- ``env-get-outdated``: exactly those pages are read again whose executed notebook changed.
- ``source-read``: the source of a chapter is replaced by a notebook that holds its current prose and code,
  and the stored outputs.
- ``build-finished``: the executed notebooks and the files of their figures are copied into the site. Failures
  of all kinds, Sphinx's own warnings included, are listed together and fail the build; the saved environment is
  then removed, so that the next build meets every one of them again.

A *gallery page*, ``notebooks/gallery/<name>.yaml``, shows a chapter rerun with other parameters. It names the
chapter, the preset and the parameters that differ, and has a text of its own; after that come the outputs of the
chapter's code cells tagged ``gallery``, which alone are executed. Its verdicts are about other settings than those of
the ledger, so that the claims board lists them apart.

Any other page may be a percent-format notebook too, ``book/<name>.py`` with a cell of parameters: it is executed at
``quick`` and shown with its outputs, and is no chapter. It may have claims of its own, ``book/claims/<name>.yaml``.

Environment variables: EOSLIB_PRESET, at which all pages are shown (default ``published``: each chapter at the preset of
``notebooks/presets/published.yaml``, the most faithful one), and COMPUTE (``1`` lets other presets than ``quick``
compute what is not yet computed).
"""

import base64
import functools
import gzip
import hashlib
import multiprocessing
import os
import re
import shutil
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

import nbformat
import yaml
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.errors import ExtensionError
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "book" / "_templates"
sys.path.insert(0, str(ROOT))  # eoslib need not be installed

from eoslib.chapter import claims, execution, presets  # noqa: E402
from eoslib.chapter.templates import render  # noqa: E402

logger = logging.getLogger(__name__)

MIME = "application/vnd.eoslib."


@dataclass
class Chapter:
    """A chapter of the book in this build. live: the same at ``quick``, if the page shows another preset."""

    docname: str
    preset: str
    live: "Chapter | None" = field(default=None, kw_only=True)
    parameters: dict = field(default_factory=dict, kw_only=True)  # those that differ from the preset's
    failure: str | None = field(default=None, kw_only=True)
    verdicts: list[dict] = field(default_factory=list, kw_only=True)

    tag: ClassVar[str | None] = None  # of the code cells that are executed, if not all

    @property
    def name(self) -> str:
        return self.docname.rpartition("/")[2]

    @property
    def source(self) -> Path:
        return ROOT / f"{self.docname}.py"

    @property
    def prose(self) -> str:
        """The Markdown of the page, from its heading on."""
        cells = presets.read_chapter(self.source).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")

    @functools.cached_property
    def title(self) -> str:
        """The heading of the page: the one name by which it goes everywhere, so that many ask for it."""
        return re.search(r"^# +(.+)$", self.prose, re.MULTILINE)[1]

    @property
    def executed(self) -> Path:
        return ROOT / ".executed" / (self.tag or self.preset) / f"{self.name}.ipynb"

    @property
    def download(self) -> str:
        """The name under which the site offers the executed notebook."""
        return f"{self.name}.ipynb" if self.preset == "quick" or self.tag else f"{self.name}-{self.preset}.ipynb"

    @property
    def executions(self) -> list["Chapter"]:
        """What the page shows first, then the live execution."""
        return [self, self.live] if self.live else [self]

    def notebook(self):
        """The executed notebook, or None if it failed."""
        return None if self.failure else nbformat.read(self.executed, as_version=4)

    def digest(self) -> str:
        """Identifies what the page shows, apart from the prose."""
        shown = [one.failure.encode() if one.failure else one.executed.read_bytes() for one in self.executions]
        return hashlib.sha256(b"".join(shown)).hexdigest()


@dataclass
class GalleryPage(Chapter):
    """A chapter rerun with other parameters."""

    chapter: str
    text: str

    tag: ClassVar[str] = "gallery"

    @classmethod
    def read(cls, docname: str) -> "GalleryPage":
        file = ROOT / f"{docname}.yaml"
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        try:
            return cls(docname, **content)
        except TypeError as error:
            raise ExtensionError(f"{file}: expected chapter, preset, parameters and text ({error})") from error

    @property
    def source(self) -> Path:
        return ROOT / "notebooks" / f"{self.chapter}.py"

    @property
    def prose(self) -> str:
        return self.text


def pages(app) -> dict[str, Chapter]:
    """All that is executed, by docname."""
    return app.chapters | app.gallery | app.others


def with_ledger(app) -> list[Chapter]:
    """The chapters, and the other pages that judge claims of their own."""
    return [*app.chapters.values(), *(page for page in app.others.values() if page.verdicts)]


# --- before Sphinx reads: execute and check --------------------------------------------------------------


def run_chapters(app) -> None:
    """Execute what changed; collect ``app.failures``, and ``app.chapters``, ``app.gallery`` and ``app.others`` (docname
    -> Chapter)."""
    chosen = os.environ.get("EOSLIB_PRESET", "published")
    published = presets.published(ROOT / "notebooks")
    app.failures = []
    app.chapters, app.gallery, app.others = {}, {}, {}
    for entry in app.config.external_site_map:
        docname = entry.removesuffix(".py").removesuffix(".yaml")
        if docname.startswith("notebooks/gallery/"):
            app.gallery[docname] = GalleryPage.read(docname)
        elif docname.startswith("notebooks/"):
            name = docname.removeprefix("notebooks/")
            preset = published.get(name, "quick") if chosen == "published" else chosen
            live = None if preset == "quick" else Chapter(docname, "quick")
            app.chapters[docname] = Chapter(docname, preset, live=live)
        elif (ROOT / f"{docname}.py").is_file():
            app.others[docname] = Chapter(docname, "quick")
    executions = [one for chapter in app.chapters.values() for one in chapter.executions]
    executed = [*executions, *app.gallery.values(), *app.others.values()]
    # quick first: side by side, two presets of a chapter would wait for the runs that they share, and what only renders
    # depends on the runs in the store
    for live in (True, False):
        execute_changed([page for page in executed if (page.preset == "quick") == live])
    for page in executed:
        if page.failure:
            app.failures.append(page.failure)
        else:
            notebook = page.notebook()
            page.verdicts = claims.in_notebook(notebook)
            app.failures += written_to_stderr(page, notebook)
    app.failures += claim_failures([*executions, *app.others.values()])
    if not hasattr(app.env, "shown"):
        app.env.shown = {}  # docname -> digest of what the page showed when it was last read


def execute_changed(chapters: list[Chapter]) -> None:
    """Execute the chapters whose cache key is not that of their executed notebook; set their ``failure``."""
    waiting = []
    for chapter in chapters:
        compute = chapter.preset == "quick" or os.environ.get("COMPUTE") == "1"
        try:
            parameters = presets.parameters(chapter.source, chapter.preset, chapter.parameters)
        except presets.ParameterError as error:
            chapter.failure = f"chapter {chapter.name}: {error}"
            continue
        if stored_key(chapter.executed) == execution.cache_key(chapter.source, parameters, compute, chapter.tag):
            logger.info("chapter %s (%s): unchanged", chapter.name, chapter.preset)
        else:
            logger.info("chapter %s (%s): executing", chapter.name, chapter.preset)
            waiting.append((chapter, compute))
    if not waiting:
        return
    # One thread per kernel, one kernel per core. Forking this process, which has threads, can deadlock; a server that
    # has none and has imported what takes long is forked instead
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = 1 if on_gpu() else len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["papermill", "safetensors.torch", "xarray"])
    with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context) as pool:
        running = {pool.submit(execute, chapter, compute): chapter for chapter, compute in waiting}
        for done in as_completed(running):
            chapter = running[done]
            try:
                seconds = done.result()
                logger.info("chapter %s (%s): executed in %.0f s", chapter.name, chapter.preset, seconds)
                continue
            except execution.ChapterFailed as error:
                chapter.failure = str(error)
            except Exception as error:  # its process died, or the disk is full
                chapter.failure = f"chapter {chapter.name} failed: {type(error).__name__}: {error}"
            logger.info("chapter %s (%s): failed", chapter.name, chapter.preset)


def execute(chapter: Chapter, compute: bool) -> float:
    """Execute one chapter, in a process of its own; seconds taken."""
    notebook = execution.execute(
        chapter.source, chapter.executed, chapter.preset, chapter.parameters, compute, tag=chapter.tag
    )
    return notebook.metadata["eoslib"]["seconds"]


def stored_key(executed: Path) -> str | None:
    """The cache key of an executed notebook; None if there is none that can be read."""
    try:
        return nbformat.read(executed, as_version=4).metadata["eoslib"]["key"]
    except (OSError, ValueError, KeyError):
        return None


def on_gpu() -> bool:
    """Whether chapters will compute on a GPU."""
    import torch

    return os.environ.get("EOSLIB_DEVICE", "cuda" if torch.cuda.is_available() else "cpu").startswith("cuda")


def written_to_stderr(chapter: Chapter, notebook) -> list[str]:
    """What a chapter wrote to stderr, warnings above all: a defect, and not for the reader."""
    return [
        f"chapter {chapter.name}: {execution.cell_name(number, cell.source)} writes to stderr: {output.text.strip()}"
        for number, cell in enumerate(presets.code_cells(notebook), start=1)
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]


def claim_failures(chapters: list[Chapter]) -> list[str]:
    """What is wrong with the claims: each is stated, judged once, its verdict the acknowledged one, and its control
    fails the criterion."""
    failures = []
    for chapter in chapters:
        if chapter.failure:
            continue
        judged = Counter(verdict["id"] for verdict in chapter.verdicts)
        failures += [f"claim {id_} is judged {n} times" for id_, n in judged.items() if n > 1]
        ledger = claims.ledger_path(chapter.name)
        stated = claims.read(ledger) if ledger.is_file() else {}
        here = {verdict["id"] for verdict in chapter.verdicts}
        failures += [f"chapter {chapter.name}: claim {id_} is not in its ledger" for id_ in sorted(here - set(stated))]
        failures += [f"chapter {chapter.name}: claim {id_} is never measured" for id_ in stated if id_ not in here]
        failures += [f"chapter {chapter.name}: {failure}" for failure in claims.control_failures(chapter.verdicts)]
        changes = claims.changed(chapter.verdicts, chapter.name, chapter.preset)
        accept = f"python -m eoslib claims {chapter.name} --accept .executed/{chapter.preset}"
        failures += [f"chapter {chapter.name}: {change}; `{accept}` acknowledges it" for change in changes]
    return failures


# --- while Sphinx reads: stored outputs in the current prose ---------------------------------------------


def outdated(app, env, added, changed, removed) -> list[str]:
    """The chapters whose page showed something else when it was last read."""
    return [name for name, page in pages(app).items() if env.shown.get(name) != page.digest()]


def show(app, docname: str, source: list[str]) -> None:
    """Replace the source of a chapter by its notebook with outputs."""
    if page := pages(app).get(docname):
        app.env.shown[docname] = page.digest()
        board = "../" * docname.count("/") + "book/claims.html#" + ("gallery-" if docname in app.gallery else "")
        source[0] = nbformat.writes(merged(page)).replace(f"{claims.BOARD}#", board)


def merged(chapter: Chapter):
    """The chapter's current cells with the stored outputs: code cells correspond in order.

    The key of the executed notebook holds the code of all code cells, so there are as many of them.
    """
    page = presets.read_chapter(chapter.source, chapter.tag)
    executed = chapter.notebook()
    stored = iter(presets.code_cells(executed)) if executed else None
    reasons = claims.footnotes(chapter.verdicts)
    cells, silent = [], ""
    for cell, following in zip_longest(page.cells, page.cells[1:]):
        if cell.cell_type != "code" or stored is None:
            cells.append(cell)
            continue
        if "parameters" in cell.metadata.get("tags", []):
            next(stored)  # it has no outputs; then come papermill's values
            cells.append(folded(cell.source, "Parameters, with their values at the preset quick", "parameters"))
            cells.append(folded(next(stored).source, f"The values of this run (preset {chapter.preset})"))
            continue
        outputs = with_footnotes(next(stored).outputs, reasons)
        if isinstance(chapter, GalleryPage):  # without the verdicts that its settings have nothing to say about
            outputs = [o for o in outputs if verdict_of(o) != "not run"]
        if is_hidden(cell):
            cell.source = silent + cell.source
            # code that shows nothing is read with that which follows at once: one word to click instead of two
            silent = f"{cell.source}\n\n\n" if not outputs and following and is_hidden(following) else ""
            if silent:
                continue
        cells += split_at_figures(cell, outputs, chapter, executed.metadata["eoslib"])
    if isinstance(chapter, GalleryPage):
        shown = [c for c in cells if c.get("outputs") or "injected-parameters" in c.metadata.get("tags", [])]
        cells = [nbformat.v4.new_markdown_cell(chapter.text), *shown]
    if reasons:
        cells.append(nbformat.v4.new_markdown_cell(render(TEMPLATES / "footnotes.html", reasons=reasons)))
    cells.append(nbformat.v4.new_markdown_cell(closing(chapter, executed)))
    page.cells = cells
    # Other metadata would be taken for front matter
    page.metadata = {
        key: value
        for key, value in (page.metadata | (executed.metadata if executed else {})).items()
        if key in ("kernelspec", "language_info")
    }
    return page


def is_hidden(cell) -> bool:
    """Whether a page folds away the code of a cell."""
    return "hide-input" in cell.metadata.get("tags", [])


def verdict_of(output) -> str | None:
    """The verdict that an output shows."""
    return output.get("data", {}).get(f"{MIME}claim+json", {}).get("verdict")


def with_footnotes(outputs: list, reasons: list[str]) -> list:
    """The outputs; a claim's row refers to a footnote where its criterion was amended for one of the reasons."""
    for output in outputs:
        verdict = output.get("data", {}).get(claims.MIME)
        if verdict and verdict["amended"] in reasons:
            output["data"]["text/html"] = claims.row(verdict, reasons.index(verdict["amended"]) + 1)
    return outputs


def folded(source: str, prompt: str, tag: str = "injected-parameters"):
    """A code cell that shows its source when its prompt is clicked: parameters, as papermill calls its own."""
    prompts = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    return nbformat.v4.new_code_cell(source, metadata={"tags": [tag, "hide-input"], "mystnb": prompts})


def split_at_figures(cell, outputs: list, chapter: Chapter, ran: dict) -> list:
    """A code cell and its outputs as cells of which each holds one figure or none.

    Only so does myst-nb put the caption under the figure alone: it captions all outputs of a cell. What else stands
    under a figure, the code that drew it among it, follows the caption as the figure's legend; code that is hidden
    anyway stands there only. ran: what the executed notebook says of its execution.
    """
    drawn = [f"{MIME}figure+json" in output.get("data", {}) for output in outputs]
    code = cell.source if any(drawn) and is_hidden(cell) else None
    cells = [] if code else [cell]
    for output, is_figure in zip(outputs, drawn, strict=True):
        data = output.get("data", {})
        if is_figure or not cells or "mystnb" in cells[-1].metadata:
            # myst-nb skips cells without source, even if they have outputs
            tags = [*cell.metadata.get("tags", []), "remove-input"]
            cells.append(nbformat.v4.new_code_cell("# continued", metadata={"tags": tags}))
        if is_figure:
            figure = data[f"{MIME}figure+json"]
            label = f"{chapter.name}-{figure['name']}"
            files = {"png", *figure["files"]}
            footer = render(
                TEMPLATES / "figure-footer.html", stem=f"figures/{label}", files=files, ran=ran, runs=figure["runs"],
                code=code and highlight(code, PythonLexer(), HtmlFormatter()), command=rerun(chapter),
            )  # fmt: skip
            caption = f"{figure['caption']}\n\n`````{{raw}} html\n{footer}\n`````"  # raw, or an empty line would end it
            cells[-1].metadata["mystnb"] = {"figure": {"caption": caption, "name": f"fig-{label}"}}
            shown = render(TEMPLATES / "figure.html", stem=f"figures/{label}", figure=figure, eager=False)
            output["data"] = {"text/html": shown}
        elif "data" in output:
            output["data"] = {mime: content for mime, content in data.items() if not mime.startswith(MIME)}
        cells[-1].outputs.append(output)
    return cells


def rerun(chapter: Chapter) -> str:
    """The command that reruns what a page shows."""
    if chapter.source.parent != ROOT / "notebooks":
        return ""  # the page itself, as a notebook
    name = chapter.chapter if isinstance(chapter, GalleryPage) else chapter.name
    return f"python -m eoslib run {name} {execution.options(chapter.preset, chapter.parameters)}".rstrip()


def write_figures(chapter: Chapter, folder: Path) -> None:
    """Write the files of a page's figures: SVG for wide screens and for narrow ones, PNG, and the data as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for cell in presets.code_cells(chapter.notebook()):
        for output in cell.outputs:
            data = output.get("data", {})
            if figure := data.get(f"{MIME}figure+json"):
                files = {suffix: gzip.decompress(base64.b64decode(text)) for suffix, text in figure["files"].items()}
                files["png"] = base64.b64decode(data["image/png"])
                for suffix, content in files.items():
                    (folder / f"{chapter.name}-{figure['name']}.{suffix}").write_bytes(content)


def closing(chapter: Chapter, executed) -> str:
    """The last lines of a chapter's page: where the executed notebook is, or why there is none."""
    if executed is None:
        return f":::{{error}}\nThis page could not be computed.\n\n```text\n{chapter.failure}\n```\n:::"
    command = rerun(chapter) if isinstance(chapter, GalleryPage) else ""
    return render(TEMPLATES / "executed-notebook.html", offered=offered(chapter), command=command)


def offered(chapter: Chapter) -> dict[str, dict]:
    """The executed notebooks of a page: file → what it says of its execution; first that which the page shows."""
    return {one.download: one.notebook().metadata["eoslib"] for one in chapter.executions if not one.failure}


# --- after Sphinx has written: downloads and failures ----------------------------------------------------


def finish(app, exception) -> None:
    """Copy the executed notebooks and their figures into the site, list all failures, and make the build fail."""
    if exception is None:
        for page in pages(app).values():
            for one in page.executions:
                if not one.failure:
                    target = (Path(app.outdir) / one.docname).with_name(one.download)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(one.executed, target)
            if not page.failure:
                write_figures(page, (Path(app.outdir) / page.docname).with_name("figures"))
    failures = list(app.failures)
    if app._warncount:
        failures.append(f"{app._warncount} warning(s) of Sphinx, printed above")
    if failures:
        # Pages that Sphinx does not read again would not warn again
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)
        app.statuscode = 1
        listing = "".join(f"\n  {number}. {failure}" for number, failure in enumerate(failures, start=1))
        print(f"\nThe build failed, for {len(failures)} reason(s):{listing}\n", file=sys.stderr, flush=True)


def setup(app):
    app.connect("builder-inited", run_chapters)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", show)
    app.connect("build-finished", finish, priority=900)  # after whatever may still warn
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
