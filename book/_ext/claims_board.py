"""Sphinx extension: the directive ``claims-board``, ``claims.json``, ``claims.csv``, and the stacked bar of verdicts.

All show the verdicts of this build's chapters and, beside them, those acknowledged at other presets
(``recorded/claims/``); the board shows those of the gallery pages, too. The HTML comes from templates. The board is
complete without JavaScript; ``book/_static/board.js`` adds search, filters and sorting.
"""

import csv
import functools
import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path

from docutils import nodes
from executed_chapters import ROOT, TEMPLATES, with_ledger
from sphinx.util.docutils import SphinxDirective

from eoslib.chapter import claims
from eoslib.chapter.templates import render

JUDGED = claims.VERDICTS[:3]  # reproduced, partly, not reproduced: what is worded by its scale
SCALES = {
    "exact": "a theorem, an identity or an analytic function, as stated",
    "paper": "the paper's own data, model and size",
    "reduced": "the same kind, smaller",
    "toy": "other data or another model",
}
FLAT = (
    "id", "chapter", "preset", "scale", "verdict", "words", "value", "criterion", "statement", "quantity", "where",
    "ours", "paper_value", "amended", "note", "page", "runs",
)  # fmt: skip


@functools.cache  # every directive asks
def verdicts(app) -> list[dict]:
    """All verdicts, claim by claim in the order of the chapters, each with its chapter, page, scale and words."""
    found = []
    for chapter in with_ledger(app):
        ledger = claims.ledger_path(chapter.name)
        stated = claims.read(ledger) if ledger.is_file() else {}
        now = {(v["id"], v["preset"]): v for one in chapter.executions for v in one.verdicts}
        before = {
            (id_, preset): v
            for preset, entries in claims.acknowledged(chapter.name).items()
            for id_, v in entries.items()
        }
        now = {key: v | {"machines": before.get(key, {}).get("machines", {})} for key, v in now.items()}
        order = list(dict.fromkeys(id_ for id_, _ in [*now, *before]))
        for (id_, preset), v in sorted((before | now).items(), key=lambda item: order.index(item[0][0])):
            scale = stated[id_].scale_at(preset) if id_ in stated else v.get("scale")
            found.append(placed({"control": None, **v, "scale": scale}, chapter.name, chapter.docname))
    return found


@functools.cache
def of_gallery(app) -> list[dict]:
    """The verdicts of the gallery pages, each as `verdicts` has them: of a chapter's claims, in other settings."""
    return [
        placed(v | {"machines": {}}, page.chapter, page.docname)
        for page in app.gallery.values()
        for v in page.verdicts
        if v["verdict"] != claims.NOT_RUN  # which the page leaves out
    ]


def placed(v: dict, chapter: str, docname: str) -> dict:
    """A verdict with the place where it stands, and its words."""
    page = f"{docname}.html#{anchor(v['id'])}"
    return v | {"chapter": chapter, "page": page, "words": claims.words(v["verdict"], v["scale"])}


def anchor(id_: str) -> str:
    """Of a claim's row, on its page and on the board."""
    return id_.replace("/", "-")


def digest(app) -> str:
    """Identifies what a board shows: the verdicts, the titles, and how the templates show them."""
    titles = [page.title for page in [*with_ledger(app), *app.gallery.values()]]
    templates = [path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.glob("*.html"))]
    shown = [verdicts(app), of_gallery(app), titles, templates]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


class ClaimsBoard(SphinxDirective):
    """All claims of the book with their verdicts."""

    def run(self) -> list[nodes.Node]:
        app = self.env.app
        self.env.boards[self.env.docname] = digest(app)
        return [nodes.raw("", html(app, up="../" * self.env.docname.count("/")), format="html")]


def html(app, up: str) -> str:
    """The board. up: the way to the root of the site."""
    return render(
        TEMPLATES / "claims-board.html", tables=matrices(app), filters=filters(app), marks=claims.MARKS, scales=SCALES,
        sums={chapter.title: sums(app, chapter) for chapter in with_ledger(app)}, up=up,
    )  # fmt: skip


