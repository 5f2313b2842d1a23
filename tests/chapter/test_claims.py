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
from eoslib.chapter import claims, criteria, presets
from eoslib.chapter.claims import (
    NOT_JUDGED,
    NOT_REPRODUCED,
    NOT_RUN,
    PARTLY,
    REPRODUCED,
    UNDECIDED,
    Claim,
    ClaimError,
    Ledger,
    row,
)

NAN = float("nan")
ENTRY = {
    "id": "exp3/rp-near-zero",
    "where": "Experiment 3",
    "statement": "Relative progress saturates around 0.",
    "quantity": "mean RP",
    "scale": {"quick": "toy", "standard": "reduced", "paper": "paper"},
    "criteria": {"quick": {"within": [-0.1, 0.1]}},
}


def write(path, *entries, paper="ahn2022"):
    path.write_text(yaml.safe_dump({"paper": paper, "claims": list(entries)}))
    return path


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """The folder in which ledgers are looked for by their chapter."""
    monkeypatch.setattr(presets, "NOTEBOOKS", tmp_path)
    (tmp_path / "claims").mkdir()
    return tmp_path


@pytest.fixture
def ledger(notebooks):
    write(notebooks / "claims" / "test.yaml", ENTRY, ENTRY | {"id": "exp3/other"})
    return Ledger("test", "quick")


def claim(criterion, preset="quick"):
    return Claim(id="a/b", where="", statement="", quantity="", scale="toy", criteria={preset: criterion})


def judge(criterion, *cases):
    return claim(criterion).judge("quick", dict(enumerate(cases)))


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
    assert {name for row in table.args[1] for name in row[0]} == set(criteria.KINDS)


@given(st.lists(st.floats(allow_nan=True), min_size=1), st.floats(-5, 5), st.floats(-5, 5))
def test_the_verdict_counts_cases(cases, a, b):
    low, high = min(a, b), max(a, b)
    met = [low <= case <= high for case in cases]
    expected = REPRODUCED if all(met) else PARTLY if any(met) else NOT_REPRODUCED
    assert judge({"within": [low, high]}, *cases) == expected


def test_without_cases_nothing_was_run_and_without_criterion_nothing_judged():
    assert judge({"at_most": 1}) == NOT_RUN
    unjudged = claim({"at_most": 1}, "paper")
    assert unjudged.judge("quick", {"": 0}) == NOT_JUDGED
    assert unjudged.judge("quick", {}) == NOT_RUN
    assert unjudged.criterion("quick") is None
    assert unjudged.possible("quick", {"": 1}, {}) == {NOT_JUDGED}


@pytest.mark.parametrize(
    ("cases", "errors", "expected"),
    [
        ({"a": 0.5}, {"a": 0.2}, REPRODUCED),
        ({"a": 0.5}, {"a": 0.26}, UNDECIDED),
        ({"a": 1.5}, {"a": 0.26}, UNDECIDED),
        ({"a": 1.5}, {"a": 0.24}, NOT_REPRODUCED),
        ({"a": 1.01}, {}, NOT_REPRODUCED),  # without a standard error there is no doubt
        ({"a": 0.9, "b": 0.1, "c": 3.0}, {"a": 1.0}, PARTLY),  # whatever a is
        ({"a": 0.9, "b": 0.1}, {"a": 1.0}, UNDECIDED),
        ({"a": 0.5}, {"a": NAN}, REPRODUCED),
    ],
)
def test_a_verdict_that_hangs_on_chance_is_undecided(cases, errors, expected):
    assert claim({"at_most": 1}).judge("quick", cases, errors) == expected
    assert expected in claim({"at_most": 1}).possible("quick", cases, errors)
    assert {REPRODUCED, NOT_REPRODUCED} <= claim({"at_most": 1}).possible("quick", {"": 0.9}, {"": 1.0})


