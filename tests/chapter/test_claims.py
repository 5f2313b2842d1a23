"""chapter.claims: criteria to the edge, a ledger that cannot be misread, verdicts that cannot change unnoticed."""

import json
import math

import nbformat
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eoslib import store
from eoslib.chapter import claims
from eoslib.chapter.claims import NOT_REPRODUCED, NOT_RUN, PARTLY, REPRODUCED, Claim, ClaimError, Ledger

NAN = float("nan")
ENTRY = {
    "id": "exp3/rp-near-zero",
    "where": "Experiment 3",
    "statement": "Relative progress saturates around 0.",
    "quantity": "mean RP",
    "criteria": {"quick": {"within": [-0.1, 0.1]}},
}


def write(path, *entries, paper="ahn2022"):
    path.write_text(yaml.safe_dump({"paper": paper, "claims": list(entries)}))
    return path


@pytest.fixture
def ledger(tmp_path):
    return Ledger("test", "quick", write(tmp_path / "claims.yaml", ENTRY, ENTRY | {"id": "exp3/other"}))


def judge(criterion, *cases):
    return Claim("a/b", "", "", "", {"quick": criterion}).judge("quick", cases)


# --- criteria --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "met", "missed"),
    [
        ({"within": [-1, 2]}, [-1, 0, 2, True], [-1.001, 2.001, NAN, math.inf]),
        ({"at_most": 3}, [3, -math.inf], [3.001, NAN]),
        ({"at_least": 3}, [3, math.inf], [2.999, NAN]),
        ({"equals": [1, 0.5]}, [0.5, 1, 1.5], [0.499, 1.501, NAN, math.inf]),
        ({"equals": [1, 0]}, [1], [1 + 1e-15]),
        ({"increasing": True}, [[1, 2, 3], [-1, 5]], [[1, 1], [1, 3, 2], [1], [], [1, NAN], [NAN, 1]]),
        ({"increasing": False}, [[1, 1], [2, 1], [1]], [[1, 2], [1, NAN]]),
        ({"decreasing": True}, [[3, 2, 1]], [[1, 1], [1, 2], [1], [2, NAN]]),
        ({"decreasing": False}, [[1, 2]], [[2, 1]]),
        ({"holds": True}, [True, 1], [False, 0, NAN]),
        ({"holds": False}, [False, 0], [True, NAN]),
    ],
)
def test_every_criterion_at_its_edges(criterion, met, missed):
    """A nan meets nothing, not even a criterion that something should not be so."""
    for case in met:
        assert judge(criterion, case) == REPRODUCED, case
    for case in missed:
        assert judge(criterion, case) == NOT_REPRODUCED, case
    assert judge(criterion, met[0], missed[0]) == PARTLY


def test_all_criteria_are_tested_above():
    (table,) = (m for m in test_every_criterion_at_its_edges.pytestmark if m.name == "parametrize")
    assert {name for row in table.args[1] for name in row[0]} == set(claims.CRITERIA)


@given(st.lists(st.floats(allow_nan=True), min_size=1), st.floats(-5, 5), st.floats(-5, 5))
def test_the_verdict_counts_cases(cases, a, b):
    low, high = min(a, b), max(a, b)
    met = [low <= case <= high for case in cases]
    expected = REPRODUCED if all(met) else PARTLY if any(met) else NOT_REPRODUCED
    assert judge({"within": [low, high]}, *cases) == expected


def test_without_cases_or_without_criterion_nothing_was_run():
    assert judge({"at_most": 1}) == NOT_RUN
    claim = Claim("a/b", "", "", "", {"paper": {"at_most": 1}})
    assert claim.judge("quick", [0]) == NOT_RUN
    assert claim.criterion("quick") is None


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ({"within": [-0.1, 0.1]}, "between -0.1 and 0.1"),
        ({"at_most": 1e-3}, "at most 0.001"),
        ({"at_least": 1000}, "at least 1,000"),
        ({"equals": [1, 1e-12]}, "1, to within 1e-12"),
        ({"increasing": True}, "increasing"),
        ({"decreasing": False}, "not decreasing"),
        ({"holds": True}, "true"),
    ],
)
def test_a_criterion_in_words(criterion, words):
    assert Claim("a/b", "", "", "", {"quick": criterion}).criterion("quick") == words


