"""eoslib.chapter.experiments: an experiment says all that determines its run, and can be rebuilt from what it said."""

import dataclasses
import inspect
import json

import numpy as np
import pooch
import pytest
import torch
import xarray as xr

from eoslib import store
from eoslib.chapter import audit, experiments
from eoslib.chapter.experiments import (
    KINDS,
    AdaptiveRun,
    DescentRun,
    LandscapeRun,
    ManyStarts,
    MapRun,
    SegmentRun,
    SGDRun,
    SizesRun,
    StabilizationRun,
    TrainingRun,
    from_identity,
)
from eoslib.problems import datasets
from eoslib.store import traces

NETWORK = {
    "chapter": "test", "experiment": "e", "step_size": 2 / 5, "steps": 12, "dataset": "digits", "n": 30,
    "loss": "mse-half-sum", "hidden": (6, 5), "activation": "tanh",
}  # fmt: skip
GD = TrainingRun(**NETWORK, sharpness_every=3, eigenvalues=2, segment_every=4, segment_nodes=3)
SGD = SGDRun(**NETWORK | {"step_size": 0.1}, batch_size=7)
LANDSCAPE = LandscapeRun(
    chapter="test", experiment="l", step_size=2 / 41, steps=10, landscape="quadratic", start=(1.0, 0.5)
)
SEGMENT = SegmentRun(**NETWORK, every=5, points=3)
ADAPTIVE = AdaptiveRun(
    **NETWORK | {"step_size": 1e-3}, beta1=0.9, beta2=0.99, epsilon=1e-7, bias_correction=True, sharpness_every=3
)
STARTS = ManyStarts(
    chapter="test", experiment="s", step_size=2 / 4, steps=10, landscape="tanh_neuron", starts=5, box=3.0, seed=0
)
MAP = MapRun(
    chapter="test", experiment="m", step_size=0.4, steps=4, landscape="f4", box=(-2.0, 3.0, -1.0, 2.0), grid=32
)
SIZES = SizesRun(
    chapter="test", experiment="a", step_size=0.5, steps=3, landscape="f4", box=(-3.0, 3.0, -3.0, 3.0), grid=64
)
ANY = {
    "chapter": "test", "experiment": "a", "dataset": "digits", "n": 30, "steps": 12, "activation": "swish",
    "bias_init": "zero",
}  # fmt: skip
STABILIZATION = StabilizationRun(
    **ANY, step_size=2 / 10, data_options={"classes": [8, 9]}, loss="mse-binary", architecture="mlp",
    sizes={"hidden": [8]}, tracked=100, every=3,
)  # fmt: skip
DESCENT = DescentRun(
    **ANY, step_size=0.5, loss="cross-entropy", architecture="cnn", sizes={"width": 2}, every=3, eigenvalues=2,
    test_n=20, schedule="inverse-sharpness",
)  # fmt: skip
EACH = (GD, SGD, LANDSCAPE, SEGMENT, ADAPTIVE, STARTS, MAP, SIZES, STABILIZATION, DESCENT)
ALL = pytest.mark.parametrize("experiment", EACH, ids=lambda e: e.kind)


# --- identities ------------------------------------------------------------------------------------------


@ALL
def test_the_identity_is_complete_plain_and_of_each_field(experiment):
    identity = experiment.identity
    fields = {f.name for f in dataclasses.fields(experiment)}
    assert identity.keys() == fields | {"kind", "fingerprint"}
    assert fields >= set(inspect.signature(type(experiment)).parameters)
    assert json.loads(json.dumps(identity)) == store.plain(identity)


@ALL
def test_an_experiment_is_rebuilt_from_what_the_store_read(experiment):
    stored = json.loads(json.dumps(experiment.identity))
    rebuilt = from_identity(stored)
    assert rebuilt == experiment and type(rebuilt) is type(experiment)
    assert store.key_of(rebuilt.identity) == store.key_of(experiment.identity)