def test_a_verdict_on_fewer_samples_than_asked_for_is_undecided(notebooks):
    write(notebooks / "claims" / "test.yaml", ENTRY | {"samples": 3})
    ledger = Ledger("test", "quick")

    def verdict(*cases, **rest):
        return ledger.verdict("exp3/rp-near-zero", {f"seed {i}": case for i, case in enumerate(cases)}, **rest)

    few = verdict(0.0, 0.5, note="Small data.")
    assert few["verdict"] == UNDECIDED and few["note"] == "2 of 3 samples. Small data."
    assert few["criterion"].endswith(", in 3 cases") and "2 of 3 samples" in claims.row(few)
    assert verdict()["verdict"] == NOT_RUN
    enough = verdict(0.0, 0.01, 0.5)
    assert enough["verdict"] == PARTLY and enough["note"] is None
    assert ledger.claims["ahn2022/exp3/rp-near-zero"].possible("quick", {"": 0.1}, {}) == {UNDECIDED}
    assert "samples" not in enough


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("exact", ["reproduced", "partly reproduced", "not reproduced"]),
        ("paper", ["reproduced", "partly reproduced", "not reproduced"]),
        ("reduced", ["seen at reduced scale", "partly seen at reduced scale", "not seen at reduced scale"]),
        ("toy", ["seen on a toy", "partly seen on a toy", "not seen on a toy"]),
    ],
)
def test_a_verdict_is_worded_by_its_scale(scale, expected):
    assert [claims.words(verdict, scale) for verdict in (REPRODUCED, PARTLY, NOT_REPRODUCED)] == expected
    for verdict in (UNDECIDED, NOT_JUDGED, NOT_RUN):
        assert claims.words(verdict, scale) == verdict


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
    assert claim(criterion).criterion("quick") == words


# --- near a bound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "near", "clear"),
    [
        ({"within": [-1, 2]}, [-0.96, -1.04, 1.91, 2.09], [-0.94, -1.06, 0, 1.89, 2.11, NAN, math.inf, True]),
        ({"at_most": 3}, [2.86, 3, 3.14], [2.84, 3.16, NAN, math.inf, -math.inf]),
        ({"at_least": -3}, [-2.86, -3, -3.14], [-2.84, -3.16, 3, NAN]),
        ({"at_least": 1}, [1, 1.0], [True, False]),  # the number one, and a yes
        ({"at_most": 0}, [], [0, 1e-300, -1e-300]),  # no share of 0 is anything
        ({"equals": [10, 1]}, [11.04, 10.96, 9.04, 8.96], [11.06, 10.94, 10, 8.94, NAN, math.inf]),
        ({"equals": [1, 1e-12]}, [1 + 1.04e-12], [1, 1.01, 1 + 1.1e-12]),
        ({"equals": [0, 0]}, [], [0, 1]),
        # increasing: what would undo the order; not increasing: all that breaks it
        ({"increasing": True}, [[1, 2, 2.05], [1, 1], [3, 2.9, 4], [2, 1.96, 1.95]], [[1, 2, 3], [1, 2, 1.8], [], [1]]),
        ({"increasing": True}, [[-2.05, -2, 3]], [[2, 1.99, 1], [NAN, 1, 1.01], [1, 1.01, NAN], [1, math.inf]]),
        ({"increasing": False}, [[1, 1.04], [1, 0.97]], [[1, 1.06], [1, 0.94], [0, 0]]),
        ({"decreasing": True}, [[2.05, 2, 1], [1, 1.04]], [[3, 2, 1], [1, 1.06]]),
        ({"holds": True}, [], [True, False, 1, 0, 1.0]),
        ({"holds": False}, [], [True, False, 1, 0, 1.0]),
    ],
)
def test_a_case_near_its_bound_may_fall_on_either_side(criterion, near, clear):
    for case in near:
        assert criteria.outcomes(criterion, case) == {True, False}, case
    for case in clear:
        assert criteria.outcomes(criterion, case) == {criteria.met(criterion, case)}, case


