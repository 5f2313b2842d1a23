"""`python -m eoslib`: exit status, messages and JSON, on a miniature chapter."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch
import yaml

from eoslib import __main__, store
from eoslib.chapter import claims, compare, experiments, presets
from eoslib.problems import datasets
from eoslib.store import files

ROOT = Path(__file__).parent.parent

CHAPTER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

# %% tags=["parameters"]
preset: Literal["quick", "standard", "paper"] = "quick"
step_sizes: list[PositiveFloat] = [2 / 41, 2 / 39]
steps: PositiveInt = 30
seeds: list[NonNegativeInt] = [0, 1]

# %% tags=["experiments"]
from eoslib.chapter.experiments import Data, Descent, Network, OnLandscape, Training
from eoslib.measure.curvature import Sharpness

quadratic = OnLandscape(landscape="quadratic", start=(1.0, 1.0))
training = Training(
    data=Data(dataset="digits", n=20), network=Network(architecture="mlp", sizes={"hidden": [4]}, activation="tanh"),
    loss="mse-sum",
)
experiments = {
    "hill": [
        Descent(chapter="mini", experiment="hill", problem=quadratic, step_size=eta, steps=steps)
        for eta in step_sizes
    ],
    "net": [
        Descent(
            chapter="mini", experiment="net", problem=training, step_size=0.1, steps=steps, seed=seed,
            measurements=(Sharpness(every=10),),
        )
        for seed in seeds
    ],
}

# %%
from pathlib import Path

from eoslib.chapter.claims import Ledger
from eoslib.chapter.experiments import collect

ledger = Ledger("mini", preset, Path("notebooks/claims/mini.yaml"))
hill = collect(experiments["hill"])
ledger.measure("ex1/descends", {f"η = {r.step_size:.3f}": r.trace["loss"][-1] < 1 for r in hill}, hill)
ledger.measure("ex1/lost", {"": float("nan")})
"""

