"""Sphinx extension: what the landing page shows of this build.

``sharpness-in-motion`` is a figure that plays: sharpness and loss of the runs of a chapter's figure, drawn in full,
which ``book/_static/play.js`` then reveals step by step; its content is the caption. ``chapter-cards`` has a card for
each chapter. ``verdict-legend`` says what verdicts, scales and their marks mean.
"""

import base64
import csv
import gzip
import hashlib
import math
import re

import claims_board
from chapter_head import drawn, head, incomplete
from docutils import nodes
from executed_chapters import TEMPLATES
from matplotlib.ticker import MaxNLocator
from sphinx.util.docutils import SphinxDirective

from eoslib.chapter import claims, figures
from eoslib.chapter.templates import render

CHAPTER, FIGURE = "notebooks/unstable_convergence", "exp3"
PANELS = {"3": "sharpness", "1": "training loss"}  # of that figure: number → what it shows
WIDTH, HEIGHT = 340, 230  # of a panel of ours, in pixels, with its axes
LEFT, RIGHT, TOP, BOTTOM = 46, 330, 26, 188  # of its frame
MEANINGS = {
    claims.REPRODUCED: "every case that was measured (every step size, every seed) meets the criterion",
    claims.PARTLY: "some cases do",
    claims.NOT_REPRODUCED: "none does; published like any other result, with what was tried",
    claims.UNDECIDED: "a bound lies within two standard errors of the value and the verdict hangs on it, or fewer "
    "cases were run than the claim asks for",
    claims.NOT_JUDGED: "it was measured, but this preset is no test of it",
    claims.NOT_RUN: "it needs data or time that this preset does not have",
}


class OfThisBuild(SphinxDirective):
    """A directive that shows what may change while its page does not."""

    def run(self) -> list[nodes.Node]:
        app = self.env.app
        self.env.landing[self.env.docname] = digest(app)
        for chapter in app.chapters.values():
            self.env.note_dependency(str(chapter.source))
        return self.shown(app)


class SharpnessInMotion(OfThisBuild):
    """The figure that plays; nothing where its runs are missing at the preset of its chapter's page."""

    has_content = True

    def shown(self, app) -> list[nodes.Node]:
        self.assert_has_content()
        chapter = app.chapters[CHAPTER]
        found = {} if chapter.failure else drawn(chapter)
        if FIGURE not in found and (chapter.failure or incomplete(chapter)):
            return []
        table = gzip.decompress(base64.b64decode(found[FIGURE]["files"]["csv"])).decode()
        up = "../" * self.env.docname.count("/")
        html = render(TEMPLATES / "sharpness-in-motion.html", **motion(table), preset=chapter.preset, up=up)
        before, after = (nodes.raw("", part, format="html") for part in html.split("<!-- caption -->"))
        return [before, *self.parse_content_to_nodes(), after]


def motion(table: str) -> dict:
    """For the template: panels and the runs' labels (colour → η), from the figure's CSV."""
    colours = {name: colour for colour, name in figures.NAMES.items()}
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    labels: dict[str, str] = {}
    for row in csv.DictReader(line for line in table.splitlines() if not line.startswith("#")):
        colour = colours[row["colour"]]
        if row["panel"] in PANELS:
            curves.setdefault((row["panel"], colour), []).append((float(row["x"]), float(row["y"])))
        if row["label"]:
            labels[colour] = row["label"].strip("$").replace(r"\eta", "η")
    thresholds = {colour: threshold(label) for colour, label in labels.items()}
    panels = []
    for number, name in PANELS.items():
        own = {colour: points for (panel, colour), points in curves.items() if panel == number}
        panels.append(scaled(own, thresholds if name == "sharpness" else {}) | {"name": name})
    return {"panels": panels, "labels": labels, "width": WIDTH, "height": HEIGHT, "frame": (LEFT, TOP, RIGHT, BOTTOM)}


def threshold(label: str) -> float:
    """2/η of a label: 60 of "η = 2/60", 20 of "η = 0.1"."""
    inverse, plain = re.fullmatch(r"η = (?:2/([\d.]+)|([\d.e-]+))", label).groups()
    return float(inverse) if inverse else 2 / float(plain)


def scaled(curves: dict[str, list[tuple[float, float]]], dashed: dict[str, float]) -> dict:
    """A panel in pixels: curves (colour → polyline), dashed lines (colour → height), ticks of x, y (text → place)."""
    right = max(x for points in curves.values() for x, _ in points)
    top = 1.05 * max([y for points in curves.values() for _, y in points if math.isfinite(y)] + list(dashed.values()))

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * x / right

    def down(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * y / top

    def ticks(largest: float, place) -> dict[str, float]:
        return {f"{t:,g}": round(place(t), 1) for t in MaxNLocator(4).tick_values(0, largest) if 0 <= t <= largest}

    return {
        "curves": {
            colour: " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points if math.isfinite(y))
            for colour, points in curves.items()
        },
        "dashed": {colour: round(down(y), 1) for colour, y in dashed.items()},
        "x": ticks(right, across),
        "y": ticks(top, down),
        "steps": round(right),
    }


class ChapterCards(OfThisBuild):
    """A card for each chapter: what it asks and answers, its verdicts, and what a rerun takes."""

    def shown(self, app) -> list[nodes.Node]:
        up = "../" * self.env.docname.count("/")
        cards = []
        for docname, chapter in app.chapters.items():
            about = head(docname)
            card = {"page": f"{up}{docname}.html", "title": chapter.title, "preset": chapter.preset, "figure": None}
            card |= {"question": about["question"], "answer": about["answer"], "bar": None, "seconds": None}
            if not chapter.failure:
                card["figure"] = drawn(chapter).get(about["figure"])
                card["bar"] = claims_board.bar(chapter.verdicts)
            if live := chapter.executions[-1].notebook():
                card["seconds"] = live.metadata["eoslib"]["seconds"]
            cards.append(card)
        return self.parse_text_to_nodes(render(TEMPLATES / "chapter-cards.md", cards=cards))


class VerdictLegend(SphinxDirective):
    """What verdicts and scales mean, with the marks of the board."""

    def run(self) -> list[nodes.Node]:
        meanings = {verdict: (claims.MARKS[verdict], meaning) for verdict, meaning in MEANINGS.items()}
        html = render(TEMPLATES / "verdict-legend.html", verdicts=meanings, scales=claims_board.SCALES)
        return [nodes.raw("", html, format="html")]


def digest(app) -> str:
    """Identifies what the directives show, apart from the chapters' prose."""
    shown = [claims_board.digest(app), *(chapter.digest() for chapter in app.chapters.values())]
    return hashlib.sha256("".join(shown).encode()).hexdigest()


def prepare(app) -> None:
    if not hasattr(app.env, "landing"):
        app.env.landing = {}  # docname of a page with one of the directives -> digest of what it showed


def outdated(app, env, added, changed, removed) -> list[str]:
    now = digest(app)
    return [docname for docname, then in env.landing.items() if then != now]


def setup(app):
    app.add_directive("sharpness-in-motion", SharpnessInMotion)
    app.add_directive("chapter-cards", ChapterCards)
    app.add_directive("verdict-legend", VerdictLegend)
    app.connect("builder-inited", prepare)
    app.connect("env-get-outdated", outdated)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
