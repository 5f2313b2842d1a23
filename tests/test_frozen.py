"""What a change of the structure must leave as it is: recorded runs, verdicts, and the first steps of each kind."""

import json

import numpy as np
import pytest
import yaml
from frozen import steps

from eoslib import store
from eoslib.chapter import presets
from eoslib.chapter.experiments import built, described, differing

ROOT = steps.FOLDER.parents[1]
TABLES = sorted(steps.FOLDER.glob("*.npz"))
RECORDED = json.loads((steps.FOLDER / "recorded.json").read_text())
GONE = {"batch_loss_after"}  # an extra forward pass of each step, which no chapter read
ROUNDED = {"adaptive"}  # since it is torch.optim's, which rounds otherwise
COSTS = {"products", "sharpness_residual", "constrained_residual"}  # of a search, which differ with the rounding
VERDICTS = json.loads((steps.FOLDER / "verdicts.json").read_text())


def test_every_recorded_run_has_the_values_it_had():
    """Under its new key, see `recorded/rekeyed.json`. Where experiments 1 and 3 were the same but for their names and
    rounding, the run of experiment 3 stands for both."""
    new_keys = json.loads((ROOT / "recorded" / "rekeyed.json").read_text())
    now, twins = {}, 0
    for path in (ROOT / "recorded").glob("*/*-*.json"):
        if path.parent.name != "claims":
            body = json.loads(path.read_text())["body"]
            now[body["key"]] = path.parent.name, body["identity"]["experiment"], body["values_sha256"]
    for name, values_sha256 in RECORDED.items():
        chapter, _, stem = name.partition("/")
        experiment, _, old_key = stem.rpartition("-")
        if experiment == "adaptive":  # computed anew, since torch.optim rounds otherwise
            continue
        twin = experiment == "exp1" and now[new_keys[old_key]][1] == "exp3"
        assert twin or now[new_keys[old_key]] == (chapter, experiment, values_sha256), name
        twins += twin
    assert twins == 3


def test_every_recorded_run_is_rebuilt_with_its_key():
    """From the values in its manifest: a default that changed, or a field that was renamed, would orphan it."""
    manifests = [path for path in (ROOT / "recorded").glob("*/*-*.json") if path.parent.name != "claims"]
    assert len(manifests) >= len(RECORDED) - 3
    for path in manifests:
        body = json.loads(path.read_text())["body"]
        rebuilt, fingerprint = built(body["identity"]), body["identity"]["fingerprint"]
        identity = store.Identity(described(rebuilt) | {"fingerprint": fingerprint}, differing(rebuilt))
        assert (identity.key, identity.family) == (body["key"], body["family"])
        assert path.stem == f"{body['identity']['experiment']}-{identity.key}"


@pytest.mark.parametrize(("chapter", "preset"), presets.published().items())
def test_a_page_finds_all_its_runs_recorded(chapter, preset, monkeypatch):
    """On every processor: a key that held what this one computed, to the last digit, would be found nowhere else."""
    monkeypatch.setenv("EOSLIB_RECORDED", str(ROOT / "recorded"))
    path = presets.chapter_path(chapter)
    declared = presets.declared_experiments(path, presets.parameters(path, preset))
    keys = [each.identity for experiments in declared.values() for each in experiments]
    missing = [f"{i.values['experiment']}-{i.key}" for i in keys if store.status(i) != "recorded"]
    assert keys and not missing


@pytest.mark.parametrize("chapter", VERDICTS)
def test_every_acknowledged_verdict_is_what_it_was(chapter):
    now = yaml.safe_load((ROOT / "recorded" / "claims" / f"{chapter}.yaml").read_text())
    for preset, verdicts in VERDICTS[chapter].items():
        assert {id_: now[preset].get(id_, {}).get("verdict") for id_ in verdicts} == verdicts


@pytest.mark.parametrize("entry", steps.FROZEN, ids=lambda entry: steps.name_of(*entry))
def test_the_first_steps_are_what_they_were(entry):
    here = steps.file_of(store.machine(steps.CPU))
    same_kind = here in TABLES
    now = steps.rows_of(*entry)
    name = f"{steps.name_of(*entry)}/"
    with np.load(here if same_kind else TABLES[0]) as frozen:
        wanted = {key.removeprefix(name): frozen[key] for key in frozen.files if key.startswith(name)}
    assert wanted and wanted.keys() - GONE <= now.keys()
    for variable, before in wanted.items():
        if variable in GONE:
            continue
        if same_kind and entry[1] not in ROUNDED:
            np.testing.assert_array_equal(now[variable], before, err_msg=variable)
        elif variable not in COSTS:
            close = 0.01 if "alignment" in variable else 1e-6  # of a vector that is found to its residual
            np.testing.assert_allclose(now[variable][:20], before[:20], rtol=1e-3, atol=close, err_msg=variable)