def test_a_standard_error_says_better_than_a_share_of_the_bound_what_is_near():
    assert criteria.outcomes({"at_most": 1}, 1.3, 0.2) == {True, False}
    assert criteria.outcomes({"at_most": 1}, 1.5, 0.2) == {False}
    assert criteria.outcomes({"at_most": 1}, 1.02, 0.001) == {False}
    assert criteria.outcomes({"at_most": 0}, 0.1, 0.2) == {True, False}
    assert criteria.outcomes({"at_most": 1}, 1, 0.0) == {True}
    assert criteria.outcomes({"holds": True}, 1, 10) == {True}
    assert criteria.outcomes({"increasing": True}, [1, 1.3, 2], [0.0, 0.2, 0.0]) == {True, False}
    assert criteria.outcomes({"increasing": True}, [1, 1.02, 2], [0.001, 0.001, 0.001]) == {True}
    assert criteria.outcomes({"decreasing": True}, [3, 1.8, 2], [0.0, 0.09, 0.09]) == {True, False}
    assert criteria.outcomes({"decreasing": True}, [3, 1.8, 2], [1.0, 0.07, 0.07]) == {False}


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([0, 0], {REPRODUCED}),
        ([0, 9], {PARTLY}),
        ([9, 9], {NOT_REPRODUCED}),
        ([0, 1], {REPRODUCED, PARTLY}),
        ([9, 1], {NOT_REPRODUCED, PARTLY}),
        ([0, 9, 1], {PARTLY}),
        ([1], {REPRODUCED, NOT_REPRODUCED}),
        ([1, 1.01, 0.99], {REPRODUCED, PARTLY, NOT_REPRODUCED}),
        ([], {NOT_RUN}),
    ],
)
def test_the_verdicts_that_near_cases_leave_possible(cases, expected):
    assert claim({"at_most": 1}).possible("quick", {str(i): x for i, x in enumerate(cases)}, {}) == expected


@given(st.lists(st.floats(0.8, 1.2)))
def test_the_verdict_here_is_always_possible(cases):
    small, cases = claim({"at_most": 1}), {str(i): x for i, x in enumerate(cases)}
    assert small.judge("quick", cases) in small.possible("quick", cases, {})


# --- the ledger ------------------------------------------------------------------------------------------


