"""The reproduction reports: what is generated is what the ledger, the verdicts and the manifests say."""

import json
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from pages import CHAPTERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import reproduction_reports

    return reproduction_reports


def verdict(id_: str, preset: str, verdict: str) -> dict:
    return {"id": id_, "preset": preset, "verdict": verdict}


def test_each_claim_counts_once_at_the_most_faithful_preset_that_judged_it(extension):
    found = [
        verdict("a", "paper", "not run"), verdict("a", "standard", "partly"), verdict("a", "quick", "reproduced"),
        verdict("b", "paper", "not judged"), verdict("b", "quick", "reproduced"), verdict("c", "standard", "not run"),
    ]  # fmt: skip
    assert extension.most_faithful(found) == [found[1], found[4]]


def test_the_compute_is_that_of_the_recorded_manifests(extension, tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_RECORDED", str(tmp_path))
    (tmp_path / "tiny").mkdir()
    for i, (gpu, products) in enumerate([("none", 3), ("none", None), ("H200", 4)]):
        machine = {"processor": "a processor", "gpu": gpu}
        body = {"machine": machine, "wall_seconds": 1800, "threads": 1 + i // 2, "gradients": 10, "products": products}
        (tmp_path / "tiny" / f"exp-{i}.json").write_text(json.dumps({"body": body}))
    assert extension.computed("tiny") == {
        "runs": 3, "hours": 1.5, "processors": {"a processor": 2, "H200": 1}, "threads": [1, 2], "gradients": 30,
        "products": 7,
    }  # fmt: skip
    assert extension.computed("none")["runs"] == 0


def test_a_report_has_every_written_part(extension):
    written = dict.fromkeys(("scope", "method", "deviations", "easy", "difficult"), "Text.")
    assert extension._WRITTEN.validate_python(written) == written
    for wrong in (written | {"esay": "Text."}, {"scope": "Text."}):
        with pytest.raises(ValueError):
            extension._WRITTEN.validate_python(wrong)


def test_the_page_reports_on_each_chapter_what_the_ledger_says(site):
    found = json.loads((site / "claims.json").read_text())["claims"]
    page = BeautifulSoup((site / "book/reports.html").read_text(), "html.parser").article
    sections = page.select("section > section")
    assert len(sections) == len(CHAPTERS)
    for chapter, section in zip(CHAPTERS, sections, strict=True):
        best = {}
        for preset in ("quick", "standard", "paper"):
            judged = [v for v in found if v["page"].startswith(f"{chapter}.html") and v["preset"] == preset]
            best |= {v["id"]: v for v in judged if v["verdict"] not in ("not judged", "not run")}
        failed = [v for v in best.values() if v["verdict"] in ("not reproduced", "partly", "undecided")]
        listed = {link["href"].removeprefix("../"): link.get_text() for link in section.select(".eos-report a")}
        assert listed == {v["page"]: v["statement"] for v in failed} and failed
        assert f"{len(best)} were judged" in section.get_text()
        recorded = len(list((ROOT / "recorded" / Path(chapter).name).glob("*.json")))
        assert f"{recorded} runs are recorded" in section.get_text() or not recorded


def test_the_synthesis_is_judged_like_a_chapter(site):
    stated = yaml.safe_load((ROOT / "book/claims/synthesis.yaml").read_text())["claims"]
    found = json.loads((site / "claims.json").read_text())["claims"]
    mine = [v for v in found if v["id"].startswith("synthesis/")]
    assert {v["id"] for v in mine} == {f"synthesis/{claim['id']}" for claim in stated}
    assert all(v["control"]["fails"] and v["page"].startswith("book/synthesis.html#") for v in mine)
    board = BeautifulSoup((site / "book/claims.html").read_text(), "html.parser")
    assert all(board.find(id=v["page"].partition("#")[2]) for v in mine)