def test_every_kind_is_tested_here():
    assert {type(e) for e in EACH} == set(KINDS.values())


def test_the_fingerprint_is_of_the_data_with_its_options():
    plain, other = (dataclasses.replace(GD, dataset="power_law", data_options={"seed": seed}) for seed in (0, 1))
    assert GD.fingerprint == datasets.fingerprint("digits")
    assert plain.fingerprint == datasets.fingerprint("power_law", seed=0) != other.fingerprint
    assert LANDSCAPE.fingerprint == ""


def test_absent_data_have_no_fingerprint_and_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "nothing"))
    absent = dataclasses.replace(GD, dataset="cifar10")
    assert absent.identity["fingerprint"] is None
    assert "not on this machine" in absent.data_warning
    with pytest.raises(datasets.DataAbsent):
        experiments.carry_on(absent)
    assert store.find(absent.identity) is None


# --- processes -------------------------------------------------------------------------------------------


@ALL
def test_a_run_is_what_its_experiment_says(experiment):
    run = experiments.carry_on(experiment)
    assert run.trace.sizes["step"] == experiment.steps
    assert run.step_size == experiment.step_size
    assert run.identity == store.plain(experiment.identity)


def test_a_training_run_measures_what_was_asked_when_it_was_asked():
    trace = experiments.carry_on(GD).trace
    assert np.flatnonzero(np.isfinite(trace["sharpness"])).tolist() == [0, 3, 6, 9]
    assert trace.sizes["eigenvalue"] == 2
    assert np.flatnonzero(np.isfinite(trace["segment_smoothness"]).all("tau")).tolist() == [0, 4, 8]
    assert trace.sizes["tau"] == 3
    bare = experiments.carry_on(dataclasses.replace(GD, sharpness_every=0, segment_every=0)).trace
    assert not {"sharpness", "eigenvalues", "segment_smoothness"} & set(bare)
    np.testing.assert_array_equal(bare["loss"], trace["loss"])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_precision_is_that_of_theta_and_of_the_data(precision):
    process = dataclasses.replace(GD, precision=precision).process(torch.device("cpu"))
    assert process.theta.dtype == process.objective.inputs.dtype == getattr(torch, precision)


def test_the_seed_is_of_the_network_and_of_the_batches():
    zero, one = (dataclasses.replace(SGD, seed=seed).process(torch.device("cpu")) for seed in (0, 1))
    assert not torch.equal(zero.theta, one.theta)
    for process in (zero, one):
        process.step()
    assert not torch.equal(zero.order, one.order)


def test_a_landscape_run_records_theta_from_its_start():
    theta = experiments.carry_on(LANDSCAPE).trace["theta"]
    expected = np.array([1, 0.5]) * (1 - 2 / 41 * np.array([40, 2])) ** np.arange(10)[:, None]
    np.testing.assert_allclose(theta, expected, rtol=1e-12)


def test_a_budget_and_fresh_are_passed_on():
    assert experiments.carry_on(GD, budget=0) is None
    assert store.status(GD.identity) == "at step 0"
    run = experiments.carry_on(GD)
    assert experiments.carry_on(GD, budget=0).manifest == run.manifest  # found, nothing to do
    assert experiments.carry_on(GD, budget=0, fresh=True) is None


# --- networks of any architecture ---------------------------------------------------------------------------

