"""The claims ledger: what a paper says, the criterion stated before a number was seen, and the verdict.

`notebooks/claims/<chapter>.yaml` holds the claims (`book/claims/<page>.yaml` those of a page that is no chapter):

    paper: ahn2022
    claims:
      - id: exp3/rp-near-zero
        scale: {quick: toy, standard: paper, paper: paper}
        where: Experiment 3
        statement: In the unstable regime the relative progress saturates around 0.
        quantity: mean RP over the second half of the run, for each step size
        paper_value: "≈ 0"
        control: the stable runs of experiment 2, over the second half of the iterations
        criteria:                      # one for each preset at which the claim can be judged
          quick: {within: [-0.1, 0.1]}
          paper: {within: [-0.1, 0.1]}

The scale says what a verdict stands for: `exact` is a theorem, an identity or an analytic function, checked as stated;
`paper` the paper's own data, model and size; `reduced` the same kind, smaller; `toy` something else that shows the same
phenomenon. The page words a verdict by its scale.

A verdict is `undecided` while the bound lies within two standard errors of what was measured, or fewer cases were run
than the claim wants (`samples: 3`, seeds above all).

The control is a case for which the statement is false; it differs from the claim's own cases in what the statement
names and in nothing else. At `quick` it is measured by the same code and must fail the criterion, else the build fails:
a claim that nothing can fail is none. Where there is no such case the claim says why, `control: none – <why>`.

A chapter measures a quantity, for each case (a step size, a seed, …), and `Ledger.measure` judges it.
`recorded/claims/<chapter>.yaml` keeps the verdicts last acknowledged, so that a build notices a change. Trajectories at
the edge of stability amplify rounding errors, so a verdict near its bound may differ between kinds of machines, and is
acknowledged for each.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import yaml
from typing_extensions import TypedDict  # pydantic takes the standard library's only from Python 3.12 on

from eoslib import store
from eoslib.chapter import criteria, presets
from eoslib.chapter.criteria import Case, Criterion, as_json, from_json, has_nan, plain, text
from eoslib.chapter.templates import render

MIME = "application/vnd.eoslib.claim+json"
REPRODUCED, PARTLY, NOT_REPRODUCED = "reproduced", "partly", "not reproduced"
UNDECIDED, NOT_JUDGED, NOT_RUN = "undecided", "not judged", "not run"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, UNDECIDED, NOT_JUDGED, NOT_RUN)
PRESETS = ("quick", "standard", "paper")
SCALES = {"exact": "", "paper": "", "reduced": "at reduced scale", "toy": "on a toy"}  # what a verdict's words add
BOARD = "../book/claims.html"  # from a chapter's page
MARKS = {REPRODUCED: "●", PARTLY: "◐", NOT_REPRODUCED: "○", UNDECIDED: "?", NOT_JUDGED: "·", NOT_RUN: "–"}
CONTROLLED = "quick"  # the preset at which a control must be measured, and fail
UNCONTROLLED = "none – "  # how a control begins where there is none


class ClaimError(ValueError):
    """The ledger is malformed, or a chapter measures what the ledger does not know."""


Scale = Literal[tuple(SCALES)] | dict[Literal[PRESETS], Literal[tuple(SCALES)]]


class Claim(pydantic.BaseModel, frozen=True, extra="forbid", **presets.STRICT):
    """One claim of the ledger; `criteria` maps a preset to one criterion, e.g. {"at_most": 0.1}. scale: one for all
    presets, or preset → scale. samples: so many cases the criterion asks for. control: what must fail the criterion, or
    "none – <why>". amended: preset → why its criterion was changed after a run was recorded. ours: a claim beyond the
    paper."""

    id: str
    where: str
    statement: str
    quantity: str
    criteria: dict[Literal[PRESETS], Criterion]
    scale: Scale
    samples: pydantic.PositiveInt = 1
    paper_value: str | None = None
    control: str | None = None
    amended: dict[Literal[PRESETS], str] = {}
    ours: bool = False

    def criterion(self, preset: str) -> str | None:
        """The criterion in words, or None if the claim cannot be judged at this preset."""
        if preset not in self.criteria:
            return None
        return criteria.words(self.criteria[preset]) + (f", in {self.samples} cases" if self.samples > 1 else "")

    def scale_at(self, preset: str) -> str | None:
        """What a verdict at this preset stands for; None if it cannot be judged there."""
        return self.scale.get(preset) if isinstance(self.scale, dict) else self.scale

    def judge(self, preset: str, cases: Mapping[str, Case], errors: Mapping[str, Case] | None = None) -> str:
        """The verdict on measured cases (label → value): all, some or none of them meet the criterion. A nan meets
        none. errors: label → standard error; it is undecided while a bound lies within two of them and the verdict
        hangs on it, and while there are too few cases."""
        if not cases or preset not in self.criteria:
            return NOT_JUDGED if cases else NOT_RUN
        if len(cases) < self.samples:
            return UNDECIDED
        criterion, errors = self.criteria[preset], errors or {}
        verdicts = _verdicts(
            criteria.outcomes(criterion, case, errors[label]) if label in errors else {criteria.met(criterion, case)}
            for label, case in cases.items()
        )
        return verdicts.pop() if len(verdicts) == 1 else UNDECIDED

    def controlled(self, preset: str, cases: Mapping[str, Case]) -> dict | None:
        """What a verdict says of the control, measured as `cases`. It `fails` the criterion, as it must, if all of them
        miss it; None where that cannot be said. A nan meets no criterion, but as a control it shows nothing."""
        if self.control is None:
            return None
        criterion, fails = self.criteria.get(preset), None
        if cases and criterion:
            fails = not any(has_nan(case) or criteria.met(criterion, case) for case in cases.values())
        shown = {label: as_json(case) for label, case in cases.items()}
        return {"text": self.control, "cases": shown, "value": _summary(cases, {}), "fails": fails}

    def possible(self, preset: str, cases: Mapping[str, Case], errors: Mapping[str, Case]) -> set[str]:
        """The verdicts that another kind of machine may reach: a case near its bound may fall on either side."""
        here = {self.judge(preset, cases, errors)}
        if len(cases) < self.samples or preset not in self.criteria:
            return here
        outcomes = (criteria.outcomes(self.criteria[preset], x, errors.get(label)) for label, x in cases.items())
        return here | _verdicts(outcomes)


def _verdicts(outcomes: Iterable[set[bool]]) -> set[str]:
    """The verdicts there may be if each case may meet its criterion, or miss it, or either."""
    met = {frozenset()}  # the sets of outcomes there may be among the cases so far
    for of_one in outcomes:
        met = {before | {outcome} for before in met for outcome in of_one}
    return {REPRODUCED if all(one) else PARTLY if any(one) else NOT_REPRODUCED for one in met}


def words(verdict: str, scale: str | None) -> str:
    """A verdict as a page words it: nothing that was seen on a toy is called reproduced."""
    if verdict not in (REPRODUCED, PARTLY, NOT_REPRODUCED):
        return verdict
    verb = "seen" if SCALES.get(scale) else "reproduced"
    return " ".join(filter(None, [verdict.replace(REPRODUCED, verb), verb * (verdict == PARTLY), SCALES.get(scale)]))


class Ledger:
    """The claims of one chapter at one preset, and the means to measure them. path: of their file, if not
    `ledger_path`. Raises ClaimError if the file is malformed."""

    def __init__(self, chapter: str, preset: str, path: Path | None = None):
        self.chapter, self.preset = chapter, preset
        self.claims = read(path or ledger_path(chapter))

    def measure(
        self, name: str, cases: Mapping[str, Case], from_runs: Sequence[store.Run] = (), note: str | None = None,
        errors: Mapping[str, Case] | None = None, control: Mapping[str, Case] | None = None,
    ) -> None:  # fmt: skip
        """Judge a claim on the measured `cases` (label → value) and show the verdict.

        name: the claim's id without the paper, e.g. "exp3/rp-near-zero". Without cases nothing was run. from_runs: the
        runs the cases come from. note: what a reader should know about this measurement. errors: label → standard
        error, or those of each value of a list. control: label → value of the cases that must fail. Raises ClaimError
        on an unknown name or label, and on a control that the ledger does not name.
        """
        from IPython.display import display

        v = self.verdict(name, cases, from_runs, note, errors, control)
        line = f"{v['id']}: {words(v['verdict'], v['scale'])} – {v['value']} (criterion: {v['criterion']})"
        display({"text/plain": line, "text/html": row(v), MIME: v}, raw=True)

    def verdict(
        self, name: str, cases: Mapping[str, Case], from_runs=(), note=None, errors=None, control=None
    ) -> dict:  # fmt: skip
        """What `measure` shows, as plain values."""
        claim = next((c for c in self.claims.values() if c.id.split("/", 1)[1] == name), None)
        if claim is None:
            raise ClaimError(f"{self.chapter} has no claim {name!r}; there are {', '.join(self.claims)}")
        cases = {str(label): plain(case) for label, case in cases.items()}
        errors = {str(label): plain(error) for label, error in (errors or {}).items()}
        if unknown := set(errors) - set(cases):
            raise ClaimError(f"{claim.id}: a standard error of no case: {', '.join(sorted(unknown))}")
        if odd := [label for label, error in errors.items() if np.shape(error) != np.shape(cases[label])]:
            raise ClaimError(f"{claim.id}: not one standard error for each value of: {', '.join(odd)}")
        control = {str(label): plain(case) for label, case in (control or {}).items()}
        if control and (claim.control or UNCONTROLLED).startswith(UNCONTROLLED):
            raise ClaimError(f"{claim.id}: a control was measured that the ledger does not name")
        shown = {label: as_json(case) for label, case in cases.items()}
        if self.preset in claim.criteria and 0 < len(cases) < claim.samples:
            note = " ".join(filter(None, [f"{len(cases)} of {claim.samples} samples.", note]))
        numbers = [x for x in shown.values() if isinstance(x, float | int) and not isinstance(x, bool)]  # all finite
        missed = [
            label for label, x in cases.items()
            if self.preset in claim.criteria and not criteria.met(claim.criteria[self.preset], x)
        ]  # fmt: skip
        return claim.model_dump(exclude={"criteria", "samples"}) | {
            "preset": self.preset,
            "scale": claim.scale_at(self.preset),
            "verdict": claim.judge(self.preset, cases, errors),
            "missed": missed,
            "value": _summary(cases, errors),
            "cases": shown,
            "standard_error": {label: as_json(error) for label, error in errors.items()},
            "spread": [min(numbers), max(numbers)] if 1 < len(numbers) == len(cases) else None,
            "criterion": claim.criterion(self.preset),
            "control": claim.controlled(self.preset, control),
            "amended": claim.amended.get(self.preset),
            "note": note,
            "runs": [run.key for run in from_runs],
        }


def ledger_path(chapter: str) -> Path:
    """The file that states the claims of a chapter, or of another page of the book."""
    folder = _of_pages() if chapter in of_pages() else presets.NOTEBOOKS / "claims"
    return folder / f"{chapter}.yaml"


def of_pages() -> list[str]:
    """The pages that are no chapters and have claims of their own."""
    return sorted(path.stem for path in _of_pages().glob("*.yaml"))


def _of_pages() -> Path:
    return presets.NOTEBOOKS.parent / "book" / "claims"


class _FORMAT(TypedDict):
    paper: str
    claims: list[Claim]


_FILE = pydantic.TypeAdapter(pydantic.with_config(presets.STRICT | {"extra": "forbid"})(_FORMAT))


def read(path: Path) -> dict[str, Claim]:
    """The claims of a ledger file by full id (paper/item/name). Raises ClaimError naming what is wrong."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        ledger = _FILE.validate_python(content)
    except yaml.YAMLError as error:
        raise ClaimError(f"{path}: {error}") from error
    except pydantic.ValidationError as error:
        raise ClaimError(f"{path}: {'; '.join(_complaints(error, content))}") from error
    claims: dict[str, Claim] = {}
    for claim in ledger["claims"]:
        full_id = f"{ledger['paper']}/{claim.id}"
        if full_id in claims:
            raise ClaimError(f"{path}: {full_id} stands there twice")
        claims[full_id] = claim.model_copy(update={"id": full_id})
        if unscaled := [preset for preset in claim.criteria if not claim.scale_at(preset)]:
            raise ClaimError(f"{path}: {full_id} has a criterion and no scale at {', '.join(unscaled)}")
    return claims