def test_a_verdict_has_all_that_the_board_shows(ledger):
    identity = {"chapter": "test", "experiment": "e"}
    run = store.Run(identity, None, {"key": "0123"})
    verdict = ledger.verdict("exp3/rp-near-zero", {"seed 0": 0.01, "seed 1": 0.2}, [run], note="why")
    assert verdict == {
        "id": "ahn2022/exp3/rp-near-zero", "preset": "quick", "verdict": PARTLY, "value": "seed 0: 0.01; seed 1: 0.2",
        "scale": "toy", "missed": ["seed 1"],
        "cases": {"seed 0": 0.01, "seed 1": 0.2}, "standard_error": {}, "spread": [0.01, 0.2],
        "criterion": "between -0.1 and 0.1", "control": None,
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
    assert all(f"{label}: " in row(verdict) for label in cases)


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_case_that_is_not_finite_shows_in_the_value_and_leaves_standard_json(ledger, bad):
    """A diverged seed is a result: it must neither vanish in a median nor make JSON that browsers refuse."""
    for others in (1, 5):
        cases = {f"seed {i}": 0.01 for i in range(others)} | {"diverged": bad}
        verdict = ledger.verdict("exp3/rp-near-zero", cases)
        assert verdict["verdict"] == PARTLY
        assert str(bad) in verdict["value"]
        json.dumps(verdict, allow_nan=False)
        row(verdict)


def test_a_standard_error_stands_beside_its_case(ledger):
    cases, errors = {f"seed {i}": i / 100 for i in range(5)}, {"seed 1": np.float64(0.002), "seed 3": NAN}
    verdict = ledger.verdict("exp3/rp-near-zero", cases, errors=errors)
    assert verdict["standard_error"] == {"seed 1": 0.002, "seed 3": "nan"}
    assert "seed 1: 0.01 ± 0.002<br>" in row(verdict) and "seed 2: 0.02<br>" in row(verdict)
    json.dumps(verdict, allow_nan=False)
    assert ledger.verdict("exp3/rp-near-zero", {"": 0.01}, errors={"": 0.002})["value"] == "0.01 ± 0.002"
    with pytest.raises(ClaimError, match="rp-near-zero: a standard error of no case: seed 9"):
        ledger.verdict("exp3/rp-near-zero", cases, errors={"seed 9": 1})


def test_each_value_of_a_list_has_its_standard_error(notebooks):
    write(notebooks / "claims" / "test.yaml", ENTRY | {"criteria": {"quick": {"decreasing": True}}})
    measured = Ledger("test", "quick").verdict
    verdict = measured("exp3/rp-near-zero", {"": [3, 2]}, errors={"": np.array([0.6, 0])})
    assert verdict["value"] == "3 ± 0.6 → 2 ± 0" and verdict["standard_error"] == {"": [0.6, 0]}
    assert verdict["verdict"] == UNDECIDED
    with pytest.raises(ClaimError, match="rp-near-zero: not one standard error for each value of: seed 1"):
        measured("exp3/rp-near-zero", {"seed 1": [3, 2]}, errors={"seed 1": 0.5})


def test_an_unknown_claim_lists_the_known_ones(ledger):
    with pytest.raises(ClaimError, match=r"no claim 'exp3/rp'.*ahn2022/exp3/rp-near-zero, ahn2022/exp3/other"):
        ledger.verdict("exp3/rp", {})


def test_ids_are_paper_item_name(tmp_path):
    assert list(claims.read(write(tmp_path / "c.yaml", ENTRY, paper="damian2023"))) == ["damian2023/exp3/rp-near-zero"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"qantity": "x"}, "qantity: Extra inputs"),
        ({"where": None}, "where: Input should be a valid string"),
        ({"statement": 3}, "statement: Input should be a valid string"),
        ({"ours": "yes"}, "ours: Input should be a valid boolean"),
        ({"control": ["a run"]}, "control: Input should be a valid string"),
        ({"amended": {"quik": "why"}}, "amended: quik: .*'quick', 'standard' or 'paper'"),
        ({"criteria": None}, "Input should be a valid dictionary"),
        ({"criteria": {"quik": {"holds": True}}}, "quik: .*'quick', 'standard' or 'paper'"),
        ({"criteria": {"quick": {"near": 3}}}, "quick: near: Extra inputs.*valid: within, at_most"),
        ({"criteria": {"quick": {"at_most": 1, "at_least": 0}}}, "quick: Value should have at most 1 item"),
        ({"criteria": {"quick": {}}}, "quick: Value should have at least 1 item"),
        ({"criteria": {"quick": 3}}, "quick: Input should be a valid dictionary"),
        ({"criteria": {"paper": {"within": 3}}}, "paper: within: Input should be a valid list"),
        ({"criteria": {"quick": {"within": [3]}}}, "quick: within: List should have at least 2 items"),
        ({"criteria": {"quick": {"within": [1, 2, 3]}}}, "quick: within: List should have at most 2 items"),
        ({"criteria": {"quick": {"equals": ["1", 2]}}}, "quick: equals: 0: .*valid number"),
        (
            {"criteria": {"quick": {"at_most": "1e-3"}}},
            "quick: at_most: .*valid number",
        ),  # what YAML makes of a bare 1e-3
        ({"criteria": {"quick": {"at_most": True}}}, "quick: at_most: .*valid number"),
        ({"criteria": {"quick": {"at_most": NAN}}}, "quick: at_most: .*finite number"),
        ({"criteria": {"quick": {"at_most": None}}}, "quick: at_most: .*valid number"),
        ({"criteria": {"quick": {"holds": 1}}}, "quick: holds: Input should be a valid boolean"),
        ({"criteria": {"quick": {"increasing": "true"}}}, "quick: increasing: Input should be a valid boolean"),
        ({"scale": "life-size"}, "scale: .*'exact', 'paper', 'reduced' or 'toy'"),
        ({"scale": {"quick": "life-size"}}, "scale: .*'exact', 'paper', 'reduced' or 'toy'"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path, change, complaint):
    path = write(tmp_path / "c.yaml", ENTRY | {"id": "exp3/fine"}, ENTRY | change)
    with pytest.raises(ClaimError, match=f"claims: exp3/rp-near-zero: (criteria: |){complaint}") as caught:
        claims.read(path)
    assert str(path) in str(caught.value) and "exp3/fine" not in str(caught.value)


@pytest.mark.parametrize("name", ["id", "where", "statement", "quantity", "scale", "criteria"])
def test_a_missing_field_is_named(tmp_path, name):
    entry = {field: value for field, value in ENTRY.items() if field != name}
    called = "number 2" if name == "id" else "exp3/rp-near-zero"
    with pytest.raises(ClaimError, match=f"claims: {called}: {name}: Field required"):
        claims.read(write(tmp_path / "c.yaml", ENTRY | {"id": "exp3/fine"}, entry))


def test_every_criterion_has_a_scale(tmp_path):
    both = ENTRY | {"criteria": {"quick": {"at_most": 1}, "paper": {"at_most": 1}}, "scale": {"quick": "toy"}}
    with pytest.raises(ClaimError, match="rp-near-zero has a criterion and no scale at paper"):
        claims.read(write(tmp_path / "c.yaml", both))
    scales = ({}, {"scale": "exact"}, {"scale": {"quick": "paper"}})
    read = claims.read(write(tmp_path / "c.yaml", *(ENTRY | {"id": f"e/{i}"} | s for i, s in enumerate(scales))))
    assert [claim.scale_at("quick") for claim in read.values()] == ["toy", "exact", "paper"]