CLAIMS = {
    "paper": "ahn2022",
    "claims": [
        {
            "id": f"ex1/{name}", "where": "Example 1", "statement": "…", "quantity": "f", "scale": "exact",
            "criteria": {"quick": {"holds": True}},
        }
        for name in ("descends", "lost")
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def chapter(tmp_path, monkeypatch):
    """A project with one chapter, in which the command line then works."""
    notebooks = tmp_path / "notebooks"
    for folder in ("claims", "presets"):
        (notebooks / folder).mkdir(parents=True)
    (notebooks / "mini.py").write_text(CHAPTER)
    (notebooks / "claims" / "mini.yaml").write_text(yaml.safe_dump(CLAIMS))
    (notebooks / "presets" / "mini.yaml").write_text("quick: {}\npaper: {steps: 60}\n")
    monkeypatch.setattr(presets, "NOTEBOOKS", notebooks)
    monkeypatch.chdir(tmp_path)
    return notebooks / "mini.py"


@pytest.fixture
def eoslib(monkeypatch, capsys):
    """Call the command line; returns exit status, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["eoslib", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            __main__.main()
        return exit_.value.code or 0, *capsys.readouterr()

    return call


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# --- usage -----------------------------------------------------------------------------------------------

COMMANDS = [c.name or c.callback.__name__ for c in __main__.app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(eoslib, command):
    status, out, _ = eoslib(command, "--help")
    assert status == 0
    assert f"Example: python -m eoslib {command}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compute"], "chapter"),
        (["computer"], "computer"),
        (["compute", "mini", "--budge", "3"], "--budge"),
        (["compute", "mini", "--budget", "soon"], "--budget"),
        (["compute", "mini", "--budget", "-1"], "--budget"),
        (["compute", "minni"], "unknown chapter 'minni', did you mean 'mini'"),
        (["compute", "mini", "--preset", "papre"], "unknown preset 'papre'"),
        (["compute", "mini", "--only", "nets"], "no experiment 'nets'; there are hill, net"),
        (["compute", "mini", "-p", "setps=3"], "unknown parameter 'setps', did you mean 'steps'"),
        (["compute", "mini", "-p", "steps=0.5"], "parameter 'steps': expected PositiveInt"),
        (["compute", "mini", "-p", "step_sizes=[0]"], "parameter 'step_sizes'"),
        (["compute", "mini", "-p", "steps"], "expected name=value"),
        (["sweep", "mini"], "--out"),
        (["sweep", "mini", "-o", "out", "-g", "setps=3,4"], "unknown parameter 'setps', did you mean 'steps'"),
        (["sweep", "mini", "-o", "out", "-g", "steps"], "expected name=a,b,c"),
        (["sweep", "mini", "-o", "out", "--shard", "3/2"], "expected i/n"),
        (["sweep", "mini", "-o", "out", "--only", "nets"], "no experiment 'nets'; there are hill, net"),
        (["run", "mini", "-p", "setps=3"], "unknown parameter 'setps'"),
        (["run", "mini", "--preset", "papre"], "unknown preset 'papre'"),
        (["claims", "minni"], "unknown chapter"),
        (["audit", "--steps", "0"], "--steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_status_2_and_says_what_was_wrong_before_anything_runs(eoslib, arguments, complaint):
    status, _, err = eoslib(*arguments)
    assert status == 2
    assert complaint in " ".join(err.replace("│", "").split())
    assert "Traceback" not in err
    assert not store.home().exists()


def test_the_help_of_run_lists_the_parameters_of_a_chapter(eoslib, chapter):
    chapter.write_text(CHAPTER.replace("steps: PositiveInt = 30", "# how long\nsteps: PositiveInt = 30  # no more"))
    status, out, _ = eoslib("run", "mini", "--help")
    assert status == 0 and "Usage" in out
    assert out.endswith(
        "  step_sizes: list of number > 0 = [2 / 41, 2 / 39]\n"
        "# how long; no more\n  steps: integer > 0 = 30\n# how long\n  seeds: list of integer ≥ 0 = [0, 1]\n\n"
    )
    assert "  steps: integer > 0 = 60\n" in eoslib("run", "--help", "--preset", "paper", "mini")[1]
    assert eoslib("run", "minim", "--help")[0] == 2


def test_it_works_as_a_module_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "eoslib", "runs", "--json"], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


def test_importing_the_library_imports_nothing_that_a_bare_gpu_box_lacks():
    heavy = ["papermill", "sphinx", "dask", "pydantic", "IPython", "matplotlib", "nbformat", "typer", "sklearn"]
    code = f"import sys, eoslib; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.strip() == "[]", done.stderr


# --- compute ---------------------------------------------------------------------------------------------


def test_the_plan_shows_each_run_with_status_cost_and_device_and_starts_nothing(eoslib):
    status, out, _ = eoslib("compute", "mini", "--list", "--json", "-p", "step_sizes=[2/41, 2/60]")
    rows = json.loads(out)
    assert status == 0
    assert [row["experiment"] for row in rows] == ["hill", "hill", "net", "net"]
    assert [row["step_size"] for row in rows] == ["0.04878", "0.033333", "0.1", "0.1"]
    assert {row["status"] for row in rows} == {"not started"}
    assert {row["device"] for row in rows} == {"cpu"}
    assert all(row["at_most_minutes"] >= 0 and row["memory_mb"] >= 0 for row in rows)
    assert not store.home().exists()
    status, out, _ = eoslib("compute", "mini", "--list")
    assert status == 0 and out.split()[:3] == ["experiment", "key", "step_size"]


def test_compute_stops_at_the_budget_resumes_and_records(eoslib, tmp_path):
    status, out, err = eoslib("compute", "mini", "--budget", "0")
    assert status == 1
    assert "0 of 4 run(s) of mini at quick are finished" in out
    assert "the same command resumes" in err
    assert {row["status"] for row in json.loads(eoslib("runs", "--json")[1])} == {"unfinished"}
    status, out, _ = eoslib("compute", "mini", "--budget", "10", "--record")
    assert status == 0
    assert "4 of 4 run(s) of mini at quick are finished" in out
    assert len(list((tmp_path / "recorded" / "mini").glob("*.nc"))) == 4
    assert {row["status"] for row in json.loads(eoslib("compute", "mini", "--list", "--json")[1])} == {"finished"}
    assert eoslib("compute", "mini", "--preset", "paper", "--list", "--json")[1].count("not started") == 4


def test_compute_only_one_experiment_and_fresh(eoslib, monkeypatch):
    assert eoslib("compute", "mini", "--only", "hill")[0] == 0
    assert {row["experiment"] for row in store.listing()} == {"mini.hill"}
    computed = []
    carry_on = store.carry_on
    monkeypatch.setattr(store, "carry_on", lambda *a, **k: (computed.append(a), carry_on(*a, **k))[1])
    assert eoslib("compute", "mini", "--only", "hill")[0] == 0
    assert computed == []
    assert eoslib("compute", "mini", "--only", "hill", "--fresh")[0] == 0
    assert len(computed) == 2


def test_fresh_without_budget_left_forgets_nothing(eoslib):
    assert eoslib("compute", "mini", "--only", "hill")[0] == 0
    status, _, err = eoslib("compute", "mini", "--only", "hill", "--fresh", "--budget", "0")
    assert status == 1 and "without --fresh resumes" in err
    assert {row["status"] for row in store.listing()} == {"finished"}


def test_a_run_declared_twice_is_computed_once(eoslib):
    out = eoslib("compute", "mini", "--only", "hill", "--list", "--json", "-p", "step_sizes=[2/41, 2/41]")[1]
    assert len(json.loads(out)) == 1


def test_a_run_of_two_chapters_is_computed_once(eoslib, chapter):
    """Chapter and experiment are labels."""
    chapter.with_name("other.py").write_text(CHAPTER.replace('"mini"', '"other"'))
    (chapter.parent / "presets" / "other.yaml").write_text("quick: {}\n")
    assert eoslib("compute", "mini")[0] == 0
    listed = json.loads(eoslib("compute", "other", "--list", "--json")[1])
    assert [row["status"] for row in listed] == ["finished"] * 4
    assert {row["experiment"] for row in store.listing()} == {"mini.hill", "mini.net"}


def test_what_another_machine_has_begun_goes_on_with_mix_only(eoslib):
    assert eoslib("compute", "mini", "--only", "net", "--budget", "0")[0] == 1
    for path in store.home().glob("*/checkpoint.json"):
        checkpoint = files.read_json(path)
        files.write_json(path, checkpoint | {"machine": checkpoint["machine"] | {"gpu": "abacus"}})
    status, _, err = eoslib("compute", "mini", "--only", "net")
    assert status == 1
    assert "was begun on another machine" in err and "abacus" in err and "--mix" in err and "Traceback" not in err
    assert {row["status"] for row in store.listing()} == {"unfinished"}
    status, out, err = eoslib("compute", "mini", "--only", "net", "--mix")
    assert (status, err) == (0, "")
    assert "2 of 2 run(s) of mini at quick are finished" in out
    for manifest in store.manifests():
        (stretch,) = manifest["stretches"]
        assert (stretch["machine"]["gpu"], stretch["to_step"]) == ("abacus", 0)
        assert manifest["machine"]["gpu"] == "none"


def test_the_plan_estimates_from_what_has_run_and_loads_no_data(eoslib, monkeypatch):
    assert eoslib("compute", "mini", "--only", "net", "--record")[0] == 0
    seconds = [m["seconds_per_step"] for m in store.manifests()]
    monkeypatch.setattr(datasets, "load", lambda *a, **k: pytest.fail("data were loaded"))
    rows = json.loads(
        eoslib("compute", "mini", "--only", "net", "-p", "steps=600000", "-p", "seeds=[7]", "--list", "--json")[1]
    )
    assert [row["status"] for row in rows] == ["not started"]
    assert 10000 * min(seconds) - 0.01 <= rows[0]["at_most_minutes"] <= 10000 * max(seconds) + 0.01


def test_a_gpu_that_is_absent_is_status_1(eoslib, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = eoslib("compute", "mini", "--device", "cuda")
    assert status == 1
    assert "error: device 'cuda' was asked for" in err and "Traceback" not in err


def test_absent_data_are_status_1(eoslib, monkeypatch, tmp_path):
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "nothing"))

    def absent(*arguments, **options):
        raise datasets.DataAbsent("digits was looked for everywhere")

    monkeypatch.setattr(datasets, "load", absent)
    status, _, err = eoslib("compute", "mini", "--only", "net")
    assert (status, err) == (1, "error: digits was looked for everywhere\n")


def test_damage_is_status_1_and_fresh_recovers(eoslib):
    assert eoslib("compute", "mini", "--only", "hill")[0] == 0
    trace = next(store.home().glob("*/trace.nc"))
    flip_a_bit(trace)
    for arguments in (["compute", "mini", "--only", "hill"], ["runs", "--verify"]):
        status, _, err = eoslib(*arguments)
        assert status == 1
        assert str(trace) in err and "--fresh" in err and "Traceback" not in err
    assert eoslib("compute", "mini", "--only", "hill", "--fresh")[0] == 0
    assert eoslib("runs", "--verify") == (0, "every stored file matches its checksum\n", "")


def test_a_store_that_cannot_be_written_is_status_1(eoslib, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "file" / "store"))
    status, _, err = eoslib("compute", "mini", "--only", "hill")
    assert status == 1
    assert err.startswith("error: the run store cannot be written at")


def test_ctrl_c_is_status_130(eoslib, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "carry_on", interrupt)
    status, _, err = eoslib("compute", "mini")
    assert status == 130
    assert "Traceback" not in err


# --- store, audit, data -----------------------------------------------------------------------------------


def test_runs_as_json(eoslib):
    eoslib("compute", "mini", "--only", "hill")
    eoslib("compute", "mini", "--only", "net", "--budget", "0")
    status, out, _ = eoslib("runs", "--json")
    rows = json.loads(out)
    assert status == 0
    assert all(row.keys() >= {"key", "experiment", "status", "sha256"} for row in rows)
    by_name = {name: [row for row in rows if row["experiment"] == f"mini.{name}"] for name in ("hill", "net")}
    assert {row["status"] for row in by_name["hill"]} == {"finished"}
    assert {row["status"] for row in by_name["net"]} == {"unfinished"}
    assert all(len(row["key"]) == 16 for row in rows)
    assert {row["key"]: row["sha256"] for row in by_name["hill"]} == store.inventory()
    assert all(len(row["sha256"]) == 64 for row in by_name["hill"])


def test_runs_as_a_table(eoslib):
    assert eoslib("runs") == (0, "none\n", "")
    eoslib("compute", "mini", "--only", "hill")
    header, *rows = eoslib("runs")[1].splitlines()
    assert header.split()[:4] == ["key", "experiment", "status", "sha256"]
    assert len(rows) == 2


def test_audit_agrees_with_what_was_recorded_and_not_with_what_was_altered(eoslib, tmp_path):
    assert eoslib("audit")[:2] == (0, "0 of 0 recorded run(s) agree over 20 steps\n")
    eoslib("compute", "mini", "--record")
    status, out, _ = eoslib("audit", "--steps", 5)
    assert status == 0
    assert "4 of 4 recorded run(s) agree over 5 steps" in out
    assert eoslib("audit", "another")[1].startswith("0 of 0")

    run = next(run for run in store.recorded_runs() if run.identity["experiment"] == "net")
    run.stored["loss"].values[3] *= np.float32(1.01)
    store.record(run)  # an alteration that no checksum shows
    status, out, _ = eoslib("audit")
    assert status == 1
    assert "3 of 4 recorded run(s) agree" in out
    assert f"differs   net-{run.key}\n    step 3: loss is" in out


def test_audit_of_a_run_whose_data_are_not_here_is_no_success(eoslib, monkeypatch):
    eoslib("compute", "mini", "--only", "net", "--record")

    def other(*arguments, **options):
        return "other data"

    monkeypatch.setattr(datasets, "fingerprint", other)
    status, out, _ = eoslib("audit")
    assert status == 1
    assert out.count("skipped   net-") == 2 and "is not here" in out


def test_audit_of_a_run_whose_start_is_not_in_the_store_is_no_success(eoslib):
    path = presets.chapter_path("mini")
    first = presets.declared_experiments(path, presets.parameters(path))["net"][0]
    first = dataclasses.replace(first, experiment="first", steps=3, keep=("last",))
    second = dataclasses.replace(first, experiment="second", start=first, keep=())
    for experiment in (first, second):
        store.record(experiments.carry_on(experiment))
    assert "2 of 2 recorded run(s) agree" in eoslib("audit")[1]
    shutil.rmtree(store.home() / first.identity.key)
    status, out, _ = eoslib("audit")
    assert status == 1 and "agrees    first-" in out
    assert f"skipped   second-{second.identity.key}: it builds on θ kept by {first.identity.key}" in out


def test_data(eoslib):
    status, out, _ = eoslib("data", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert status == 0
    assert entries.keys() >= {"digits", "power_law", "cifar10"}
    assert entries["digits"]["fingerprint"] == datasets.fingerprint("digits")
    assert all(entry["source"] and entry["licence"] and entry["how_to_get"] for entry in entries.values())
    status, out, _ = eoslib("data")
    assert status == 0 and all(f"{name}: " in out for name in entries)


def test_downloading_what_there_is_not_is_status_1(eoslib):
    for name, complaint in [("digits", "nothing to download"), ("no-such-data", "unknown data set 'no-such-data'")]:
        status, _, err = eoslib("data", "--download", name)
        assert status == 1 and complaint in err and "Traceback" not in err


# --- run, claims -----------------------------------------------------------------------------------------


def strictly(text):
    """JSON as browsers read it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_run_writes_notebook_and_claims_which_can_be_acknowledged(eoslib, chapter, tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_COMPUTE", "1")
    status, out, err = eoslib("run", "mini", "-p", "steps=40", "-o", tmp_path / "mini.ipynb")
    assert status == 0, err
    verdicts = strictly((tmp_path / "mini.claims.json").read_text())
    assert [(v["id"], v["verdict"]) for v in verdicts] == [
        ("ahn2022/ex1/descends", claims.PARTLY), ("ahn2022/ex1/lost", claims.NOT_REPRODUCED)
    ]  # fmt: skip
    strictly((tmp_path / "mini.ipynb").read_text())
    notebook = nbformat.read(tmp_path / "mini.ipynb", as_version=4)
    assert claims.in_notebook(notebook) == verdicts
    assert notebook.metadata["eoslib"]["parameters"]["steps"] == 40
    assert notebook.cells[1].source.startswith("**Rerun**") and "| steps | 30 | 40 |" in notebook.cells[1].source
    assert "partly                   ahn2022/ex1/descends: η = 0.049: yes; η = 0.051: no" in out
    assert {run["experiment"] for run in store.listing()} == {"mini.hill"}
    assert {key for v in verdicts for key in v["runs"]} == store.inventory().keys()
    assert "steps: 30 → 40" in out and "verdicts" not in out  # none was acknowledged

    status, out, _ = eoslib("claims", "mini", "--accept", tmp_path / "mini.ipynb")
    assert status == 0 and str(tmp_path / "recorded" / "claims" / "mini.yaml") in out
    rows = json.loads(eoslib("claims", "--json")[1])
    assert len(rows) == 6  # two claims, three presets
    shown = {(row["id"], row["preset"]): row["verdict"] for row in rows}
    assert shown["ahn2022/ex1/descends", "quick"] == claims.PARTLY
    assert shown["ahn2022/ex1/descends", "paper"] == claims.NOT_RUN

    # rerun by plain papermill, which replaces the parameters, and beside what is acknowledged
    changed = {"preset": "quick", "step_sizes": [2 / 41], "steps": 40, "seeds": [0]}
    again = papermill.execute_notebook(
        tmp_path / "mini.ipynb", tmp_path / "again.ipynb", changed, progress_bar=False, kernel_name="python3"
    )
    assert [v["verdict"] for v in claims.in_notebook(again)] == [claims.REPRODUCED, claims.NOT_REPRODUCED]
    again.metadata["eoslib"]["parameters"] = changed
    difference = compare.with_preset(again)
    assert difference.parameters[1:] == [("steps", "30", "40"), ("seeds", "[0, 1]", "[0]")]
    assert difference.verdicts == [("ahn2022/ex1/descends", claims.PARTLY, claims.REPRODUCED)]
    assert "| verdicts | mini at quick | this run |\n|---|---|---|\n| ahn2022/ex1/descends | partly | reproduced |" in (
        difference.markdown()
    )
    # a page that is no chapter has claims, too
    page = chapter.parents[1] / "book/claims/own.yaml"
    page.parent.mkdir(parents=True)
    page.write_text(yaml.safe_dump(CLAIMS | {"paper": "own"}))
    assert {row["id"].partition("/")[0] for row in json.loads(eoslib("claims", "own", "--json")[1])} == {"own"}
    assert len(json.loads(eoslib("claims", "--json")[1])) == 12


def test_a_control_that_does_not_fail_is_status_1_and_named(eoslib, chapter, tmp_path):
    descends, lost = CLAIMS["claims"]
    stated = CLAIMS | {"claims": [descends | {"control": "a flat hill"}, lost]}
    (chapter.parent / "claims" / "mini.yaml").write_text(yaml.safe_dump(stated))
    chapter.write_text(CHAPTER.replace("for r in hill}, hill)", "for r in hill}, hill, control={'flat': True})"))
    status, out, err = eoslib("run", "mini", "-o", tmp_path / "mini.ipynb")
    assert status == 1 and "wrote" in out
    assert err == (
        "ahn2022/ex1/descends: its control, a flat hill, does not fail the criterion (flat: yes; criterion: true)\n"
    )
    (verdict, _) = strictly((tmp_path / "mini.claims.json").read_text())
    assert verdict["control"]["fails"] is False


def test_a_chapter_that_fails_is_status_1_and_named(eoslib, chapter, tmp_path):
    chapter.write_text(CHAPTER + "\n# %%\n1 / 0\n")
    status, _, err = eoslib("run", "mini", "-o", tmp_path / "mini.ipynb")
    assert status == 1
    assert "chapter mini failed: ZeroDivisionError" in err and "mini.partial.ipynb" in err
    assert "Traceback" not in err
    assert not (tmp_path / "mini.ipynb").exists()


def test_accepting_what_does_not_exist_is_status_1(eoslib, tmp_path):
    status, _, err = eoslib("claims", "--accept", tmp_path)
    assert status == 1
    assert "mini.ipynb does not exist" in err


def test_a_malformed_ledger_is_status_1(eoslib, chapter):
    (chapter.parent / "claims" / "mini.yaml").write_text("claims: []")
    status, _, err = eoslib("claims", "mini")
    assert status == 1
    assert "mini.yaml: paper: Field required" in err and "Traceback" not in err


# --- comparisons -----------------------------------------------------------------------------------------


def test_two_runs_are_compared_as_text_json_and_page(eoslib, tmp_path):
    eoslib("compute", "mini", "--only", "net")
    one, two = (run["key"] for run in store.listing())
    status, out, _ = eoslib("compare", one, two, "--html", "difference.html")
    assert status == 0 and "seed: " in out and "the trajectories part:" in out
    assert "The trajectories part" in (tmp_path / "difference.html").read_text()
    status, out, _ = eoslib("compare", one, one, "--json")
    assert status == 0 and json.loads(out) == {"identical": True, "parted": [], "figures": []}
    assert eoslib("compare", one, "nothing")[0] == 1
