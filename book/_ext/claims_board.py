"""Sphinx extension: the directives ``claims-board`` and ``verdict-counts``, and ``claims.json``.

All show the verdicts of this build's chapters and, beside them, those acknowledged at other presets
(``recorded/claims/``). The board is complete without JavaScript; a small inline script adds the filters.
"""

import hashlib
import json
import subprocess
from collections import Counter
from html import escape
from pathlib import Path

from docutils import nodes
from executed_chapters import ROOT
from sphinx.util.docutils import SphinxDirective

from eoslib.chapter import claims


def verdicts(app) -> list[dict]:
    """All verdicts, claim by claim in the order of the chapters, each with its chapter and page."""
    found = []
    for chapter in app.chapters.values():
        now = {(v["id"], v["preset"]): v for v in chapter.verdicts}
        before = {
            (id_, preset): v
            for preset, entries in claims.acknowledged(chapter.name).items()
            for id_, v in entries.items()
        }
        now = {key: v | {"machines": before.get(key, {}).get("machines", {})} for key, v in now.items()}
        order = list(dict.fromkeys(id_ for id_, _ in [*now, *before]))
        found += [
            {**v, "chapter": chapter.name, "page": f"{chapter.docname}.html#{id_.replace('/', '-')}"}
            for (id_, _), v in sorted((before | now).items(), key=lambda item: order.index(item[0][0]))
        ]
    return found


def digest(found: list[dict]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


class ClaimsBoard(SphinxDirective):
    """All claims of the book with their verdicts."""

    def run(self) -> list[nodes.Node]:
        found = verdicts(self.env.app)
        self.env.boards[self.env.docname] = digest(found)
        up = "../" * self.env.docname.count("/")
        return [nodes.raw("", board(found, up), format="html")]


class VerdictCounts(SphinxDirective):
    """How many verdicts of each kind a chapter has: ``{verdict-counts} unstable_convergence``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        chapter = self.arguments[0]
        found = verdicts(self.env.app)
        self.env.boards[self.env.docname] = digest(found)
        if chapter not in [c.name for c in self.env.app.chapters.values()]:
            raise self.error(f"no chapter {chapter!r} in this book")
        return [nodes.raw("", summary([v for v in found if v["chapter"] == chapter]), format="html")]


def board(found: list[dict], up: str = "") -> str:
    """The board as HTML; ``up`` leads from its page to the root of the site."""
    by_claim: dict[str, list[dict]] = {}
    for v in found:
        by_claim.setdefault(v["id"], []).append(v)
    if not found:
        return "<p>No claim has been judged yet.</p>"
    download = f'<p>For programs: <a href="{up}claims.json">claims.json</a>.</p>'
    cards = "".join(card(of_one, up) for of_one in by_claim.values())
    return f"{download}{summary(found)}{filters(found)}{cards}{SCRIPT}"


def summary(found: list[dict]) -> str:
    """How many verdicts of each kind there are, by chapter and preset."""
    counts = Counter((v["chapter"], v["preset"], v["verdict"]) for v in found)
    head = "".join(f'<th scope="col">{v.removesuffix(" at this preset")}</th>' for v in claims.VERDICTS)
    body = "".join(
        f'<tr><th scope="row">{title(chapter)}</th><td>{escape(preset)}</td>'
        + "".join(f"<td>{counts[chapter, preset, verdict]}</td>" for verdict in claims.VERDICTS)
        + "</tr>"
        for chapter, preset in dict.fromkeys((v["chapter"], v["preset"]) for v in found)
    )
    return (
        '<div class="eos-scroll" tabindex="0" role="region" aria-label="Verdicts by chapter and preset">'
        '<table class="table eos-summary"><thead><tr><th scope="col">Chapter</th><th scope="col">Preset</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def filters(found: list[dict]) -> str:
    """Three selection lists, hidden until the script takes them over."""
    selects = ""
    for name in ("chapter", "verdict", "preset"):
        options = '<option value="">all</option>'
        for value in dict.fromkeys(v[name] for v in found):
            shown = title(value) if name == "chapter" else escape(value)
            options += f'<option value="{escape(value)}">{shown}</option>'
        selects += f'<label>{name.capitalize()} <select name="{name}">{options}</select></label> '
    return f'<form class="eos-filter" hidden>{selects}<output aria-live="polite"></output></form>'


def card(found: list[dict], up: str) -> str:
    """One claim: what the paper says, and what was found at each preset."""
    v = found[0]
    where = "ours, beyond the paper" if v.get("ours") else v["where"]
    paper = f" The paper: {escape(str(v['paper_value']))}." if v["paper_value"] else ""
    link = f'<a href="{up}{v["page"]}"><code>{escape(v["id"])}</code></a>'
    return (
        f'<section class="eos-card" aria-label="{escape(v["id"])}"><p>{escape(v["statement"])} '
        f'<span class="eos-where">({escape(where)}; {link})</span></p>'
        f'<p class="eos-where">Measured: {escape(v["quantity"])}.{paper}</p>'
        f"<ul>{''.join(map(result, found))}</ul></section>"
    )


def result(v: dict) -> str:
    """What was found on a claim at one preset."""
    slug = v["verdict"].replace(" ", "-")
    criterion = f"criterion: {v['criterion']}" if v["criterion"] else "not judged at this preset"
    if v.get("amended"):
        criterion += f"; amended after a run was recorded: {v['amended']}"
    for machine, verdict in v["machines"].items():
        if verdict != v["verdict"]:
            criterion += f"; {verdict} on {machine}"
    return (
        f'<li data-chapter="{escape(v["chapter"])}" data-verdict="{escape(v["verdict"])}" '
        f'data-preset="{escape(v["preset"])}">{escape(v["preset"])}: '
        f'<span class="eos-verdict eos-{slug}">{escape(v["verdict"])}</span> {escape(v["value"] or "")} '
        f'<span class="eos-where">({escape(criterion)})</span></li>'
    )


def title(chapter: str) -> str:
    return escape(chapter.replace("_", " ").capitalize())


SCRIPT = """<script>
(() => {
  const form = document.querySelector(".eos-filter"), cards = [...document.querySelectorAll(".eos-card")];
  const show = () => {
    for (const card of cards) {
      const rows = [...card.querySelectorAll("li")];
      for (const row of rows)
        row.hidden = [...form.elements].some(e => e.name && e.value && row.dataset[e.name] !== e.value);
      card.hidden = rows.every(row => row.hidden);
    }
    const shown = cards.filter(card => !card.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${cards.length} claims`;
  };
  form.addEventListener("change", show);
  form.hidden = false;
  show();  // a browser may have kept the selection over a reload
})();
</script>"""


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