def test_everything_wrong_is_named_at_once(tmp_path):
    with pytest.raises(ClaimError, match=r"exp3/a: where: .*; claims: exp3/b: quantity: "):
        claims.read(
            write(tmp_path / "c.yaml", ENTRY | {"id": "exp3/a", "where": 1}, ENTRY | {"id": "exp3/b", "quantity": 1})
        )


def test_a_claim_cannot_be_changed(ledger):
    with pytest.raises(ValueError, match="frozen"):
        ledger.claims["ahn2022/exp3/other"].where = "elsewhere"


def test_a_claim_that_stands_twice_is_named(tmp_path):
    with pytest.raises(ClaimError, match=r"ahn2022/exp3/rp-near-zero stands there twice"):
        claims.read(write(tmp_path / "c.yaml", ENTRY, ENTRY))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "paper: a",
        "claims: []",
        "paper: a\nclaims: [3]",
        "a: [",
        "claims: 3",
        "paper: a\nclaims: []\nb: 1",
    ],
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
    assert "seen on a toy" in output["data"]["text/plain"]
    page = output["data"]["text/html"]
    assert '<details class="eos-claim eos-reproduced" id="ahn2022-exp3-rp-near-zero">' in page
    assert "seen on a toy" in page and "eos-why" not in page


def test_a_row_shows_what_was_measured_in_short(ledger):
    def measured(cases):
        return row(ledger.verdict("exp3/rp-near-zero", cases)).split('eos-measured">')[1].split("<")[0]

    assert measured({"seed 0": 0.05, "seed 1": -0.01}) == "-0.01 to 0.05"
    assert measured({"": 0.05}) == "0.05" and measured({}) == "–"
    assert measured({"seed 0": 0.05, "seed 1": 0.06, "seed 2": NAN}) == "0.05; 0.06; nan"  # none is lost
    assert measured({"a long label": 0.05}) == "0.05"
    assert measured({"f1": True, "f2": False, "f3": True}) == "yes in 2 of 3 cases"


def test_a_row_says_where_it_did_not_hold(ledger):
    cases = {"seed 0": 0.01, "seed 1": 0.2}
    summary = row(ledger.verdict("exp3/rp-near-zero", cases)).split("</summary>")[0]
    assert '<span class="eos-why">seed 1: 0.2</span>' in summary
    noted = row(ledger.verdict("exp3/rp-near-zero", cases, note="because")).split("</summary>")[0]
    assert '<span class="eos-why">because</span>' in noted


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
    entry = ENTRY | texts | {"id": f"e/{HOSTILE}", "amended": {"quick": HOSTILE}, "control": HOSTILE}
    verdict = Ledger("test", "quick", write(tmp_path / "c.yaml", entry)).verdict(
        f"e/{HOSTILE}", {HOSTILE + str(i): 1 for i in range(4)}, note=HOSTILE, control={HOSTILE: 1}
    )
    page = row(verdict)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10 and HOSTILE in verdict["missed"][0]
    assert 'alert("' not in page  # nor does it end an attribute


def test_a_reason_that_several_claims_share_is_a_footnote(ledger):
    shared, own, none = (
        ledger.verdict("exp3/other", {"": 0.0}) | {"amended": text} for text in ("shared", "own", None)
    )
    assert claims.footnotes([own, shared, none, shared]) == ["shared"]
    assert "<dt>Criterion amended</dt><dd>shared</dd>" in row(shared)
    page = row(shared, footnote=1)
    assert "shared" not in page and '<a href="#amended-1">' in page
    assert "Criterion amended" not in row(none)


# --- controls --------------------------------------------------------------------------------------------


@pytest.fixture
def controlled(tmp_path):
    """A verdict of a claim at a preset, whose ledger has this text about a control, measured as this."""

    def verdict(text, measured, cases=None, preset="quick"):
        criterion = ENTRY["criteria"]["quick"]
        entry = ENTRY | {"control": text, "criteria": {"quick": criterion, "standard": criterion}}
        ledger = Ledger("test", preset, write(tmp_path / "c.yaml", entry))
        return ledger.verdict("exp3/rp-near-zero", {"": 0.01} if cases is None else cases, control=measured)

    return verdict


