"""store.archive: finished runs are listed, recorded and found again."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from walk import IDENTITY, Walk, carried_on, named, never, stop_at

from eoslib import store
from eoslib.store import files, traces


def test_listing_and_inventory_of_an_empty_store():
    assert (store.listing(), store.inventory(), store.verify(), store.recorded_runs()) == ([], {}, [], [])
    assert store.find(IDENTITY) is None
    assert store.status(IDENTITY) == "not started"


def test_listing_tells_finished_from_unfinished_and_has_the_hash_of_the_values():
    run = store.carry_on(Walk(), IDENTITY)
    other = named(seed=1)
    with pytest.raises(KeyboardInterrupt):
        carried_on(Walk(hook=stop_at(25)), other)
    listed = {row["key"]: row for row in store.listing()}
    assert listed.keys() == {run.key, other.key}
    assert {name: listed[run.key][name] for name in ("experiment", "status", "sha256", "steps")} == {
        "experiment": "test.walk", "status": "finished", "sha256": store.values_sha256(run.stored), "steps": 40
    }  # fmt: skip
    assert (listed[other.key]["status"], listed[other.key]["steps"]) == ("unfinished", 25)
    assert store.inventory() == {run.key: run.manifest["values_sha256"]}


def test_what_was_computed_in_float64_is_recorded_so():
    run = store.carry_on(Walk(), named(precision="float64"))
    store.record(run)
    (found,) = store.recorded_runs()
    assert xr.testing.assert_identical(found.stored, run.stored) is None
    for name in run.trace.data_vars:
        np.testing.assert_array_equal(found.trace[name], run.trace[name])
        assert found.trace[name].dtype == np.float64


def test_recorded_runs_are_found_as_float32(monkeypatch, tmp_path):
    run = store.carry_on(Walk(), IDENTITY)
    path = store.record(run)
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "empty"))
    assert store.status(IDENTITY) == "recorded"
    found = store.find(IDENTITY)
    assert found.recorded and not run.recorded
    assert found.key == run.key
    for name in run.stored.data_vars:
        whole = run.stored[name].dtype == np.int64  # numbers that need no rounding
        assert found.stored[name].dtype == (np.int64 if whole else np.float32)
        assert found.stored[name].attrs == run.stored[name].attrs
        np.testing.assert_array_equal(found.stored[name], run.stored[name].astype(found.stored[name].dtype))
    for name in run.trace.data_vars:
        np.testing.assert_array_equal(found.trace[name], run.trace[name].astype("float32"))
    assert store.tables_of(found.stored) == store.tables_of(run.stored)
    for table in store.tables_of(run.stored):
        np.testing.assert_array_equal(found.stored[table], run.stored[table])
    assert path.stat().st_size < 3_000 * len(run.stored.variables)  # most of it the format's own
    assert store.values_sha256(found.stored) == found.manifest["values_sha256"]
    assert [r.key for r in store.recorded_runs("test")] == [run.key]
    assert store.recorded_runs("another chapter") == []
    assert store.carry_on(Walk(hook=never), IDENTITY).recorded
    assert store.verify() == []


def test_where_the_data_is_absent_a_recorded_run_of_the_same_other_fields_is_taken(monkeypatch, tmp_path):
    run = store.carry_on(Walk(), named(fingerprint="abc"))
    store.record(run)
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "empty"))
    absent = named(fingerprint=None)
    found = store.find(absent)
    assert found.recorded and found.key == run.key
    assert found["fingerprint"] == found.identity["fingerprint"] == "abc"
    assert store.status(absent) == "recorded"
    assert store.carry_on(Walk(hook=never), absent).key == run.key
    assert store.find(named(fingerprint=None, chapter="another", experiment="other")).key == run.key
    assert store.find(named(fingerprint=None, seed=1)) is None
    assert store.find(named(fingerprint="other data")) is None
    assert store.find(named(fingerprint="")) is None


def test_where_the_data_is_absent_manifests_from_before_there_were_families_are_passed_over():
    run = store.carry_on(Walk(), named(fingerprint="abc"))
    path = store.record(dataclasses.replace(run, identity=run.identity | {"experiment": "a"})).with_suffix(".json")
    files.write_json(path, {name: value for name, value in files.read_json(path).items() if name != "family"})
    assert store.find(named(fingerprint=None)) is None
    store.record(run)
    assert store.find(named(fingerprint=None)).key == run.key


def test_a_value_of_a_run_is_found_wherever_it_stands():
    deep = {"problem": {"is": "Training", "data": {"n": 40}}, "measurements": [{"every": 3}, {"nodes": 2}]}
    run = store.carry_on(Walk(), named(**deep))
    assert (run["seed"], run["n"], run["every"], run["nodes"]) == (0, 40, 3, 2)
    assert run.step_size == run["step_size"] == 0.5
    with pytest.raises(KeyError, match=f"'sede' is no value of {run.key}"):
        run["sede"]


def test_the_manifests_of_all_finished_runs_are_those_of_the_store_and_of_what_is_recorded(monkeypatch, tmp_path):
    first = store.carry_on(Walk(), IDENTITY)
    store.record(first)
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "other"))
    second = store.carry_on(Walk(), named(seed=1))
    with pytest.raises(KeyboardInterrupt):
        carried_on(Walk(hook=stop_at(5)), named(seed=2))
    assert [m["key"] for m in store.manifests()] == [second.key, first.key]
    assert store.manifests()[0] == second.manifest


def test_a_long_curve_is_recorded_thinned_and_says_so():
    step = np.arange(50_001)
    trace = xr.Dataset({"loss": ("step", (-1.0) ** step)}, {"step": step})
    manifest = {"key": IDENTITY.key, "identity": IDENTITY.values, "step": 50_001}
    run = store.Run(IDENTITY.values, trace, manifest)
    store.record(run)
    (found,) = store.recorded_runs()
    assert found.trace.sizes["step"] <= traces.MAX_RECORDED_POINTS
    assert found.trace.attrs["window"] == store.window_of(found.stored, "step") == 3
    # both phases of the oscillation are in every window
    assert (found.trace["loss_min"] == -1).all() and (found.trace["loss_max"] == 1).all()
    assert (abs(found.trace["loss"]) < 0.34).all()
