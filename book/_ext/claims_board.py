"""Sphinx extension: the directives ``claims-board`` and ``verdict-counts``, and ``claims.json``.

All show the verdicts of this build's chapters and, beside them, those acknowledged at other presets
(``recorded/claims/``). The HTML comes from the templates of the same names. The board is complete without JavaScript;
a small inline script adds the filters.
"""

import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path

from docutils import nodes
from executed_chapters import ROOT, TEMPLATES
from sphinx.util.docutils import SphinxDirective

from eoslib.chapter import claims
from eoslib.chapter.templates import render


def verdicts(app) -> list[dict]:
    """All verdicts, claim by claim in the order of the chapters, each with its chapter, page, scale and words."""
    found = []
    for chapter in app.chapters.values():
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
            scale = stated[id_].scale_at(preset) if id_ in stated else None
            place = {"chapter": chapter.name, "page": f"{chapter.docname}.html#{id_.replace('/', '-')}"}
            found.append({**v, **place, "scale": scale, "words": claims.words(v["verdict"], scale)})
    return found


def digest(found: list[dict]) -> str:
    """Identifies what the directives show: the verdicts, and how the templates show them."""
    templates = [path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.glob("*.html"))]
    return hashlib.sha256(json.dumps([found, templates], sort_keys=True).encode()).hexdigest()


class ClaimsBoard(SphinxDirective):
    """All claims of the book with their verdicts."""

    def run(self) -> list[nodes.Node]:
        found = verdicts(self.env.app)
        self.env.boards[self.env.docname] = digest(found)
        by_claim: dict[str, list[dict]] = {}
        for v in found:
            by_claim.setdefault(v["id"], []).append(v)
        up = "../" * self.env.docname.count("/")  # to the root of the site
        html = render(TEMPLATES / "claims-board.html", found=found, by_claim=by_claim, up=up, **counts(found))
        return [nodes.raw("", html, format="html")]


class VerdictCounts(SphinxDirective):
    """How many verdicts of each kind a chapter has: ``{verdict-counts} unstable_convergence``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        chapter = self.arguments[0]
        found = verdicts(self.env.app)
        self.env.boards[self.env.docname] = digest(found)
        if chapter not in [c.name for c in self.env.app.chapters.values()]:
            raise self.error(f"no chapter {chapter!r} in this book")
        html = render(TEMPLATES / "verdict-counts.html", **counts([v for v in found if v["chapter"] == chapter]))
        return [nodes.raw("", html, format="html")]


def counts(found: list[dict]) -> dict:
    """For the template: how many verdicts of each kind there are, by chapter and preset."""
    rows: dict[tuple[str, str], Counter] = {}
    for v in found:
        rows.setdefault((v["chapter"], v["preset"]), Counter())[v["verdict"]] += 1
    return {"kinds": claims.VERDICTS, "counts": rows}


def prepare(app) -> None:
    if not hasattr(app.env, "boards"):
        app.env.boards = {}  # docname of a page with one of the directives -> digest of what it showed


def outdated(app, env, added, changed, removed) -> list[str]:
    now = digest(verdicts(app))
    return [docname for docname, then in env.boards.items() if then != now]


def write_json(app, exception) -> None:
    """``claims.json``: the commit and all verdicts."""
    if exception is None and app.builder.format == "html":
        # nan and inf, which JSON does not know, become null
        found = json.loads(json.dumps(verdicts(app)), parse_constant=lambda name: None)
        content = {"commit": commit(), "claims": found}
        (Path(app.outdir) / "claims.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))


def commit() -> str | None:
    """The commit of the checkout; None if it is not one."""
    git = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    return git.stdout.strip() if git.returncode == 0 else None


def setup(app):
    app.add_directive("claims-board", ClaimsBoard)
    app.add_directive("verdict-counts", VerdictCounts)
    app.connect("builder-inited", prepare)
    app.connect("env-get-outdated", outdated)
    app.connect("build-finished", write_json)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
