"""Sphinx extension: the directive ``chapter-head``, a chapter on one screen. It stands below the chapter's title.

Its body is YAML, so that it reads well in Jupyter, too; its sentences are MyST:

    paper: ahn2022          # a key of book/references.bib
    question: Why does …?
    answer: Because …       # one sentence
    findings:               # a claim's id in braces becomes the value measured on this page, linked to its verdict
      - The relative progress is {exp3/rp-near-zero}.
    figure: exp3            # the figure of the page that is shown large
    thumbnails:             # figures of the page, and how the paper calls what they recompute
      exp3: experiment 3

`head` reads it for other pages. What is wrong with it is named and fails the build.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any
from urllib.parse import quote

import pydantic
import yaml
from annotated_types import Len
from claims_board import bar
from docutils import nodes
from executed_chapters import MIME, ROOT, TEMPLATES, Chapter, offered, rerun
from pybtex.database import BibliographyData, Entry, Person, parse_file
from sphinx.util.docutils import SphinxDirective
from typing_extensions import TypedDict  # pydantic takes the standard library's only from Python 3.12 on

from eoslib.chapter import claims, presets
from eoslib.chapter.templates import render

REFERENCES, CITATION = ROOT / "book" / "references.bib", ROOT / "CITATION.cff"
FENCE = re.compile(r"^```{chapter-head}\n(.*?)^```", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"\{([a-z][\w-]*/[\w-]+)\}")  # {exp3/rp-near-zero}; no LaTeX group looks like that


class HeadError(ValueError):
    """What is wrong with the head of a chapter."""


class Head(TypedDict):
    paper: str
    question: str
    answer: str
    findings: Annotated[list[str], Len(3, 3)]
    figure: str
    thumbnails: Annotated[dict[str, str], Len(1, 6)]


_HEAD = pydantic.TypeAdapter(pydantic.with_config(presets.STRICT | {"extra": "forbid"})(Head))


def head(docname: str) -> Head:
    """The head of a chapter, from its source: question, answer, …, as written. Raises HeadError."""
    first = next(cell for cell in presets.read_chapter(ROOT / f"{docname}.py").cells if cell.cell_type == "markdown")
    body = FENCE.search(first.source)
    if body is None:
        raise HeadError(f"{docname}: its first cell has no chapter-head")
    return parse(body[1])


def parse(body: str) -> Head:
    """The body of the directive. Raises HeadError naming what is wrong."""
    try:
        return _HEAD.validate_python(yaml.safe_load(body))
    except yaml.YAMLError as error:
        raise HeadError(f"chapter-head is not YAML: {error}") from error
    except pydantic.ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise HeadError(f"chapter-head: {wrong} (it has {', '.join(Head.__annotations__)})") from error


# --- what it is filled with ------------------------------------------------------------------------------


def with_numbers(text: str, found: list[dict]) -> str:
    """MyST with the measured values of the page's verdicts in place of claims' ids."""
    by_name = {v["id"].partition("/")[2]: v for v in found}

    def number(placeholder: re.Match) -> str:
        if (v := by_name.get(placeholder[1])) is None:
            raise HeadError(f"chapter-head: the page has no claim {placeholder[1]!r}; it has {', '.join(by_name)}")
        words = claims.words(v["verdict"], v["scale"])
        mark = "" if v["verdict"] == claims.REPRODUCED else claims.MARKS[v["verdict"]]
        return render(TEMPLATES / "measured-value.html", v=v, value=measured(v), words=words, mark=mark).strip()

    return PLACEHOLDER.sub(number, " ".join(text.split()))


def measured(v: Mapping[str, Any]) -> str:
    """What a verdict rests on, as short as a sentence bears it: its one number, their range, or in how many cases what
    is no number, a yes or a sequence, is as the criterion asks."""
    cases = list(v["cases"].values())
    if not cases:
        return "not run at this preset"
    if any(isinstance(case, bool | list) for case in cases):
        return f"{len(cases) - len(v['missed'])} of {len(cases)}"
    if not all(isinstance(case, int | float) for case in cases):  # infinities
        return v["value"]
    low, high = (f"{x:,}" if isinstance(x, int) else f"{x:.3g}" for x in (min(cases), max(cases)))
    return (low if low == high else f"{low} to {high}").replace("-", "−")


def paper(key: str) -> dict:
    """Of a paper of the bibliography: title, authors, venue, links (name → address), bibtex. One of which no address is
    certain is looked for by its title."""
    entries = parse_file(REFERENCES).entries
    if key not in entries:
        raise HeadError(f"chapter-head: no paper {key!r} in {REFERENCES.relative_to(ROOT)}")
    fields, people = entries[key].fields, entries[key].persons["author"]
    names = [" ".join([*p.first_names, *p.middle_names, *p.prelast_names, *p.last_names]) for p in people]
    title = re.sub("[{}]", "", fields["title"])
    doi, eprint = (fields.get(name) for name in ("doi", "eprint"))
    address = f"https://doi.org/{doi}" if doi else fields.get("url", f"https://dblp.org/search?q={quote(title)}")
    links = {"Paper": address} | ({"arXiv": f"https://arxiv.org/abs/{eprint}"} if eprint else {})
    return {
        "title": title,
        "authors": " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])),
        "venue": ", ".join(filter(None, [fields.get("booktitle"), fields["year"]])),
        "links": links,
        "bibtex": BibliographyData({key: entries[key]}).to_string("bibtex"),
    }


def bibtex_of_the_book() -> str:
    """CITATION.cff as BibTeX."""
    cff = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    released: date = cff["date-released"]
    fields = {"title": cff["title"], "year": str(released.year), "note": f"Version {cff['version']}"}
    authors = {"author": [Person(f"{{{author['name']}}}") for author in cff["authors"]]}
    return BibliographyData({"eoslib": Entry("misc", fields, authors)}).to_string("bibtex")


def drawn(chapter: Chapter) -> dict[str, dict]:
    """The figures of a chapter's executed notebook: name → caption, alt, thumbnail."""
    outputs = (output for cell in presets.code_cells(chapter.notebook()) for output in cell.outputs)
    figures = [
        output["data"][f"{MIME}figure+json"] for output in outputs if f"{MIME}figure+json" in output.get("data", {})
    ]
    return {figure["name"]: figure for figure in figures}


