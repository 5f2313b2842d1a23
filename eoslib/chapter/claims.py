"""The claims ledger: what a paper says, the criterion stated before a number was seen, and the verdict.

`notebooks/claims/<chapter>.yaml` holds the claims:

    paper: ahn2022
    claims:
      - id: exp3/rp-near-zero
        where: Experiment 3
        statement: In the unstable regime the relative progress saturates around 0.
        quantity: mean RP over the second half of the run, for each step size
        paper_value: "≈ 0"
        criteria:                      # one for each preset at which the claim can be judged
          quick: {within: [-0.1, 0.1]}
          paper: {within: [-0.1, 0.1]}

A chapter measures a quantity, for each case (a step size, a seed, …), and `Ledger.measure` judges it.
`recorded/claims/<chapter>.yaml` keeps the verdicts last acknowledged, so that a build notices a change. Trajectories at
the edge of stability amplify rounding errors, so a verdict near its bound may differ between kinds of machines, and is
acknowledged for each.
"""

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from typing_extensions import TypedDict  # pydantic takes the standard library's only from Python 3.12 on

from eoslib import store
from eoslib.chapter import criteria, presets
from eoslib.chapter.criteria import Case, Criterion, as_json, from_json, has_nan, plain, text
from eoslib.chapter.templates import render

MIME = "application/vnd.eoslib.claim+json"
REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_RUN = "reproduced", "partly", "not reproduced", "not run at this preset"
PRESETS = ("quick", "standard", "paper")
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_RUN)


class ClaimError(ValueError):
    """The ledger is malformed, or a chapter measures what the ledger does not know."""


class Claim(pydantic.BaseModel, frozen=True, extra="forbid", **presets.STRICT):
    """One claim of the ledger; `criteria` maps a preset to one criterion, e.g. {"at_most": 0.1}. amended: preset → why
    its criterion was changed after a run was recorded. ours: a claim beyond the paper."""

    id: str
    where: str
    statement: str
    quantity: str
    criteria: dict[Literal[PRESETS], Criterion]
    paper_value: str | None = None
    amended: dict[Literal[PRESETS], str] = {}
    ours: bool = False

    def criterion(self, preset: str) -> str | None:
        """The criterion in words, or None if the claim cannot be judged at this preset."""
        return criteria.words(self.criteria[preset]) if preset in self.criteria else None

    def judge(self, preset: str, cases: Sequence[Case]) -> str:
        """The verdict on measured cases: all, some or none of them meet the criterion. A nan meets none."""
        return _verdict([criteria.met(self.criteria[preset], case) for case in cases if preset in self.criteria])

    def possible(self, preset: str, cases: Mapping[str, Case], errors: Mapping[str, float]) -> set[str]:
        """The verdicts that another kind of machine may reach: a case near its bound may fall on either side. cases,
        errors: label → value and, for those that have one, standard error."""
        met = {frozenset()}  # the sets of outcomes there may be among the cases so far
        for label, case in cases.items() if preset in self.criteria else ():
            outcomes = criteria.outcomes(self.criteria[preset], case, errors.get(label))
            met = {before | {outcome} for before in met for outcome in outcomes}
        return {_verdict(outcomes) for outcomes in met}


def _verdict(met: Collection[bool]) -> str:
    return NOT_RUN if not met else REPRODUCED if all(met) else PARTLY if any(met) else NOT_REPRODUCED


