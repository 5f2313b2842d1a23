"""store.archive"""


def test_listing_and_inventory_of_an_empty_store():
    assert (store.listing(), store.inventory(), store.verify(), store.recorded_runs()) == ([], {}, [], [])
    assert store.find(IDENTITY) is None
    assert store.status(IDENTITY) == "not started"


def test_listing_tells_finished_from_unfinished_and_has_the_hash_of_the_values():
    run = store.carry_on(Walk(), IDENTITY)
    other = IDENTITY | {"seed": 1}
    with pytest.raises(KeyboardInterrupt):
        store.carry_on(Walk(hook=stop_at(25)), other, checkpoint_seconds=0)
    listed = {row["key"]: row for row in store.listing()}
    assert listed.keys() == {run.key, store.key_of(other)}
    assert {name: listed[run.key][name] for name in ("experiment", "status", "sha256", "steps")} == {
        "experiment": "test.walk", "status": "finished", "sha256": store.values_sha256(run.trace), "steps": 40
    }  # fmt: skip
    assert (listed[store.key_of(other)]["status"], listed[store.key_of(other)]["steps"]) == ("unfinished", 25)
    assert store.inventory() == {run.key: run.manifest["values_sha256"]}


def test_what_was_computed_in_float64_is_recorded_so():
    run = store.carry_on(Walk(), IDENTITY | {"precision": "float64"})
    store.record(run)
    (found,) = store.recorded_runs()
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
    for name in run.trace.data_vars:
        assert found.trace[name].dtype == np.float32
        assert found.trace[name].attrs == run.trace[name].attrs
        np.testing.assert_array_equal(found.trace[name], run.trace[name].astype("float32"))
    assert path.stat().st_size < 30_000
    assert store.values_sha256(found.trace) == found.manifest["values_sha256"]
    assert [r.key for r in store.recorded_runs("test")] == [run.key]
    assert store.recorded_runs("another chapter") == []
    assert store.carry_on(Walk(hook=never), IDENTITY).recorded
    assert store.verify() == []


def test_where_the_data_is_absent_a_recorded_run_of_the_same_other_fields_is_taken():
    run = store.carry_on(Walk(), IDENTITY | {"fingerprint": "abc"})
    store.record(run)
    absent = IDENTITY | {"fingerprint": None}
    assert store.find(absent).identity["fingerprint"] == "abc"
    assert store.find(absent | {"seed": 1}) is None
    assert store.find(IDENTITY | {"fingerprint": "other data"}) is None


def test_a_long_curve_is_recorded_thinned_and_says_so():
    step = np.arange(50_001)
    trace = xr.Dataset({"loss": ("step", (-1.0) ** step)}, {"step": step})
    run = store.Run(IDENTITY, trace, {"key": store.key_of(IDENTITY), "identity": IDENTITY, "step": 50_001})
    store.record(run)
    (found,) = store.recorded_runs()
    assert found.trace.sizes["step"] <= traces.MAX_RECORDED_POINTS
    assert found.trace.attrs["window"] == 3
    # both phases of the oscillation are in every window
    assert (found.trace["loss_min"] == -1).all() and (found.trace["loss_max"] == 1).all()
    assert (abs(found.trace["loss"]) < 0.34).all()


def test_gather_stacks_along_step_size_and_seed_and_pads_with_nan():
    collected = [
        store.carry_on(Walk(steps), IDENTITY | {"step_size": eta, "seed": seed})
        for steps, eta, seed in [(40, 0.5, 0), (40, 0.5, 1), (10, 0.25, 0), (40, 0.25, 1)]
    ]
    gathered = store.gather(collected)
    assert dict(gathered.sizes) == {"step_size": 2, "seed": 2, "step": 40, "coordinate": 3, "eigenvalue": 2}
    assert gathered["step_size"].values.tolist() == [0.25, 0.5]
    short = gathered["loss"].sel(step_size=0.25, seed=0)
    np.testing.assert_array_equal(short[:10], collected[2].trace["loss"])
    assert np.isnan(short[10:]).all()
    np.testing.assert_array_equal(gathered["theta"].sel(step_size=0.5, seed=1), collected[1].trace["theta"])
    assert gathered["loss"].attrs["long_name"]


def test_gather_of_an_incomplete_grid_has_nan_for_the_missing_run():
    grid = [(0.5, 0), (0.5, 1), (0.25, 0)]
    gathered = store.gather([store.carry_on(Walk(), IDENTITY | {"step_size": e, "seed": s}) for e, s in grid])
    assert np.isnan(gathered["loss"].sel(step_size=0.25, seed=1)).all()
    assert np.isfinite(gathered["loss"].sel(step_size=0.25, seed=0)).all()