def test_a_control_that_fails_is_shown_and_is_no_failure(controlled):
    verdict = controlled("the stable runs", {"seed 0": np.float64(-0.99), "seed 1": math.inf})
    assert verdict["control"] == {
        "text": "the stable runs", "cases": {"seed 0": -0.99, "seed 1": "inf"},
        "value": "seed 0: -0.99; seed 1: inf", "fails": True,
    }  # fmt: skip
    json.dumps(verdict, allow_nan=False)
    assert claims.control_failures([verdict]) == []
    assert "the stable runs – seed 0: -0.99; seed 1: inf: fails the criterion, as it must" in row(verdict)


@pytest.mark.parametrize("measured", [{"seed 0": -0.99, "seed 1": 0.1}, {"": 0}, {"": NAN}, {"a": NAN, "b": -0.99}])
def test_a_control_that_meets_the_criterion_or_shows_nothing_is_a_failure(controlled, measured):
    """One case is enough; and a nan, which meets no criterion, must not pass for one that fails."""
    verdict = controlled("the stable runs", measured)
    (sentence,) = claims.control_failures([verdict])
    assert sentence == (
        "ahn2022/exp3/rp-near-zero: its control, the stable runs, does not fail the criterion "
        f"({verdict['control']['value']}; criterion: between -0.1 and 0.1)"
    )
    assert "does not fail the criterion here" in row(verdict)


def test_a_control_that_is_named_must_be_measured_where_the_claim_is_judged(controlled):
    verdict = controlled("the stable runs", {})
    assert claims.control_failures([verdict]) == [
        "ahn2022/exp3/rp-near-zero: its control, the stable runs, was not measured"
    ]
    assert "<dd>the stable runs</dd>" in row(verdict)
    assert claims.control_failures([controlled("the stable runs", {}, cases={})]) == []  # not run, so not judged


def test_a_control_must_fail_at_quick_only(controlled):
    for measured in ({"": 0}, {}):
        verdict = controlled("the stable runs", measured, preset="standard")
        assert claims.control_failures([verdict]) == []
    assert "does not fail the criterion here" in row(controlled("the stable runs", {"": 0}, preset="standard"))


def test_without_a_criterion_a_control_is_shown_and_not_judged(tmp_path):
    path = write(tmp_path / "c.yaml", ENTRY | {"control": "the stable runs"})
    verdict = Ledger("test", "paper", path).verdict("exp3/rp-near-zero", {"": 0.01}, control={"": -0.99})
    assert verdict["control"]["fails"] is None and claims.control_failures([verdict]) == []
    assert "<dd>the stable runs – -0.99</dd>" in row(verdict)


def test_a_claim_may_say_why_it_has_no_control(controlled):
    verdict = controlled("none – every function has one", {})
    assert claims.control_failures([verdict]) == []
    assert "<dd>none – every function has one</dd>" in row(verdict)
    assert claims.control_failures([controlled("none", {})]) != []  # it does not say why


@pytest.mark.parametrize("text", [None, "none – every function has one"])
def test_a_control_that_the_ledger_does_not_name_is_an_error(controlled, text):
    assert claims.control_failures([controlled(text, {})]) == []
    with pytest.raises(ClaimError, match="rp-near-zero: a control was measured that the ledger does not name"):
        controlled(text, {"": -0.99})


def test_verdicts_that_were_acknowledged_before_there_were_controls_are_still_read(ledger):
    old = {k: v for k, v in ledger.verdict("exp3/rp-near-zero", {"": 0.01}).items() if k != "control"}
    claims.acknowledge([old], "test", "quick")
    assert claims.control_failures(claims.acknowledged("test")["quick"].values()) == []
    assert claims.changed([ledger.verdict("exp3/rp-near-zero", {"": 0.02})], "test", "quick") == []


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
    claims.acknowledge([bad], "test", "quick")
    assert claims.acknowledged("test")["quick"][good["id"]]["machines"] == {
        here: claims.REPRODUCED,
        there: NOT_REPRODUCED,
    }
    assert claims.changed([bad], "test", "quick") == []
    assert len(claims.changed([good], "test", "quick")) == 1
    monkeypatch.setattr(claims, "_machine", lambda: here)
    assert claims.changed([good], "test", "quick") == []
    assert len(claims.changed([bad], "test", "quick")) == 1