SIZES_OF = {
    "mlp": {"hidden": [3]},
    "cnn": {"width": 2},
    "resnet18": {"widths": [2, 4], "groups": 2},
    "transformer": {"width": 4, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize("loss, d_out", [("mse-binary", 1), ("cross-entropy", 2)])
@pytest.mark.parametrize("architecture", SIZES_OF)
def test_every_architecture_is_built_for_its_data(architecture, loss, d_out):
    experiment = dataclasses.replace(STABILIZATION, architecture=architecture, sizes=SIZES_OF[architecture], loss=loss)
    objective, theta = experiment.problem(torch.device("cpu"))
    assert objective.evaluate(theta).outputs.shape == (30, d_out)
    seconds, memory = experiment.gradient_cost(30)
    assert seconds > 0 and memory > 4 * len(theta)


def test_a_transformer_takes_the_rows_of_an_image_or_the_words_of_a_phrase():
    images = dataclasses.replace(STABILIZATION, architecture="transformer", sizes=SIZES_OF["transformer"])
    assert images.network().embedding.shape == images.network().positions.shape == (8, 4)
    phrases = dataclasses.replace(images, dataset="sst2", data_options={"vocabulary": 50, "length": 7})
    assert phrases.network().embedding.shape == (50, 4) and phrases.network().positions.shape == (7, 4)


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="unknown architecture 'rnn'; there are mlp, cnn, resnet18, transformer"):
        dataclasses.replace(STABILIZATION, architecture="rnn").network()


def test_stabilization_approaches_in_single_and_tracks_in_double_precision():
    process = STABILIZATION.process(torch.device("cpu"))
    assert process.theta.dtype == process.approach.inputs.dtype == torch.float32
    assert process.objective.inputs.dtype == torch.float64
    trace = experiments.carry_on(STABILIZATION).trace
    tracked = np.isfinite(trace["constrained_loss"].values)
    assert tracked.argmax() > 0 and tracked[tracked.argmax() :].all()  # from the onset on


def test_held_out_digits_are_those_after_the_training_examples():
    together = datasets.load("digits", 50)
    held_out = DESCENT._held_out()
    assert torch.equal(held_out.inputs, together.inputs[30:]) and torch.equal(held_out.labels, together.labels[30:])
    with pytest.raises(ValueError, match="digits has no test split"):
        dataclasses.replace(DESCENT, data_options={"classes": [8, 9]})._held_out()


def test_a_descent_measures_what_was_asked_when_it_was_asked():
    trace = experiments.carry_on(DESCENT).trace
    for name in ("sharpness", "test_loss", "test_accuracy"):
        assert np.flatnonzero(np.isfinite(trace[name])).tolist() == [0, 3, 6, 9]
    assert trace.sizes["eigenvalue"] == 2
    np.testing.assert_allclose(trace["eta"][::3], np.minimum(0.5, 1 / trace["sharpness"][::3]))
    plain = experiments.carry_on(dataclasses.replace(DESCENT, test_n=0, schedule="constant")).trace
    assert not {"test_loss", "eta"} & set(plain)


# --- device ----------------------------------------------------------------------------------------------


def test_a_gpu_that_is_absent_is_an_error_not_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        monkeypatch.setenv("EOSLIB_DEVICE", name)
        with pytest.raises(RuntimeError, match=f"'{name}' was asked for, but PyTorch sees no GPU"):
            experiments.carry_on(GD)
    monkeypatch.delenv("EOSLIB_DEVICE")
    assert experiments.device() == torch.device("cpu")


# --- collect ---------------------------------------------------------------------------------------------


def test_collect_computes_what_is_missing_in_order(shown):
    collected = experiments.collect([SGD, GD, LANDSCAPE])
    assert [run.identity["kind"] for run in collected] == ["SGDRun", "TrainingRun", "LandscapeRun"]
    assert shown == []


def test_collect_shows_what_it_may_not_compute_with_the_command_that_does(shown, monkeypatch):
    experiments.carry_on(SGD)
    monkeypatch.setenv("EOSLIB_COMPUTE", "0")
    monkeypatch.setenv("EOSLIB_OPTIONS", "--preset paper")
    twice = [GD, dataclasses.replace(GD, seed=1)]
    collected = experiments.collect([SGD, *twice, LANDSCAPE])
    assert [run.identity["kind"] for run in collected] == ["SGDRun", "LandscapeRun"]  # landscapes cost nothing
    assert store.status(GD.identity) == "not started"
    (box,) = shown
    record = box["data"]["application/vnd.eoslib.notrun+json"]
    command = "python -m eoslib compute test --preset paper --only e"
    assert (record["experiment"], record["missing"], record["command"]) == ("e", 2, command)
    assert record["minutes"] > 0
    assert command in box["data"]["text/html"] and "Not run at this preset" in box["data"]["text/html"]


def test_provenance_says_what_the_runs_were_made_from(shown):
    experiments.provenance(experiments.collect([GD, SGD]), experiments.collect([GD, LANDSCAPE]))
    rows = shown[0]["data"]["application/vnd.eoslib.provenance+json"]
    assert rows["runs"] == "3, of which 0 recorded"
    assert datasets.fingerprint("digits")[:12] in rows["data"]
    assert rows["precision"] == "float32"
    assert rows["PyTorch"] == torch.__version__
    assert store.library_sha256()[:12] in rows["library"]
    counted = [experiments.carry_on(e).manifest["gradients"] for e in (GD, SGD, LANDSCAPE)]
    assert rows["gradients"] == f"{sum(counted):,}"
    assert all(name in shown[0]["data"]["text/html"] for name in rows)


# --- cost ------------------------------------------------------------------------------------------------


@ALL
def test_the_estimated_cost_is_positive_and_grows_with_the_steps(experiment):
    seconds, memory = experiment.cost()
    assert seconds > 0 and memory > 0
    assert dataclasses.replace(experiment, steps=120).cost()[0] > seconds


@pytest.mark.parametrize(
    "more",
    [{"n": 300}, {"hidden": (60, 50)}, {"sharpness_every": 1}, {"eigenvalues": 4}, {"segment_every": 1},
     {"segment_nodes": 30}, {"dataset": "cifar10"}, {"precision": "float64"}],
    ids=str,
)  # fmt: skip
def test_the_estimated_cost_grows_with_all_that_costs(more):
    seconds, memory = GD.cost()
    larger = dataclasses.replace(GD, **more).cost()
    assert larger[0] > seconds
    assert larger[1] >= memory


def test_the_estimated_cost_of_sgd_grows_with_the_batch():
    assert dataclasses.replace(SGD, n=3000, batch_size=3000).cost()[0] > dataclasses.replace(SGD, n=3000).cost()[0]


# --- audit -----------------------------------------------------------------------------------------------


def recorded(experiment):
    store.record(experiments.carry_on(experiment))
    return next(run for run in store.recorded_runs() if run.identity["kind"] == experiment.kind)


def tampered(run, name, factor, step=1):
    trace = run.trace.copy(deep=True)
    trace[name].values[step] *= factor
    return dataclasses.replace(run, trace=trace)


@ALL
def test_a_recorded_run_is_recomputed_bit_for_bit(experiment):
    run = recorded(experiment)
    assert audit.audit(run) == []
    assert audit.audit(experiments.carry_on(experiment)) == []  # the store's float64 too


@ALL
def test_one_unit_in_the_last_place_is_noticed_on_the_same_machine(experiment):
    name = {"SGDRun": "batch_loss", "MapRun": "point_steps", "SizesRun": "eta"}.get(experiment.kind, "loss")
    run = recorded(experiment)
    begin = int(np.isfinite(run.trace.constrained_loss.values).argmax()) if experiment.kind == "StabilizationRun" else 0
    run = tampered(run, name, 1 + 2**-23, begin + 1)
    (difference,) = audit.audit(run)
    assert difference.startswith(f"step {begin + 1}: {name} is ")
    assert audit.audit(run, steps=1) == []  # only the steps asked for, of a StabilizationRun after its onset


def test_a_vector_and_a_value_that_should_not_be_there_are_noticed():
    run = recorded(GD)
    trace = run.trace.copy(deep=True)
    trace["segment_smoothness"].values[4, 1] *= 2
    trace["accuracy"].values[2] = np.nan
    differences = audit.audit(dataclasses.replace(run, trace=trace))
    assert [d.split(" is ")[0] for d in differences] == ["step 2: accuracy", "step 4: segment_smoothness"]


def test_an_observable_that_the_trace_lacks_is_named():
    run = recorded(GD)
    without = dataclasses.replace(run, trace=run.trace.drop_vars("accuracy"))
    assert audit.audit(without) == ["accuracy is not in the trace"]


def test_another_machine_may_differ_by_a_thousandth():
    run = recorded(GD)
    elsewhere = dataclasses.replace(run, manifest=run.manifest | {"machine": {"processor": "abacus"}})
    assert audit.audit(tampered(elsewhere, "loss", 1.0009)) == []
    assert len(audit.audit(tampered(elsewhere, "loss", 1.0011))) == 1


def test_a_search_may_find_the_same_by_another_way():
    """Its result is right to a tolerance, on this machine too; what it cost is no result."""
    run = recorded(GD)
    for name in ("products", "sharpness_residual"):
        assert audit.audit(tampered(run, name, 2, step=3)) == []
    assert audit.audit(tampered(run, "sharpness", 1.0009, step=3)) == []
    assert len(audit.audit(tampered(run, "sharpness", 1.0011, step=3))) == 1
    alignment = run.trace.alignment.values[3]
    assert audit.audit(tampered(run, "alignment", 1 + 0.009 / alignment, step=3)) == []
    assert len(audit.audit(tampered(run, "alignment", 1 + 0.011 / alignment, step=3))) == 1


def test_a_lower_bound_may_be_raised_by_a_longer_search():
    run = recorded(STABILIZATION)
    onset = int(np.isfinite(run.trace.constrained_loss.values).argmax())
    assert audit.audit(tampered(run, "rho_4", 1.09, onset)) == []
    assert len(audit.audit(tampered(run, "rho_4", 1.12, onset))) == 1


def test_an_audit_keeps_our_number_of_threads_and_uses_the_runs():
    run = recorded(GD)
    torch.set_num_threads(2)
    try:
        assert audit.audit(run) == []
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_diverged_run_can_be_audited():
    diverging = dataclasses.replace(LANDSCAPE, landscape="linear_neuron", start=(13.0, 1.0), step_size=1.0, steps=100)
    run = recorded(diverging)
    assert run.diverged_at is not None and run.trace.sizes["step"] < 20
    assert audit.audit(run) == []


def test_a_thinned_run_can_be_audited(monkeypatch):
    """Its first windows are compared with the mean, minimum and maximum of as many recomputed steps."""
    monkeypatch.setattr(traces, "MAX_RECORDED_POINTS", 4)
    monkeypatch.setattr(store.thin, "__defaults__", (4,))
    run = recorded(GD)
    assert run.trace.attrs["window"] == 3
    assert audit.audit(run) == []
    for name in ("loss", "loss_min", "loss_max"):
        assert audit.audit(tampered(run, name, 1.01)), name


def test_traces_are_labelled():
    trace = experiments.carry_on(GD).trace
    assert isinstance(trace, xr.Dataset)
    assert all(v.attrs["long_name"] and v.attrs["units"] for v in trace.variables.values())


def test_many_starts_are_as_many_runs():
    """The gradient of the summed function is each point's own."""
    together = experiments.carry_on(STARTS).trace.theta
    first, last = together[0].values.reshape(-1, 2), together[-1].values.reshape(-1, 2)
    for before, after in zip(first, last, strict=True):
        assert abs(before).max() <= STARTS.box
        alone = LandscapeRun(
            chapter="test", experiment="alone", step_size=STARTS.step_size, steps=STARTS.steps,
            landscape=STARTS.landscape, start=tuple(before),
        )  # fmt: skip
        assert experiments.carry_on(alone).trace.theta[-1].values == pytest.approx(after, rel=1e-12)
