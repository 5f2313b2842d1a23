"""store.traces: tables by cadence, side by side where a reader wants that, thinned, hashed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from walk import CHOSEN, IDENTITY, VARIABLES, Walk, another_store, carried_on, folder, interrupted, is_square, whole

from eoslib import store
from eoslib.chapter import experiments
from eoslib.chapter.experiments import Data, Descent, Network, Training
from eoslib.measure.curvature import Sharpness
from eoslib.measure.directions import Position
from eoslib.measure.progress import ExpectedProgress, HeldOut, Loss, SegmentSmoothness
from eoslib.problems.batches import Batches
from eoslib.store import traces

TRAINING = Training(
    data=Data(dataset="digits", n=40),
    network=Network(architecture="mlp", sizes={"hidden": [4]}, activation="tanh"),
    loss="cross-entropy",
)
SGD = Descent(
    chapter="test", experiment="tables", step_size=0.2, steps=14, problem=TRAINING, batches=Batches(batch_size=10),
    measurements=(
        Sharpness(every=3), HeldOut(examples=10, every="epoch"), SegmentSmoothness(nodes=2, every="end"),
        Position(every=(0, 5, 13)), ExpectedProgress(batch_size=5, minibatches=2, every=4), Loss(every=2),
    ),
)  # fmt: skip
STEPS = {
    "step": list(range(14)), "every_2": [0, 2, 4, 6, 8, 10, 12], "every_3": [0, 3, 6, 9, 12], "every_4": [0, 4, 8, 12],
    "epoch": [0, 4, 8, 12], "chosen": [0, 5, 13], "end": [14],
}  # fmt: skip


def steps_of(trace):
    return {table: trace[table].values.tolist() for table in store.tables_of(trace)}


# --- tables ---------------------------------------------------------------------------------------------------


def test_a_trace_holds_every_step_labelled_with_nan_where_nothing_was_measured():
    run = store.carry_on(Walk(), IDENTITY)
    assert run.trace["step"].values.tolist() == list(range(40))
    assert run.trace["theta"].dims == ("step", "coordinate")
    assert run.trace["eigenvalues"].dims == ("step", "eigenvalue")
    measured = np.isfinite(run.trace["sharpness"].values)
    assert np.flatnonzero(measured).tolist() == [2, 9, 16, 23, 30, 37]
    assert np.isfinite(run.trace["eigenvalues"].values).all(1).tolist() == measured.tolist()
    for variable in run.trace.variables.values():
        assert variable.attrs["long_name"] and variable.attrs["units"]
    assert json.loads(run.trace.attrs["identity"]) == run.identity


def test_each_cadence_has_a_table_with_the_steps_at_which_it_was_measured():
    stored = store.carry_on(Walk(), IDENTITY).stored
    assert steps_of(stored) == {
        "step": list(range(40)), "every_3": list(range(0, 40, 3)), "epoch": [0, 1, 4, 9, 16, 25, 36],
        "chosen": list(CHOSEN), "end": [40],
    }  # fmt: skip
    assert {str(name): stored[name].dims for name in stored.data_vars} == {
        "loss": ("step",), "theta": ("step", "coordinate"), "sharpness": ("step",),
        "eigenvalues": ("step", "eigenvalue"), "rare": ("every_3",), "epoch_loss": ("epoch",), "first": ("chosen",),
        "final": ("end", "coordinate"),
    }  # fmt: skip
    for variable in stored.variables.values():
        assert variable.attrs["long_name"] and variable.attrs["units"]
    assert stored["rare"].attrs == {"long_name": VARIABLES["rare"].long_name, "units": "m"}
    assert (stored["first"].dtype, stored["loss"].dtype) == (np.int64, np.float64)


def test_what_is_measured_at_the_end_belongs_to_the_iterate_after_the_last_step():
    walk = Walk()
    stored = store.carry_on(walk, IDENTITY).stored
    assert stored["end"].values.tolist() == [walk.t] == [40]
    np.testing.assert_array_equal(stored["final"][0], walk.theta)
    with another_store():
        process = SGD.process(torch.device("cpu"))
        run = store.carry_on(process, replace(SGD, measurements=(Position(every="end"),)).identity)
        assert run.stored["end"].values.tolist() == [14]
    ends = experiments.carry_on(replace(SGD, measurements=(Position(every="end"),))).stored
    np.testing.assert_array_equal(ends["theta"].values[0], process.theta.double())


def test_a_trajectory_has_the_tables_that_its_measurements_ask_for():
    assert steps_of(experiments.carry_on(SGD).stored) == STEPS


def test_side_by_side_every_variable_stands_at_its_step_and_is_nan_elsewhere():
    run = store.carry_on(Walk(), IDENTITY)
    assert run.trace.sizes["step"] == 40 and "end" not in run.trace.dims and "final" not in run.trace
    for table in ("every_3", "epoch", "chosen"):
        for name in (n for n in run.stored.data_vars if run.stored[n].dims[0] == table):
            there = run.stored[table].values
            np.testing.assert_array_equal(run.trace[name].sel(step=there), run.stored[name])
            assert np.isnan(run.trace[name].drop_sel(step=there)).all()
            assert run.trace[name].attrs == run.stored[name].attrs
    for name in ("loss", "theta", "sharpness", "eigenvalues"):
        assert xr.testing.assert_identical(run.trace[name].drop_attrs(), run.stored[name].drop_attrs()) is None
    assert json.loads(run.trace.attrs["identity"]) == run.identity
    assert is_square(25) and np.isfinite(run.trace["epoch_loss"].sel(step=25))


def test_side_by_side_of_tables_none_of_which_has_every_step_has_the_steps_of_all():
    rows = [(t, {"every_3": {"rare": t}} | ({"chosen": {"first": t}} if t == 4 else {})) for t in (0, 3, 4, 6)]
    trace = store.trace_of([(t, {k: v for k, v in r.items() if t != 4 or k == "chosen"}) for t, r in rows], VARIABLES)
    both = store.side_by_side(trace)
    assert both["step"].values.tolist() == [0, 3, 4, 6]
    np.testing.assert_array_equal(both["rare"], [0, 3, np.nan, 6])


def test_a_trace_of_the_end_alone_has_nothing_to_show_step_by_step():
    trace = store.trace_of([(0, {}), (1, {"end": {"final": [1.0, 2.0]}})], VARIABLES)
    assert steps_of(trace) == {"end": [2]}
    assert not store.side_by_side(trace).data_vars


@pytest.mark.parametrize("at", range(1, 14))
def test_every_table_is_the_same_wherever_the_run_was_interrupted(at):
    interrupted(at=at, steps=14)
    run, undisturbed = store.carry_on(Walk(14), IDENTITY), whole(14)
    assert run.manifest["resumes"] == 1
    assert xr.testing.assert_identical(run.stored, undisturbed.stored) is None
    assert xr.testing.assert_identical(store.find(IDENTITY).stored, undisturbed.stored) is None


def test_every_table_of_a_trajectory_is_the_same_wherever_it_was_interrupted():
    undisturbed = experiments.carry_on(SGD)
    for at in range(1, 14):
        with another_store():
            process = SGD.process(torch.device("cpu"))
            step = process.step

            def stopping(process=process, step=step, at=at):
                if process.t == at:
                    raise KeyboardInterrupt
                step()

            process.step = stopping
            with pytest.raises(KeyboardInterrupt):
                carried_on(process, SGD.identity)
            assert store.status(SGD.identity) == f"at step {at}"
            run = experiments.carry_on(SGD)
            assert steps_of(run.stored) == STEPS
            assert run.manifest["values_sha256"] == undisturbed.manifest["values_sha256"], at


def test_what_is_measured_rarely_is_stored_without_the_steps_between():
    rare = replace(
        SGD, steps=3000, batches=Batches(), measurements=(Loss(every=300), Position(every="end")), keep=()
    )  # fmt: skip
    run = experiments.carry_on(rare)
    assert steps_of(run.stored) == {"every_300": list(range(0, 3000, 300)), "end": [3000]}
    assert run.trace.sizes == {"step": 10}
    theta = run.stored.sizes["coordinate"]
    assert run.stored.nbytes == 8 * (10 * (1 + 3) + 1 + theta)
    dense = 3 * 8 * 3000
    assert (folder() / "trace.nc").stat().st_size < dense / 2


RECORDED = sorted(store.recorded().glob("*/*.nc"))


@pytest.mark.parametrize("path", RECORDED[:: len(RECORDED) // 20], ids=lambda path: path.stem)
def test_a_recorded_trace_is_read_as_xarray_reads_it(path):
    read = store.load(path).stored
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        xr.testing.assert_identical(read, dataset.load())
        assert all(read[name].dtype == values.dtype for name, values in dataset.variables.items())


@pytest.mark.parametrize("table", ["step", "every_4"])
def test_a_thinned_trace_keeps_its_windows_when_it_is_written_and_read(table):
    variables = {"f": next(iter(VARIABLES.values()))}
    thinned = store.thin(store.trace_of([(t, {table: {"f": t}}) for t in range(100)], variables), 30)
    read = traces.read(bytes(thinned.to_netcdf(engine="h5netcdf")))
    xr.testing.assert_identical(read, thinned)
    assert store.window_of(read, table) == 5


# --- thinning -------------------------------------------------------------------------------------------------

values = st.floats(-1e6, 1e6, width=32)


@given(st.lists(values, min_size=2, max_size=120), st.integers(1, 40))
def test_thinning_keeps_extremes_and_mean_in_odd_windows(curve, most):
    curve = np.array(curve)
    trace = xr.Dataset({"loss": ("step", curve, {"long_name": "f", "units": "1"})}, {"step": np.arange(len(curve))})
    thinned = store.thin(trace, most)
    if len(curve) <= most:
        assert thinned is trace
        return
    assert thinned.sizes["step"] <= most
    assert thinned.attrs["window"] % 2 == 1
    assert thinned["loss_min"].min() == curve.min()
    assert thinned["loss_max"].max() == curve.max()
    assert thinned["loss"].attrs["long_name"] == "f"
    w = thinned.attrs["window"]
    for i, (low, mean, high) in enumerate(zip(thinned["loss_min"], thinned["loss"], thinned["loss_max"], strict=True)):
        window = curve[i * w : (i + 1) * w]
        assert (low, high) == (window.min(), window.max())
        np.testing.assert_allclose(mean, window.mean(), rtol=1e-12, atol=1e-6)
    assert (i + 1) * w >= len(curve)


def test_a_window_in_which_nothing_was_measured_stays_nan():
    sparse = np.full(90, np.nan)
    sparse[::30] = 1
    thinned = store.thin(xr.Dataset({"sharpness": ("step", sparse)}, {"step": np.arange(90)}), 18)
    assert np.isfinite(thinned["sharpness"].values).sum() == 3


def test_the_value_hash_is_of_names_shapes_and_values_not_of_order():
    a, b = ("step", np.zeros(4)), ("step", np.ones(4))
    sha = store.values_sha256(xr.Dataset({"a": a, "b": b}))
    assert sha == store.values_sha256(xr.Dataset({"b": b, "a": a}))
    others = [{"a": b, "b": a}, {"a": a, "c": b}, {"a": a}, {"a": (("x", "y"), np.zeros((2, 2))), "b": b}]
    assert len({sha, *(store.values_sha256(xr.Dataset(other)) for other in others)}) == 5


def test_each_table_is_thinned_by_itself_in_windows_of_its_own():
    rows = [(t, {"step": {"loss": (-1.0) ** t}} | ({"every_3": {"rare": t}} if t % 3 == 0 else {})) for t in range(900)]
    rows.append((900, {"step": {"loss": 1.0}, "end": {"final": [3.0]}}))
    trace = store.trace_of(rows, VARIABLES)
    thinned = store.thin(trace, 100)
    assert (store.window_of(thinned, "step"), store.window_of(thinned, "every_3")) == (11, 3)
    assert (store.window_of(thinned, "end"), store.window_of(trace, "step")) == (1, 1)
    assert thinned.sizes == {"step": 82, "every_3": 100, "end": 1, "coordinate": 1}
    np.testing.assert_array_equal(thinned["rare_min"], np.arange(0, 900, 9))
    np.testing.assert_array_equal(thinned["rare"], np.arange(3, 900, 9))
    np.testing.assert_array_equal(thinned["rare_max"], np.arange(6, 900, 9))
    assert thinned["every_3"].values.tolist() == list(range(3, 900, 9))
    assert (thinned["loss_min"][:-1] == -1).all() and (thinned["loss_max"] == 1).all()
    assert xr.testing.assert_identical(thinned["final"], trace["final"]) is None
    assert thinned["rare_min"].dims == ("every_3",) and "final_min" not in thinned


def test_only_the_table_that_is_too_long_is_thinned():
    rows = [(t, {"step": {"loss": t}} | ({"every_3": {"rare": t}} if t % 3 == 0 else {})) for t in range(90)]
    trace = store.trace_of(rows, VARIABLES)
    thinned = store.thin(trace, 30)
    assert xr.testing.assert_identical(thinned["rare"], trace["rare"]) is None
    assert (store.window_of(thinned, "step"), store.window_of(thinned, "every_3")) == (3, 1)
    rare = store.windowed(trace, 5, "every_3")
    assert xr.testing.assert_identical(rare["loss"], trace["loss"]) is None
    assert (store.window_of(rare, "step"), store.window_of(rare, "every_3"), rare.sizes["every_3"]) == (1, 5, 6)