# --- the ledger ------------------------------------------------------------------------------------------


def test_a_verdict_has_all_that_the_board_shows(ledger):
    identity = {"chapter": "test", "experiment": "e"}
    run = store.Run(identity, None, {"key": "0123"})
    verdict = ledger.verdict("exp3/rp-near-zero", {"seed 0": 0.01, "seed 1": 0.2}, [run], note="why")
    assert verdict == {
        "id": "ahn2022/exp3/rp-near-zero", "preset": "quick", "verdict": PARTLY, "value": "seed 0: 0.01; seed 1: 0.2",
        "cases": {"seed 0": 0.01, "seed 1": 0.2}, "spread": [0.01, 0.2], "criterion": "between -0.1 and 0.1",
        "statement": ENTRY["statement"], "quantity": "mean RP", "where": "Experiment 3", "paper_value": None,
        "amended": None, "ours": False, "note": "why", "runs": ["0123"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "value", [0.05, np.float32(0.05), np.array(0.05), torch.tensor(0.05), np.float64(0.05)], ids=lambda v: str(type(v))
)
def test_numbers_of_every_library_are_judged_and_become_plain(ledger, value):
    verdict = ledger.verdict("exp3/rp-near-zero", {"": value})
    assert verdict["verdict"] == REPRODUCED
    assert verdict["value"] == "0.05"
    assert type(verdict["cases"][""]) is float
    json.dumps(verdict)


def test_arrays_are_orderings(tmp_path):
    path = write(tmp_path / "c.yaml", ENTRY | {"criteria": {"quick": {"increasing": True}}})
    for values in ([1, 2, 3], np.array([1.0, 2, 3]), torch.tensor([1, 2, 3])):
        verdict = Ledger("test", "quick", path).verdict("exp3/rp-near-zero", {"η": values})
        assert (verdict["verdict"], verdict["value"]) == (REPRODUCED, "η: 1 → 2 → 3")


def test_no_cases_are_not_run(ledger):
    verdict = ledger.verdict("exp3/rp-near-zero", {})
    assert (verdict["verdict"], verdict["value"], verdict["spread"]) == (NOT_RUN, None, None)


def test_many_cases_are_summarised_and_none_is_lost(ledger):
    cases = {f"seed {i}": i / 100 for i in range(5)}
    verdict = ledger.verdict("exp3/rp-near-zero", cases)
    assert verdict["value"] == "median 0.02 (0 to 0.04 over 5 cases)"
    assert verdict["cases"] == cases
    assert all(f"{label}: " in claims._html(verdict) for label in cases)


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_case_that_is_not_finite_shows_in_the_value_and_leaves_standard_json(ledger, bad):
    """A diverged seed is a result: it must neither vanish in a median nor make JSON that browsers refuse."""
    for others in (1, 5):
        cases = {f"seed {i}": 0.01 for i in range(others)} | {"diverged": bad}
        verdict = ledger.verdict("exp3/rp-near-zero", cases)
        assert verdict["verdict"] == PARTLY
        assert str(bad) in verdict["value"]
        json.dumps(verdict, allow_nan=False)
        claims._html(verdict)


def test_an_unknown_claim_lists_the_known_ones(ledger):
    with pytest.raises(ClaimError, match=r"no claim 'exp3/rp'.*ahn2022/exp3/rp-near-zero, ahn2022/exp3/other"):
        ledger.verdict("exp3/rp", {})


def test_ids_are_paper_item_name(tmp_path):
    assert list(claims.read(write(tmp_path / "c.yaml", ENTRY, paper="damian2023"))) == ["damian2023/exp3/rp-near-zero"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"qantity": "x"}, "exp3/rp-near-zero has unknown field.*qantity"),
        ({"where": None}, None),
        ({"criteria": None}, "criteria need presets"),
        ({"criteria": {"quik": {"holds": True}}}, "criteria need presets.*quik"),
        ({"criteria": {"quick": {"near": 3}}}, "at quick: one of within.*near"),
        ({"criteria": {"quick": {"at_most": 1, "at_least": 0}}}, "at quick: one of"),
        ({"criteria": {"quick": {}}}, "at quick: one of"),
        ({"criteria": {"quick": 3}}, "at quick: one of"),
        ({"criteria": {"paper": {"within": 3}}}, "at paper: one of.*within"),
        ({"criteria": {"quick": {"within": [3]}}}, "at quick: one of.*within"),
        ({"criteria": {"quick": {"at_most": "1e-3"}}}, "at quick: one of.*1e-3"),  # what YAML makes of a bare 1e-3
    ],
)
def test_a_malformed_entry_is_named(tmp_path, change, complaint):
    path = write(tmp_path / "c.yaml", ENTRY | change)
    if complaint is None:
        claims.read(path)
        return
    with pytest.raises(ClaimError, match=complaint) as caught:
        claims.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["id", "where", "statement", "quantity", "criteria"])