def incomplete(chapter: Chapter) -> bool:
    """Whether runs are missing at this preset, and with them perhaps figures."""
    return any(
        f"{MIME}notrun+json" in output.get("data", {})
        for cell in presets.code_cells(chapter.notebook())
        for output in cell.outputs
    )


# --- the directive ---------------------------------------------------------------------------------------


class ChapterHead(SphinxDirective):
    """See the module."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        chapter = self.env.app.chapters.get(self.env.docname)
        if chapter is None:
            raise self.error("chapter-head belongs to a chapter")
        for file in (REFERENCES, CITATION, *TEMPLATES.glob("*.*")):  # no folder: it would always count as changed
            self.env.note_dependency(str(file))
        try:
            content = parse("\n".join(self.content))
            return [] if chapter.failure else self.parse_text_to_nodes(self.filled(content, chapter))
        except HeadError as error:
            raise self.error(str(error)) from error

    def filled(self, content: Head, chapter: Chapter) -> str:
        """The head in MyST."""
        figures = drawn(chapter)
        missing = [name for name in (content["figure"], *content["thumbnails"]) if name not in figures]
        if missing and not incomplete(chapter):
            raise HeadError(f"chapter-head: no figure {', '.join(missing)}; the page has {', '.join(figures)}")
        return render(
            TEMPLATES / "chapter-head.md",
            number=list(self.env.app.chapters).index(chapter.docname) + 1,
            paper=paper(content["paper"]),
            book=bibtex_of_the_book(),
            **{name: with_numbers(content[name], chapter.verdicts) for name in ("question", "answer")},
            findings=[with_numbers(finding, chapter.verdicts) for finding in content["findings"]],
            figure=figures.get(content["figure"]),
            stem=f"figures/{chapter.name}-{content['figure']}",
            bar=bar(chapter.verdicts),
            thumbnails=[
                {"href": nodes.make_id(f"fig-{chapter.name}-{name}"), "where": where, **figures[name]}
                for name, where in content["thumbnails"].items()
                if name in figures
            ],
            offered=offered(chapter),
            command=f"{rerun(chapter)} -o mine.ipynb",
        )


def setup(app):
    app.add_directive("chapter-head", ChapterHead)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
