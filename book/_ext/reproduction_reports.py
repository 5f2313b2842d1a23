"""Sphinx extension: the directive ``reproduction-report``, a report on one paper's reproduction in the form of the ML
Reproducibility Challenge. Its argument is the chapter; its body holds what is written, as YAML, each of it MyST:

    scope: what of the paper was reproduced
    method: how
    deviations: the most important ones
    easy: what was easy
    difficult: what was difficult

The rest comes from the ledger, the verdicts and the manifests of the recorded runs: how many claims, how they fared,
what was computed, and what does not reproduce.
"""

import json
from collections import Counter

import pydantic
import yaml
from claims_board import bar, verdicts
from docutils import nodes
from executed_chapters import TEMPLATES, Chapter
from landing import OfThisBuild
from typing_extensions import TypedDict  # pydantic takes the standard library's only from Python 3.12 on

from eoslib import store
from eoslib.chapter import claims, presets
from eoslib.chapter.templates import render


class Written(TypedDict):
    scope: str
    method: str
    deviations: str
    easy: str
    difficult: str


_WRITTEN = pydantic.TypeAdapter(pydantic.with_config(presets.STRICT | {"extra": "forbid"})(Written))


def most_faithful(found: list[dict]) -> list[dict]:
    """Of each claim the verdict at the most faithful preset at which it was judged."""
    judged = [v for v in found if v["verdict"] not in (claims.NOT_JUDGED, claims.NOT_RUN)]
    judged.sort(key=lambda v: claims.PRESETS.index(v["preset"]))
    return list({v["id"]: v for v in judged}.values())


def computed(chapter: str) -> dict:
    """What the recorded runs of a chapter took: runs, hours, processors (name → runs), threads, gradients, products."""
    files = sorted((store.recorded() / chapter).glob("*.json"))
    manifests = [json.loads(file.read_text(encoding="utf-8"))["body"] for file in files]
    processors = Counter(store.processor(m["machine"]) for m in manifests)
    return {
        "runs": len(manifests),
        "hours": sum(m["wall_seconds"] for m in manifests) / 3600,
        "processors": dict(processors.most_common()),
        "threads": sorted({m["threads"] for m in manifests}),
        "gradients": sum(m["gradients"] or 0 for m in manifests),
        "products": sum(m["products"] or 0 for m in manifests),
    }


def of_chapter(app, name: str) -> Chapter | None:
    return next((chapter for chapter in app.chapters.values() if chapter.name == name), None)


class ReproductionReport(OfThisBuild):
    """See the module."""

    required_arguments = 1
    has_content = True

    def shown(self, app) -> list[nodes.Node]:
        chapter = of_chapter(app, self.arguments[0])
        if chapter is None:
            raise self.error(f"reproduction-report: no chapter {self.arguments[0]!r}")
        try:
            written = _WRITTEN.validate_python(yaml.safe_load("\n".join(self.content)))
        except (yaml.YAMLError, pydantic.ValidationError) as error:
            raise self.error(f"reproduction-report {chapter.name}: {error}") from error
        found = most_faithful([v for v in verdicts(app) if v["chapter"] == chapter.name])
        failed = {
            verdict: [v for v in found if v["verdict"] == verdict]
            for verdict in (claims.NOT_REPRODUCED, claims.PARTLY, claims.UNDECIDED)
        }
        live = chapter.executions[-1].notebook()
        text = render(
            TEMPLATES / "reproduction-report.md", written=written, chapter=chapter,
            up="../" * self.env.docname.count("/"), stated=len(found), ours=sum(v["ours"] for v in found),
            at=Counter(v["preset"] for v in found), bar=bar(found), compute=computed(chapter.name), marks=claims.MARKS,
            scales=claims.SCALES,
            failed={verdict: those for verdict, those in failed.items() if those},
            seconds=live and live.metadata["eoslib"]["seconds"],
        )  # fmt: skip
        return self.parse_text_to_nodes(text)


def setup(app):
    app.add_directive("reproduction-report", ReproductionReport)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