def _complaints(error: pydantic.ValidationError, content: Any) -> list[str]:
    """What is wrong and where; of a claim in the list, its id says which."""
    complaints = []
    for found in error.errors():
        place = list(found["loc"])
        if place[0:1] == ["claims"] and len(place) > 2:
            place[1] = content["claims"][place[1]].get("id", f"number {place[1] + 1}")
        if found["type"] == "extra_forbidden" and "criteria" in place:
            found["msg"] += f" (valid: {', '.join(criteria.KINDS)})"
        complaints.append(": ".join([*map(str, place), found["msg"]]))
    return complaints


def in_notebook(notebook) -> list[dict]:
    """The verdicts that an executed notebook (nbformat) carries, in its order."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    verdicts = [output["data"][MIME] for output in outputs if MIME in output.get("data", {})]
    return json.loads(json.dumps(verdicts))  # plain dicts, not nbformat's


def control_failures(verdicts: Sequence[dict]) -> list[str]:
    """The controls that were to be measured, and to fail, and did not: a sentence each."""
    failures = []
    for v in verdicts:
        control = v.get("control")
        judged = v["preset"] == CONTROLLED and v["verdict"] not in (NOT_RUN, NOT_JUDGED)
        if not control or not judged or control["text"].startswith(UNCONTROLLED) or control["fails"]:
            continue
        what = "does not fail the criterion" if control["cases"] else "was not measured"
        seen = f" ({control['value']}; criterion: {v['criterion']})" if control["cases"] else ""
        failures.append(f"{v['id']}: its control, {control['text']}, {what}{seen}")
    return failures


def acknowledged(chapter: str) -> dict[str, dict[str, dict]]:
    """Preset → claim id → the entry last acknowledged, from recorded/claims/."""
    path = _acknowledged_path(chapter)
    return yaml.load(path.read_text(), yaml.CSafeLoader) if path.exists() else {}


def acknowledged_here(chapter: str, preset: str) -> dict[str, str]:
    """Claim id → the verdict acknowledged on this kind of machine, else on the one that acknowledged it last."""
    entries, here = acknowledged(chapter).get(preset, {}), _machine()
    return {id_: entry["machines"].get(here, entry["verdict"]) for id_, entry in entries.items()}


def changed(verdicts: Sequence[dict], chapter: str, preset: str) -> list[str]:
    """What differs from the acknowledged verdicts, a sentence each.

    On a kind of machine that has acknowledged a claim, any other verdict is a change. On another, the verdict must be
    that of a known kind, or so near its bound that it may be (`Claim.possible`). One never acknowledged is no change.
    """
    before, here, changes = acknowledged(chapter).get(preset, {}), _machine(), []
    stated = read(ledger_path(chapter)) if before else {}
    for v in verdicts:
        machines = before.get(v["id"], {}).get("machines", {})
        known, possible = {machines[here]} if here in machines else set(machines.values()), {v["verdict"]}
        if here not in machines and v["id"] in stated and not possible & known:
            cases = {label: from_json(case) for label, case in v["cases"].items()}
            possible |= stated[v["id"]].possible(preset, cases, v["standard_error"])
        if known and not possible & known:
            was = " or ".join(map(repr, sorted(known))) + ("" if here in machines else " on other kinds of machine")
            now = f"{v['verdict']!r} ({v['value']}; criterion: {v['criterion']})"
            changes.append(f"{v['id']} at {preset} was {was} and is now {now}")
    return changes


def acknowledge(verdicts: Sequence[dict], chapter: str, preset: str) -> Path:
    """Write the verdicts to recorded/claims/, from where every build shows them.

    An entry's `machines` are the verdicts on all kinds of machines that judged the same runs by the same criterion.
    Raises ClaimError if a criterion or quantity differs from the one acknowledged before and the ledger does not
    say why (`amended: {<preset>: <reason>}`).
    """
    everything = acknowledged(chapter)
    before, here, entries = everything.get(preset, {}), _machine(), {}
    for v in verdicts:
        old = before.get(v["id"], v)
        for what in ("criterion", "quantity"):
            if v[what] != old[what] and not v["amended"]:
                why = f"say why in the ledger, amended: {{{preset}: <reason>}}"
                raise ClaimError(f"{v['id']}: the {what} at {preset} was {old[what]!r} and is now {v[what]!r}; {why}")
        comparable = all(v[what] == old[what] for what in ("criterion", "quantity", "runs"))
        elsewhere = old.get("machines", {}) if comparable else {}
        if v["verdict"] != NOT_RUN:
            entries[v["id"]] = v | {"machines": elsewhere | {here: v["verdict"]}}
    everything[preset] = entries
    path = _acknowledged_path(chapter)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(everything, allow_unicode=True, sort_keys=True, width=110))
    return path


def _machine() -> str:
    """The kind of machine this is."""
    return store.processor(store.machine(store.default_device()))


def _acknowledged_path(chapter: str) -> Path:
    return store.recorded() / "claims" / f"{chapter}.yaml"


def row(v: Mapping[str, Any], footnote: int | None = None) -> str:
    """A verdict in one line of HTML, which opens to all that stands behind it; one that did not hold says where.
    footnote: of the page, which says why the criterion was amended (`footnotes`)."""
    cases, missed = (
        listed({label: v["cases"][label] for label in labels}, v["standard_error"])
        for labels in (v["cases"], v["missed"])
    )
    held = v["verdict"] not in (PARTLY, NOT_REPRODUCED, UNDECIDED)
    return render(
        "claim.html", v=v, words=words(v["verdict"], v["scale"]), mark=MARKS[v["verdict"]], cases=cases,
        measured=_in_short(v),
        why="" if held else v["note"] or "; ".join(missed), board=BOARD, footnote=footnote,
    )  # fmt: skip


def footnotes(verdicts: Sequence[Mapping]) -> list[str]:
    """Why criteria were amended, where several of the verdicts share the reason: a page gives it once."""
    reasons = Counter(v["amended"] for v in verdicts if v["amended"])
    return [reason for reason, count in reasons.items() if count > 1]


def listed(cases: Mapping[str, Case | str], errors: Mapping[str, Case | str]) -> list[str]:
    """Cases (label → value) as texts, with their standard errors (label → error) where there are any."""
    return [(f"{label}: " if label else "") + _with_error(case, errors.get(label)) for label, case in cases.items()]


def _with_error(case: Case | str, error: Case | str | None) -> str:
    if isinstance(error, list):
        return " → ".join(map(_with_error, case, error))
    return text(case) if error is None else f"{text(case)} ± {text(error)}"


def _in_short(v: Mapping[str, Any]) -> str:
    """What was measured, for a line that has no room for the labels of the cases."""
    cases = v["cases"]
    if v["spread"]:
        return " to ".join(map(text, v["spread"]))
    if len(cases) > 1 and all(isinstance(case, bool) for case in cases.values()):
        return f"yes in {sum(cases.values())} of {len(cases)} cases"
    return "; ".join(_with_error(case, v["standard_error"].get(label)) for label, case in cases.items()) or "–"


def _summary(cases: Mapping[str, Case], errors: Mapping[str, Case]) -> str | None:
    """The cases themselves up to three; of more, median and range, or how many hold."""
    values = list(cases.values())
    if len(values) <= 3 or any(isinstance(value, list) or has_nan(value) for value in values):
        return "; ".join(listed(cases, errors)) or None
    if all(isinstance(value, bool) for value in values):
        return f"yes in {sum(values)} of {len(values)} cases"
    low, high = min(values), max(values)
    return f"median {text(statistics.median(values))} ({text(low)} to {text(high)} over {len(values)} cases)"