def test_a_missing_field_is_named(tmp_path, name):
    entry = {field: value for field, value in ENTRY.items() if field != name}
    with pytest.raises(ClaimError, match=f"lacks {name}"):
        claims.read(write(tmp_path / "c.yaml", entry))


def test_a_claim_that_stands_twice_is_named(tmp_path):
    with pytest.raises(ClaimError, match=r"ahn2022/exp3/rp-near-zero stands there twice"):
        claims.read(write(tmp_path / "c.yaml", ENTRY, ENTRY))


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "paper: a", "claims: []", "paper: a\nclaims: [3]", "a: [", "claims: 3"]
)
def test_a_file_that_is_no_ledger_is_named(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ClaimError, match=r"c\.yaml"):
        claims.read(path)


# --- in the notebook -------------------------------------------------------------------------------------


def test_a_verdict_is_shown_for_readers_and_for_programs(ledger, shown):
    ledger.measure("exp3/rp-near-zero", {"seed 0": 0.01})
    (output,) = shown
    assert output["data"][claims.MIME] == ledger.verdict("exp3/rp-near-zero", {"seed 0": 0.01})
    assert "reproduced" in output["data"]["text/plain"]
    assert 'class="eos-box eos-claim eos-reproduced" id="ahn2022-exp3-rp-near-zero"' in output["data"]["text/html"]


def test_the_verdicts_of_a_notebook_are_found_in_order(ledger):
    verdicts = [ledger.verdict(name, {"": 0.0}) for name in ("exp3/other", "exp3/rp-near-zero")]
    outputs = [nbformat.v4.new_output("display_data", {claims.MIME: v, "text/html": ""}) for v in verdicts]
    other = [nbformat.v4.new_output("stream", text="…"), nbformat.v4.new_output("display_data", {"text/plain": ""})]
    cells = [
        nbformat.v4.new_markdown_cell("text"),
        nbformat.v4.new_code_cell("a", outputs=[other[0], outputs[0], other[1]]),
        nbformat.v4.new_code_cell("b", outputs=[outputs[1]]),
    ]
    assert claims.in_notebook(nbformat.v4.new_notebook(cells=cells)) == verdicts


HOSTILE = '<script>alert("&")</script>'


def test_no_text_of_the_ledger_is_markup(tmp_path):
    texts = dict.fromkeys(("where", "statement", "quantity", "paper_value"), HOSTILE)
    path = write(tmp_path / "c.yaml", ENTRY | texts | {"id": f"e/{HOSTILE}", "amended": {"quick": HOSTILE}})
    verdict = Ledger("test", "quick", path).verdict(
        f"e/{HOSTILE}", {HOSTILE + str(i): 1 for i in range(4)}, note=HOSTILE
    )
    page = claims._html(verdict)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert 'alert("' not in page  # nor does it end an attribute


# --- acknowledged verdicts -------------------------------------------------------------------------------