def matrices(app) -> list[dict]:
    """The tables of the board: the claims of all chapters by preset; for each chapter, those of its gallery by page."""
    presets = {preset: preset for preset in claims.PRESETS}
    found = [matrix("The claims of the chapters", presets, verdicts(app), lambda v: v["preset"], app)]
    for chapter in app.chapters.values():
        pages = {page.docname: page.title for page in app.gallery.values() if page.chapter == chapter.name}
        of_pages = [v for v in of_gallery(app) if v["chapter"] == chapter.name]
        caption = f"Gallery: {chapter.title} in other settings"
        found.append(matrix(caption, pages, of_pages, lambda v: v["page"].partition(".html")[0], app, "gallery-"))
    return [table for table in found if table["rows"]]


def matrix(caption: str, columns: dict[str, str], found: list[dict], column, app, prefix: str = "") -> dict:
    """A table for the template: a row for each claim, its verdicts by column(verdict)."""
    titles = {chapter.name: chapter.title for chapter in with_ledger(app)}
    rows: dict[str, dict] = {}
    for v in found:
        row = rows.setdefault(
            v["id"], {"anchor": prefix + anchor(v["id"]), "claim": v, "chapter": titles[v["chapter"]], "cells": {}}
        )
        cases = claims.listed(v.get("cases", {}), v.get("standard_error", {}))
        row["cells"][column(v)] = v | {"cases": [case for case in cases if case not in v["value"]] and cases}
    return {"caption": caption, "columns": columns, "rows": rows}


def filters(app) -> dict[str, dict[str, str]]:
    """The selection lists of the board: name → value → title."""
    verbs = {claims.REPRODUCED: "reproduced or seen", claims.NOT_REPRODUCED: "not reproduced, not seen"}
    return {
        "chapter": {chapter.name: chapter.title for chapter in with_ledger(app)},
        "preset": {preset: preset for preset in claims.PRESETS},
        "verdict": {verdict: f"{mark} {verbs.get(verdict, verdict)}" for verdict, mark in claims.MARKS.items()},
        "scale": {scale: scale for scale in SCALES},
        "by": {"paper": "the paper", "ours": "us"},
    }


def sums(app, chapter) -> dict[str, str]:
    """The verdicts of a chapter as a bar for each preset."""
    of_chapter = [v for v in verdicts(app) if v["chapter"] == chapter.name]
    by_preset = {preset: [v for v in of_chapter if v["preset"] == preset] for preset in claims.PRESETS}
    return {preset: bar(found) for preset, found in by_preset.items() if found}


def bar(found: list[dict]) -> str:
    """Verdicts in one stacked bar with the same in words below it: HTML."""
    kinds: Counter = Counter()
    scales = [*claims.SCALES, None]
    for v in sorted(found, key=lambda v: (claims.VERDICTS.index(v["verdict"]), scales.index(v["scale"]))):
        worded = v["verdict"] in JUDGED and claims.SCALES.get(v["scale"])  # the words say at what scale
        kinds[v["verdict"], v["scale"] if worded else "", claims.words(v["verdict"], v["scale"])] += 1
    return render(TEMPLATES / "verdict-bar.html", kinds=kinds)


def prepare(app) -> None:
    if not hasattr(app.env, "boards"):
        app.env.boards = {}  # docname of a page with a board -> digest of what it showed


def outdated(app, env, added, changed, removed) -> list[str]:
    now = digest(app)
    return [docname for docname, then in env.boards.items() if then != now]


def write(app, exception) -> None:
    """``claims.json``, the commit and the chapters' verdicts, and ``claims.csv``, what is flat of them."""
    if exception or app.builder.format != "html":
        return
    # nan and inf, which JSON does not know, become null
    found = json.loads(json.dumps(verdicts(app)), parse_constant=lambda name: None)
    content = {"commit": commit(), "claims": found}
    (Path(app.outdir) / "claims.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))
    with open(Path(app.outdir) / "claims.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FLAT, extrasaction="ignore")
        table.writeheader()
        table.writerows(v | {"runs": " ".join(v["runs"])} for v in found)


def commit() -> str | None:
    """The commit of the checkout; None if it is not one."""
    git = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    return git.stdout.strip() if git.returncode == 0 else None


def setup(app):
    app.add_directive("claims-board", ClaimsBoard)
    app.connect("builder-inited", prepare)
    app.connect("env-get-outdated", outdated)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
