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
the edge of stability amplify rounding errors, so a verdict near its bound may differ between kinds of machines: it is
acknowledged for each.
"""

import dataclasses
import html
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eoslib import store

MIME = "application/vnd.eoslib.claim+json"
REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_RUN = "reproduced", "partly", "not reproduced", "not run at this preset"
PRESETS = ("quick", "standard", "paper")
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_RUN)

Number = float | int | bool
Case = Number | Sequence[Number]

# Criterion → (the arguments in words, whether a measured case meets it). A case is a number, for `increasing` and
# `decreasing` a list of them in order.
CRITERIA = {
    "within": (lambda a: f"between {_text(a[0])} and {_text(a[1])}", lambda x, a: a[0] <= x <= a[1]),
    "at_most": (lambda a: f"at most {_text(a)}", lambda x, a: x <= a),
    "at_least": (lambda a: f"at least {_text(a)}", lambda x, a: x >= a),
    "equals": (
        lambda a: f"{_text(a[0])}, to within {_text(a[1])}",
        lambda x, a: abs(x - a[0]) <= a[1],
    ),
    "increasing": (lambda a: "increasing" if a else "not increasing", lambda x, a: _increasing(x) == a),
    "decreasing": (lambda a: "decreasing" if a else "not decreasing", lambda x, a: _increasing(x[::-1]) == a),
    "holds": (lambda a: "true" if a else "false", lambda x, a: bool(x) == a),
}


class ClaimError(ValueError):
    """The ledger is malformed, or a chapter measures what the ledger does not know."""


@dataclass(frozen=True)
class Claim:
    """One claim of the ledger; `criteria` maps a preset to one criterion, e.g. {"at_most": 0.1}.

    amended: preset → why its criterion was changed after a run was recorded. ours: a claim beyond the paper.
    """

    id: str
    where: str
    statement: str
    quantity: str
    criteria: Mapping[str, Mapping[str, Any]]
    paper_value: str | None = None
    amended: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ours: bool = False

    def criterion(self, preset: str) -> str | None:
        """The criterion in words, or None if the claim cannot be judged at this preset."""
        if preset not in self.criteria:
            return None
        ((name, argument),) = self.criteria[preset].items()
        return CRITERIA[name][0](argument)

    def judge(self, preset: str, cases: Sequence[Case]) -> str:
        """The verdict on measured cases: all, some or none of them meet the criterion. A nan meets none."""
        if preset not in self.criteria or not cases:
            return NOT_RUN
        ((name, argument),) = self.criteria[preset].items()
        met = [not _has_nan(case) and bool(CRITERIA[name][1](case, argument)) for case in cases]
        return REPRODUCED if all(met) else PARTLY if any(met) else NOT_REPRODUCED


class Ledger:
    """The claims of one chapter at one preset, and the means to measure them.

    chapter: its name; the file is notebooks/claims/<chapter>.yaml unless `path` says otherwise.
    Raises ClaimError if the file is malformed.
    """

    def __init__(self, chapter: str, preset: str, path: Path | None = None):
        self.chapter, self.preset = chapter, preset
        self.claims = read(path or Path(__file__).parents[2] / "notebooks/claims" / f"{chapter}.yaml")

    def measure(
        self, name: str, cases: Mapping[str, Case], from_runs: Sequence[store.Run] = (), note: str | None = None
    ) -> None:
        """Judge a claim on the measured `cases` (label → value) and show the verdict.

        name: the claim's id without the paper, e.g. "exp3/rp-near-zero". Without cases (nothing was run) the
        verdict is "not run at this preset". from_runs: the runs the cases come from. note: what a reader should
        know about this measurement. Raises ClaimError on an unknown name.
        """
        from IPython.display import display

        verdict = self.verdict(name, cases, from_runs, note)
        display({"text/plain": _plain_text(verdict), "text/html": _html(verdict), MIME: verdict}, raw=True)

    def verdict(
        self, name: str, cases: Mapping[str, Case], from_runs: Sequence[store.Run] = (), note: str | None = None
    ) -> dict:
        """What `measure` shows, as plain values."""
        claim = next((c for c in self.claims.values() if c.id.split("/", 1)[1] == name), None)
        if claim is None:
            raise ClaimError(f"{self.chapter} has no claim {name!r}; there are {', '.join(self.claims)}")
        cases = {str(label): _plain(case) for label, case in cases.items()}
        return {
            "id": claim.id,
            "preset": self.preset,
            "verdict": claim.judge(self.preset, list(cases.values())),
            "value": _summary(cases),
            "cases": (shown := {label: _finite(case) for label, case in cases.items()}),
            "spread": _spread(shown),
            "criterion": claim.criterion(self.preset),
            "statement": claim.statement,
            "quantity": claim.quantity,
            "where": claim.where,
            "paper_value": claim.paper_value,
            "amended": claim.amended.get(self.preset),
            "ours": claim.ours,
            "note": note,
            "runs": [run.key for run in from_runs],
        }


def read(path: Path) -> dict[str, Claim]:
    """The claims of a ledger file by full id (paper/item/name). Raises ClaimError naming what is wrong."""
    try:
        content = yaml.safe_load(path.read_text())
        entries = [dict(entry) for entry in content["claims"]]
        paper = content["paper"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ClaimError(f"{path}: 'paper' and a list of 'claims' are needed ({error})") from error
    known = {f.name for f in dataclasses.fields(Claim)}
    claims: dict[str, Claim] = {}
    for entry in entries:
        claim_id = f"{paper}/{entry.get('id')}"
        if unknown := set(entry) - known:
            raise ClaimError(f"{path}: {claim_id} has unknown field(s) {', '.join(sorted(unknown))}")
        if missing := {"id", "where", "statement", "quantity", "criteria"} - set(entry):
            raise ClaimError(f"{path}: {claim_id} lacks {', '.join(sorted(missing))}")
        if claim_id in claims:
            raise ClaimError(f"{path}: {claim_id} stands there twice")
        claims[claim_id] = claim = Claim(**entry | {"id": claim_id})
        if not isinstance(claim.criteria, dict) or not set(claim.criteria) <= set(PRESETS):
            valid = ", ".join(PRESETS)
            raise ClaimError(f"{path}: {claim_id}: criteria need presets ({valid}), given {claim.criteria}")
        for preset in claim.criteria:
            try:
                claim.criterion(preset)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise ClaimError(
                    f"{path}: {claim_id} at {preset}: one of {', '.join(CRITERIA)} is needed with its numbers, "
                    f"given {claim.criteria[preset]}"
                ) from error
    return claims


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
    """What differs from the verdicts acknowledged on this kind of machine, a sentence each.

    A claim never acknowledged here is no change.
    """
    before, here = acknowledged(chapter).get(preset, {}), _machine()
    known = {id_: entry["machines"][here] for id_, entry in before.items() if here in entry["machines"]}
    return [
        f"{v['id']} at {preset} was {known[v['id']]!r} and is now {v['verdict']!r} "
        f"({v['value']}; criterion: {v['criterion']})"
        for v in verdicts
        if v["verdict"] != known.get(v["id"], v["verdict"])
    ]


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
                raise ClaimError(
                    f"{v['id']}: the {what} at {preset} was {old[what]!r} and is now "
                    f"{v[what]!r}; say why in the ledger, amended: {{{preset}: <reason>}}"
                )
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
    machine = store.machine()
    return machine["processor"] if machine["gpu"] == "none" else machine["gpu"]


def _acknowledged_path(chapter: str) -> Path:
    return store.recorded() / "claims" / f"{chapter}.yaml"


def _increasing(values: Sequence[Number]) -> bool:
    return len(values) > 1 and all(a < b for a, b in itertools.pairwise(values))


def _has_nan(case: Case) -> bool:
    return any(math.isnan(x) for x in (case if isinstance(case, Sequence) else [case]))


def _plain(case: Any) -> Case:
    """As JSON will hold it: scalars of numpy, xarray and torch become numbers, arrays lists."""
    return np.asarray(case).tolist()


def _finite(case: Case) -> Case | str | list:
    """As standard JSON can hold it: what is not finite becomes text, nan or inf."""
    if isinstance(case, list):
        return [_finite(x) for x in case]
    return case if math.isfinite(case) else str(case)


def _text(value: Case | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("nan", "inf", "-inf"):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " → ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _listed(cases: Mapping[str, Case]) -> list[str]:
    return [f"{label}: {_text(case)}" if label else _text(case) for label, case in cases.items()]


def _summary(cases: Mapping[str, Case]) -> str | None:
    """The cases themselves up to three; of more, median and range, or how many hold."""
    values = list(cases.values())
    if len(values) <= 3 or any(isinstance(value, list) or _has_nan(value) for value in values):
        return "; ".join(_listed(cases)) or None
    if all(isinstance(value, bool) for value in values):
        return f"yes in {sum(values)} of {len(values)} cases"
    low, high = min(values), max(values)
    return f"median {_text(statistics.median(values))} ({_text(low)} to {_text(high)} over {len(values)} cases)"


def _spread(cases: Mapping[str, Case]) -> list[float] | None:
    """The smallest and largest case, where there are several finite numbers."""
    numbers = [c for c in cases.values() if isinstance(c, float | int) and not isinstance(c, bool)]
    return [min(numbers), max(numbers)] if len(numbers) > 1 else None


def _plain_text(verdict: dict) -> str:
    return f"{verdict['id']}: {verdict['verdict']} – {verdict['value']} (criterion: {verdict['criterion']})"


def _html(v: dict) -> str:
    """The verdict box; plain enough to be read in Jupyter, styled by the book."""
    slug = v["verdict"].replace(" ", "-")
    rows = [
        ("Measured", f"{html.escape(v['quantity'])}: <strong>{html.escape(v['value'] or '–')}</strong>"),
        ("Criterion", html.escape(v["criterion"] or "not judged at this preset")),
    ]
    if len(v["cases"]) > 3:
        cases = "<br>".join(map(html.escape, _listed(v["cases"])))
        rows.append(("Cases", f"<details><summary>all {len(v['cases'])}</summary>{cases}</details>"))
    if v["paper_value"]:
        rows.append(("Paper", html.escape(v["paper_value"])))
    if v["amended"]:
        rows.append(("Criterion amended", html.escape(v["amended"])))
    if v["note"]:
        rows.append(("Note", html.escape(v["note"])))
    origin = "ours, beyond the paper" if v["ours"] else v["where"]
    items = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)
    return (
        f'<div class="eos-box eos-claim eos-{slug}" id="{html.escape(v["id"].replace("/", "-"))}">'
        f'<p><span class="eos-verdict">{v["verdict"]}</span> {html.escape(v["statement"])} '
        f'<span class="eos-where">({html.escape(origin)}; <code>{html.escape(v["id"])}</code>)</span></p>'
        f"<dl>{items}</dl></div>"
    )