def test_a_changed_verdict_is_noticed_until_it_is_acknowledged(ledger):
    good, bad = (ledger.verdict("exp3/rp-near-zero", {"": value}) for value in (0, 1))
    assert claims.changed([good], "test", "quick") == []  # never acknowledged: no change
    claims.acknowledge([good], "test", "quick")
    assert claims.changed([good], "test", "quick") == []
    (sentence,) = claims.changed([bad], "test", "quick")
    assert "ahn2022/exp3/rp-near-zero at quick was 'reproduced' and is now 'not reproduced' (1;" in sentence
    assert claims.changed([bad], "test", "paper") == []
    assert claims.changed([bad], "another chapter", "quick") == []
    claims.acknowledge([bad], "test", "quick")
    assert claims.changed([bad], "test", "quick") == []


def test_another_number_with_the_same_verdict_is_no_change(ledger):
    claims.acknowledge([ledger.verdict("exp3/rp-near-zero", {"": 0.01})], "test", "quick")
    assert claims.changed([ledger.verdict("exp3/rp-near-zero", {"": 0.02})], "test", "quick") == []


def test_a_verdict_is_acknowledged_for_each_kind_of_machine(ledger, monkeypatch):
    good, bad = (ledger.verdict("exp3/rp-near-zero", {"": value}) for value in (0, 1))
    claims.acknowledge([good], "test", "quick")
    here, there = claims._machine(), "another processor"
    monkeypatch.setattr(claims, "_machine", lambda: there)
    assert claims.changed([bad], "test", "quick") == []
    claims.acknowledge([bad], "test", "quick")
    assert claims.acknowledged("test")["quick"][good["id"]]["machines"] == {
        here: claims.REPRODUCED,
        there: NOT_REPRODUCED,
    }
    assert len(claims.changed([good], "test", "quick")) == 1
    monkeypatch.setattr(claims, "_machine", lambda: here)
    assert claims.changed([good], "test", "quick") == []
    assert len(claims.changed([bad], "test", "quick")) == 1


def test_verdicts_on_other_runs_say_nothing_of_these(ledger, monkeypatch):
    verdict = ledger.verdict("exp3/rp-near-zero", {"": 0})
    claims.acknowledge([verdict], "test", "quick")
    monkeypatch.setattr(claims, "_machine", lambda: "another processor")
    claims.acknowledge([verdict | {"runs": ["another"]}], "test", "quick")
    assert list(claims.acknowledged("test")["quick"][verdict["id"]]["machines"]) == ["another processor"]


def test_presets_are_acknowledged_apart_and_read_back_as_they_were(ledger, tmp_path):
    quick = ledger.verdict("exp3/rp-near-zero", {"seed 0": 0.01, "seed 1": 0.02})
    not_run = ledger.verdict("exp3/other", {})
    paper = quick | {"preset": "paper", "verdict": NOT_REPRODUCED}
    claims.acknowledge([quick, not_run], "test", "quick")
    path = claims.acknowledge([paper], "test", "paper")
    assert path == tmp_path / "recorded" / "claims" / "test.yaml"
    assert claims.acknowledged("test") == {
        preset: {v["id"]: v | {"machines": {claims._machine(): v["verdict"]}}}
        for preset, v in {"quick": quick, "paper": paper}.items()
    }
    assert store.listing() == []  # verdicts are not taken for runs


def test_a_criterion_changed_after_the_fact_needs_a_reason(tmp_path):
    def verdict(bound, **more):
        path = write(tmp_path / "c.yaml", ENTRY | {"criteria": {"quick": {"at_most": bound}}} | more)
        return Ledger("test", "quick", path).verdict("exp3/rp-near-zero", {"": 0.5})

    claims.acknowledge([verdict(0.1)], "test", "quick")
    with pytest.raises(ClaimError, match=r"was 'at most 0.1' and is now 'at most 1'; say why .*amended: \{quick"):
        claims.acknowledge([verdict(1)], "test", "quick")
    assert claims.acknowledged("test")["quick"]["ahn2022/exp3/rp-near-zero"]["criterion"] == "at most 0.1"
    with pytest.raises(ClaimError):  # a reason for another preset is none
        claims.acknowledge([verdict(1, amended={"paper": "…"})], "test", "quick")
    amended = verdict(1, amended={"quick": "the bound was a typing error"})
    claims.acknowledge([amended], "test", "quick")
    assert amended["amended"] in claims._html(amended)