class Ledger:
    """The claims of one chapter at one preset, and the means to measure them. path: of their file, if not
    `ledger_path`. Raises ClaimError if the file is malformed."""

    def __init__(self, chapter: str, preset: str, path: Path | None = None):
        self.chapter, self.preset = chapter, preset
        self.claims = read(path or ledger_path(chapter))

    def measure(
        self, name: str, cases: Mapping[str, Case], from_runs: Sequence[store.Run] = (), note: str | None = None,
        errors: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Judge a claim on the measured `cases` (label → value) and show the verdict.

        name: the claim's id without the paper, e.g. "exp3/rp-near-zero". Without cases (nothing was run) the
        verdict is "not run at this preset". from_runs: the runs the cases come from. note: what a reader should
        know about this measurement. errors: label → standard error. Raises ClaimError on an unknown name or label.
        """
        from IPython.display import display

        v = self.verdict(name, cases, from_runs, note, errors)
        words = f"{v['id']}: {v['verdict']} – {v['value']} (criterion: {v['criterion']})"
        box = render("claim.html", v=v, cases=_listed(v["cases"], v["standard_error"]))
        display({"text/plain": words, "text/html": box, MIME: v}, raw=True)

    def verdict(self, name: str, cases: Mapping[str, Case], from_runs=(), note=None, errors=None) -> dict:
        """What `measure` shows, as plain values."""
        claim = next((c for c in self.claims.values() if c.id.split("/", 1)[1] == name), None)
        if claim is None:
            raise ClaimError(f"{self.chapter} has no claim {name!r}; there are {', '.join(self.claims)}")
        cases = {str(label): plain(case) for label, case in cases.items()}
        errors = {str(label): plain(error) for label, error in (errors or {}).items()}
        if unknown := set(errors) - set(cases):
            raise ClaimError(f"{claim.id}: a standard error of no case: {', '.join(sorted(unknown))}")
        shown = {label: as_json(case) for label, case in cases.items()}
        numbers = [x for x in shown.values() if isinstance(x, float | int) and not isinstance(x, bool)]  # all finite
        return claim.model_dump(exclude={"criteria"}) | {
            "preset": self.preset,
            "verdict": claim.judge(self.preset, list(cases.values())),
            "value": _summary(cases, errors),
            "cases": shown,
            "standard_error": {label: as_json(error) for label, error in errors.items()},
            "spread": [min(numbers), max(numbers)] if len(numbers) > 1 else None,
            "criterion": claim.criterion(self.preset),
            "amended": claim.amended.get(self.preset),
            "note": note,
            "runs": [run.key for run in from_runs],
        }


def ledger_path(chapter: str) -> Path:
    """The file that states the claims of a chapter."""
    return presets.NOTEBOOKS / "claims" / f"{chapter}.yaml"


class _FORMAT(TypedDict):
    paper: str
    claims: list[Claim]


_FILE = pydantic.TypeAdapter(pydantic.with_config(presets.STRICT | {"extra": "forbid"})(_FORMAT))


def read(path: Path) -> dict[str, Claim]:
    """The claims of a ledger file by full id (paper/item/name). Raises ClaimError naming what is wrong."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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


def acknowledged(chapter: str) -> dict[str, dict[str, dict]]:
    """Preset → claim id → the entry last acknowledged, from recorded/claims/."""
    path = _acknowledged_path(chapter)
    return yaml.safe_load(path.read_text()) if path.exists() else {}


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
    machine = store.machine(store.default_device())
    return machine["processor"] if machine["gpu"] == "none" else machine["gpu"]


def _acknowledged_path(chapter: str) -> Path:
    return store.recorded() / "claims" / f"{chapter}.yaml"


def _listed(cases: Mapping[str, Case | str], errors: Mapping[str, float | str]) -> list[str]:
    texts = {c: text(case) + (f" ± {text(errors[c])}" if c in errors else "") for c, case in cases.items()}
    return [f"{label}: {shown}" if label else shown for label, shown in texts.items()]


def _summary(cases: Mapping[str, Case], errors: Mapping[str, float]) -> str | None:
    """The cases themselves up to three; of more, median and range, or how many hold."""
    values = list(cases.values())
    if len(values) <= 3 or any(isinstance(value, list) or has_nan(value) for value in values):
        return "; ".join(_listed(cases, errors)) or None
    if all(isinstance(value, bool) for value in values):
        return f"yes in {sum(values)} of {len(values)} cases"
    low, high = min(values), max(values)
    return f"median {text(statistics.median(values))} ({text(low)} to {text(high)} over {len(values)} cases)"