@pytest.fixture
def changed_elsewhere(notebooks, monkeypatch):
    """What has changed if one kind of machine acknowledged the cases `then`, and this or another kind finds `now`."""

    def changed(criterion, then, now, errors=None, known=False):
        write(notebooks / "claims" / "test.yaml", ENTRY | {"criteria": {"quick": criterion}, "amended": {"quick": "…"}})
        before, after = (
            Ledger("test", "quick").verdict("exp3/rp-near-zero", {str(i): x for i, x in enumerate(cases)}, errors=e)
            for cases, e in ((then, None), (now, errors))
        )
        assert before["verdict"] != after["verdict"]
        claims.acknowledge([before], "test", "quick")
        here = claims._machine()
        with monkeypatch.context() as patch:
            patch.setattr(claims, "_machine", lambda: here if known else "another processor")
            return claims.changed([json.loads(json.dumps(after))], "test", "quick")

    return changed


@pytest.mark.parametrize(
    ("criterion", "then", "near", "clear"),
    [
        ({"at_most": 1}, [0.5], [1.02], [1.5]),
        ({"at_most": 1}, [1.5], [0.98], [0.5]),
        ({"at_most": 1}, [0.5, 0.5], [0.5, 1.02], [1.5, 1.02]),  # partly; the clear one cannot become good
        ({"at_most": 1}, [0.5, 1.5], [1.02, 1.5], [1.5, 1.5]),
        ({"within": [1, 2]}, [1.5], [2.05], [math.inf]),
        ({"equals": [1, 0.1]}, [1], [1.104], [1.12]),
        ({"increasing": True}, [[1, 2, 3]], [[1, 2, 1.95]], [[1, 2, 1.5]]),
    ],
)
def test_on_an_unknown_kind_of_machine_a_verdict_may_differ_near_its_bound_only(
    changed_elsewhere, criterion, then, near, clear
):
    assert changed_elsewhere(criterion, then, near) == []
    (sentence,) = changed_elsewhere(criterion, then, clear)
    assert "on other kinds of machine and is now" in sentence
    assert len(changed_elsewhere(criterion, then, near, known=True)) == 1  # there, nothing may differ


def test_a_yes_or_no_may_differ_on_no_kind_of_machine(changed_elsewhere):
    for then, now in ([True], [False]), ([False], [True]), ([1], [0]):
        assert len(changed_elsewhere({"holds": True}, then, now)) == 1
    assert len(changed_elsewhere({"at_most": 0.98}, [False], [True])) == 1  # the number 1.0 would be near
    assert changed_elsewhere({"at_most": 0.98}, [0.0], [1.0]) == []


def test_on_an_unknown_kind_of_machine_a_standard_error_says_what_is_near(changed_elsewhere):
    assert changed_elsewhere({"at_most": 1}, [0.5], [1.5], {0: 0.3}) == []
    assert len(changed_elsewhere({"at_most": 1}, [0.5], [1.5], {0: 0.2})) == 1
    assert len(changed_elsewhere({"at_most": 1}, [0.5], [1.02], {0: 0.001})) == 1


def test_on_an_unknown_kind_of_machine_any_known_verdict_will_do(ledger, monkeypatch):
    good, partly, bad = (ledger.verdict("exp3/rp-near-zero", {"a": a, "b": b}) for a, b in ((0, 0), (0, 1), (1, 1)))
    for machine, verdict in (("one", good), ("two", bad)):
        monkeypatch.setattr(claims, "_machine", lambda machine=machine: machine)
        claims.acknowledge([verdict], "test", "quick")
    monkeypatch.setattr(claims, "_machine", lambda: "three")
    assert claims.changed([good], "test", "quick") == claims.changed([bad], "test", "quick") == []
    (sentence,) = claims.changed([partly], "test", "quick")
    assert "was 'not reproduced' or 'reproduced' on other kinds of machine and is now 'partly'" in sentence


def test_what_was_run_elsewhere_and_not_here_is_a_change(ledger, monkeypatch):
    claims.acknowledge([ledger.verdict("exp3/other", {"": 0.1})], "test", "quick")
    monkeypatch.setattr(claims, "_machine", lambda: "another processor")
    assert len(claims.changed([ledger.verdict("exp3/other", {})], "test", "quick")) == 1


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
    assert amended["amended"] in row(amended)
