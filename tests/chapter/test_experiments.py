"""eoslib.chapter.experiments: an experiment says all that determines its run, and can be rebuilt from what it said."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pooch
import pytest
import torch
import xarray as xr
from declared import (
    EACH,
    GD,
    LANDSCAPE,
    NAMED,
    ON_DISK,
    SCHEDULED,
    SEGMENT,
    SGD,
    SHARPNESS,
    STABILIZATION,
    STABLE,
    TOGETHER,
    WARM,
    carried_on,
    changed,
)  # fmt: skip

from eoslib import store
from eoslib.chapter import experiments
from eoslib.chapter.experiments import Descent, Experiment, ManyStarts, built, described, differing
from eoslib.dynamics.rules import Rule
from eoslib.measure.curvature import Sharpness
from eoslib.measure.progress import HeldOut, Loss, Progress
from eoslib.measure.variables import Measurement, Variable
from eoslib.problems import datasets, networks
from eoslib.problems.batches import Batches
from eoslib.problems.problem import Data, Network, Training

ROOT = Path(__file__).resolve().parents[2]

ALL = pytest.mark.parametrize("experiment", EACH, ids=list(NAMED))
CPU = torch.device("cpu")


# --- identities ------------------------------------------------------------------------------------------


def parts_of(value):
    """A declaration and all dataclasses inside it."""
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from parts_of(getattr(value, field.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from parts_of(part)


def plain_parts(values):
    """The dicts among plain values that say what they are."""
    if isinstance(values, dict):
        if "is" in values:
            yield values
        for inner in values.values():
            yield from plain_parts(inner)
    elif isinstance(values, list):
        for inner in values:
            yield from plain_parts(inner)


@ALL
def test_the_identity_is_complete_plain_and_of_each_field(experiment):
    values = experiment.identity.values
    assert json.loads(json.dumps(values)) == values == store.plain(values)
    assert values["fingerprint"] == experiment.fingerprint
    parts = list(parts_of(experiment))
    assert len(parts) > 1 or experiment.identity.fingerprint == ""
    told = list(plain_parts(values))
    assert [part["is"] for part in told] == [type(part).__name__ for part in parts]
    for part, plain in zip(parts, told, strict=True):
        assert plain.keys() - {"is", "fingerprint"} == {f.name for f in dataclasses.fields(part)}


@ALL
def test_an_experiment_is_rebuilt_from_what_the_store_read(experiment):
    stored = json.loads(json.dumps(experiment.identity.values))
    rebuilt = built(stored)
    assert type(rebuilt) is type(experiment)
    assert rebuilt.identity == experiment.identity
    assert (rebuilt.identity.key, rebuilt.identity.family) == (experiment.identity.key, experiment.identity.family)
    assert [type(part) for part in parts_of(rebuilt)] == [type(part) for part in parts_of(experiment)]
    assert built(described(rebuilt)) == rebuilt  # tuples where there may have been lists, and hashable where it was


def test_every_kind_and_every_measurement_is_tested_here():
    """With none of its defaults somewhere, so that nothing is rebuilt by chance. ManyStarts has tests of its own."""
    theirs = [part for experiment in (*EACH, ON_DISK) for part in parts_of(experiment)]

    def ours(kind):
        return {sub for sub in experiments._subclasses(kind) if sub.__module__.startswith("eoslib.")}

    wanted = (ours(Experiment) - {ManyStarts}) | ours(Measurement)
    wanted |= {type(part) for part in theirs if not isinstance(part, Experiment | Measurement)}
    assert {Data, Network, Training, Rule, Batches} < wanted
    for kind in wanted:
        for field in dataclasses.fields(kind):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            values = [getattr(part, field.name) for part in theirs if type(part) is kind]
            exempt = field.name in ("every", "tolerance", "rule") or default is dataclasses.MISSING
            assert values and (exempt or any(value != default for value in values)), f"{kind.__name__}.{field.name}"


def test_keys_differ_where_anything_that_counts_does():
    keys = [e.identity.key for e in EACH]
    assert len(set(keys)) == len(keys)
    others = [
        changed(GD, **{name: value})
        for name, value in {
            "n": 31, "standardisation": "per-channel", "dataset": "power_law", "data_options": {"classes": [1, 2]},
            "sizes": {"hidden": [6, 6]}, "activation": "elu", "bias_init": "zero", "loss": "cross-entropy",
            "step_size": 0.3, "steps": 13, "seed": 1, "precision": "float64", "stop_accuracy": 0.5, "keep": (1,),
            "rule": Rule(name="SGD"), "batches": Batches(flip=True), "measurements": (SHARPNESS,),
        }.items()
    ]  # fmt: skip
    assert len({GD.identity.key, *(e.identity.family for e in others)}) == 1 + len(others)


def test_labels_name_no_run():
    assert dataclasses.replace(GD, chapter="another", experiment="too").identity.key == GD.identity.key


def test_a_field_that_comes_later_changes_no_key_until_it_is_used():
    later = dataclasses.make_dataclass(
        "Batches", [("later", int, 0)], bases=(Batches,), frozen=True, kw_only=True
    )  # an eighth field of the same name
    for experiment in (SGD, SCHEDULED):
        given = {f.name: getattr(experiment.batches, f.name) for f in dataclasses.fields(Batches)}
        as_before = dataclasses.replace(experiment, batches=later(**given))
        assert described(as_before.batches) != described(experiment.batches)
        assert as_before.identity.key == experiment.identity.key
        assert dataclasses.replace(experiment, batches=later(**given, later=1)).identity.key != experiment.identity.key


def test_what_was_stored_before_a_field_came_is_rebuilt_with_its_default():
    stored = json.loads(json.dumps(SGD.identity.values))
    del stored["stop_accuracy"], stored["batches"]["crop"], stored["problem"]["data"]["standardisation"]
    assert built(stored).identity == SGD.identity


@pytest.mark.parametrize("kind, experiment", [(Descent, GD), (Batches, SGD), (Sharpness, GD)])
def test_a_raised_revision_makes_other_runs_of_what_it_concerns(kind, experiment, monkeypatch):
    unconcerned = LANDSCAPE if kind is Sharpness else STABILIZATION  # a default part concerns, too
    before, before_too = experiment.identity.key, unconcerned.identity.key
    monkeypatch.setattr(kind, "revision", 2, raising=False)
    assert experiment.identity.key != before
    assert unconcerned.identity.key == before_too
    monkeypatch.setattr(kind, "revision", 1, raising=False)
    assert experiment.identity.key == before


def test_the_fingerprint_is_of_the_data_with_its_options():
    plain, other = (changed(GD, dataset="power_law", data_options={"seed": seed}) for seed in (0, 1))
    assert GD.fingerprint == datasets.fingerprint("digits")
    assert plain.fingerprint == datasets.fingerprint("power_law", seed=0) != other.fingerprint
    assert LANDSCAPE.fingerprint == ""


def test_absent_data_have_no_fingerprint_and_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "nothing"))
    absent = changed(GD, dataset="cifar10")
    assert absent.identity.fingerprint is absent.identity.values["fingerprint"] is None
    assert "not on this machine" in absent.problem.data.warning
    with pytest.raises(datasets.DataAbsent):
        experiments.carry_on(absent)
    assert store.find(absent.identity) is None


# --- another measurement -----------------------------------------------------------------------------------


def test_another_measurement_makes_another_run_of_that_experiment_and_of_no_other():
    before = {name: e.identity.key for name, e in NAMED.items()}
    asked = dataclasses.replace(GD, measurements=(*GD.measurements, HeldOut(every=4, examples=10)))
    assert {name: e.identity.key for name, e in NAMED.items()} == before
    assert asked.identity.key not in before.values()
    earlier, run = experiments.carry_on(GD), experiments.carry_on(asked)
    assert np.isfinite(run.trace.test_loss).sum() == 3 and "test_loss" not in earlier.trace
    for name in earlier.trace.data_vars:  # it looks on, and changes nothing
        np.testing.assert_array_equal(run.trace[name], earlier.trace[name], name)
    assert store.find(GD.identity).key == earlier.key  # still there


@pytest.mark.parametrize("base", [GD, SGD], ids=["gd", "sgd"])
@pytest.mark.parametrize("every, steps", [(1, range(12)), (5, [0, 5, 10]), ((3, 4), [3, 4]), ("end", [12])], ids=str)
def test_a_new_observable_is_one_class(base, every, steps):
    """Which works along any rule, is stored and read back, and changes no key of those that do not ask for it."""
    before = {name: e.identity.key for name, e in NAMED.items()}

    @dataclass(frozen=True, kw_only=True)
    class Length(Measurement):
        power: float = 1.0
        variables: ClassVar = {"length": Variable("‖θ‖^power", units="m"), "first": Variable("θ", dims=("some",))}

        def measure(self, point, step_size):
            return {"length": point.theta.norm() ** self.power, "first": point.theta[:3].tolist()}

    assert {name: e.identity.key for name, e in NAMED.items()} == before
    asked = dataclasses.replace(base, measurements=(*base.measurements, Length(every=every, power=2.0)), keep=(0, 4))
    experiments.carry_on(asked)
    run = store.find(asked.identity)  # as it lies on the disk
    length, first = run.stored["length"], run.stored["first"]
    table = {1: "step", 5: "every_5", (3, 4): "chosen", "end": "end"}[every]
    assert length.dims == (table,) and first.dims == (table, "some") and first.shape == (len(steps), 3)
    assert length[table].values.tolist() == list(steps)
    assert length.attrs == {"long_name": "‖θ‖^power", "units": "m"}
    for kept in {0, 4} & set(steps):
        assert length.sel({table: kept}).item() == (run.theta(kept).norm() ** 2).item()
        assert first.sel({table: kept}).values.tolist() == run.theta(kept)[:3].tolist()
    assert built(run.identity).identity == asked.identity
    assert built(run.identity).measurements == asked.measurements
    process = base.process(CPU)
    for _ in range(12):
        process.step()
    if every == "end":
        assert length.item() == (process.theta.norm() ** 2).item()
    without = experiments.carry_on(base).trace
    for name in without.data_vars:
        np.testing.assert_array_equal(run.trace[name], without[name], name)


def test_two_measurements_of_the_same_are_refused():
    with pytest.raises(ValueError, match="two measurements yield alignment, eigenvalues"):
        dataclasses.replace(GD, measurements=(SHARPNESS, Sharpness(every=2))).process(CPU)


# --- processes -------------------------------------------------------------------------------------------


@ALL
def test_a_run_is_what_its_experiment_says(experiment):
    run = carried_on(experiment)
    assert run.manifest["step"] == experiment.steps
    assert run.trace["step"].values[-1] < experiment.steps
    if experiment is not NAMED["between"]:  # of which nothing is measured at every step
        assert run.trace["step"].values.tolist() == list(range(experiment.steps))
    assert run.step_size == experiment.step_size
    assert run.identity == experiment.identity.values
    assert run.key == experiment.identity.key


def test_a_training_run_measures_what_was_asked_when_it_was_asked():
    trace = experiments.carry_on(GD).trace
    assert np.flatnonzero(np.isfinite(trace["sharpness"])).tolist() == [0, 3, 6, 9]
    assert trace.sizes["eigenvalue"] == 2
    assert np.flatnonzero(np.isfinite(trace["segment_smoothness"]).all("tau")).tolist() == [0, 4, 8]
    assert trace.sizes["tau"] == 3
    bare = experiments.carry_on(dataclasses.replace(GD, measurements=())).trace
    assert not {"sharpness", "eigenvalues", "segment_smoothness"} & set(bare)
    np.testing.assert_array_equal(bare["loss"], trace["loss"])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_precision_is_that_of_theta_and_of_the_data(precision):
    process = dataclasses.replace(GD, precision=precision).process(CPU)
    assert process.theta.dtype == process.objective.inputs.dtype == getattr(torch, precision)


def test_the_seed_is_of_the_network_and_of_the_batches():
    zero, one = (dataclasses.replace(SGD, seed=seed).process(CPU) for seed in (0, 1))
    assert not torch.equal(zero.theta, one.theta)
    for process in (zero, one):
        process.step()
    assert not torch.equal(zero.batches.order, one.batches.order)


def test_one_repeat_is_plain_sgd_and_repeats_of_the_whole_data_are_steps_of_gradient_descent():
    """The first bit for bit; the second but for the order of the sum over the examples."""
    once = dataclasses.replace(SGD, batches=Batches(batch_size=7, repeats=1, repeat_epochs=1), keep=("last",))
    plain = dataclasses.replace(SGD, keep=("last",))
    assert once.identity.key != plain.identity.key
    assert torch.equal(*(experiments.carry_on(e).theta() for e in (once, plain)))
    whole = dataclasses.replace(plain, batches=Batches(batch_size=30, repeats=4), precision="float64")
    descent = dataclasses.replace(plain, batches=Batches(), precision="float64")
    torch.testing.assert_close(*(experiments.carry_on(e).theta() for e in (whole, descent)), rtol=1e-12, atol=1e-14)


# --- runs that build on others -----------------------------------------------------------------------------


def test_a_warm_start_begins_where_the_other_run_was():
    """With its own batches, momentum and schedule from their begin."""
    run = carried_on(dataclasses.replace(WARM, keep=(0, 1)))
    other = store.find(SCHEDULED.identity)
    assert torch.equal(run.theta(0), other.theta(5))
    objective, _ = SCHEDULED.problem.begin(3, "float64", CPU)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))[:8]
    gradient = objective.batch(order).gradient(other.theta(5))
    assert torch.equal(run.theta(1), other.theta(5) - 0.1 * gradient)
    last = carried_on(dataclasses.replace(WARM, keep=(0,), start_at="last"))
    assert torch.equal(last.theta(0), other.theta()) and last.key != run.key


@pytest.mark.parametrize("experiment", [WARM, TOGETHER], ids=["warm", "together"])
def test_what_is_built_on_must_be_there_before_anything_runs(experiment):
    needed = experiment.builds_on[0]
    with pytest.raises(store.StoreError, match=f"run {needed.identity.key} .* is not there: compute it first"):
        experiments.carry_on(experiment)
    assert store.status(experiment.identity) == "not started"
    for other in experiment.builds_on:  # recorded/ holds no θ
        store.record(carried_on(other))
        for path in store.home().glob(f"{other.identity.key}/*"):
            path.unlink()
    with pytest.raises(store.StoreError, match="keeps no θ"):
        experiments.carry_on(experiment)


def test_a_warm_start_is_on_the_same_problem():
    with pytest.raises(ValueError, match="on the same problem"):
        dataclasses.replace(WARM, problem=GD.problem).process(CPU)


def test_what_another_run_is_told_stands_in_the_identity_without_its_labels():
    for other in (dataclasses.replace(SCHEDULED, step_size=0.4), dataclasses.replace(SCHEDULED, keep=(5,))):
        assert dataclasses.replace(WARM, start=other).identity.key != WARM.identity.key
    labelled = dataclasses.replace(SCHEDULED, chapter="another", experiment="too")
    assert dataclasses.replace(WARM, start=labelled).identity.key == WARM.identity.key


def test_displacements_are_those_of_the_kept_theta():
    run = carried_on(TOGETHER)
    table, paths = run.trace.isel(step=0), [store.find(e.identity) for e in TOGETHER.runs]
    points = [path.theta(at) for path in paths for at in (0, 6)]
    gram = [[float((a - points[0]) @ (b - points[0])) for b in points] for a in points]
    np.testing.assert_allclose(table.gram, gram, rtol=1e-12)
    assert table.path.values.tolist() == [0, 0, 1, 1] and table["at"].values.tolist() == [0, 6, 0, 6]


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


def test_heavy_ball_for_a_cnn_with_minibatches_is_the_loop_that_pytorch_users_write():
    """torch.optim.SGD on the module itself, observed by formulas written out here, the Hessian in full."""
    n, size, eta, steps, seed = 50, 16, 0.05, 9, 2
    data, names = Data(dataset="digits", n=n), {"architecture": "cnn", "sizes": {"width": 2}, "activation": "tanh"}
    experiment = Descent(
        chapter="test", experiment="heavy ball", step_size=eta, steps=steps, precision="float64", seed=seed,
        problem=Training(data=data, network=Network(**names), loss="cross-entropy"),
        rule=Rule(name="SGD", options={"momentum": 0.9}), batches=Batches(batch_size=size), keep=("last",),
        measurements=(
            Progress(every=2), Sharpness(every=3, eigenvalues=2, tolerance=1e-8), HeldOut(every="epoch", examples=40),
        ),
    )  # fmt: skip
    run = experiments.carry_on(experiment)

    module = networks.cnn((1, 8, 8), 10, 2, "tanh", seed=seed).double()
    optimiser = torch.optim.SGD(module.parameters(), lr=eta, momentum=0.9)
    loss_of = torch.nn.CrossEntropyLoss()
    both = datasets.load("digits", n + 40)
    x, y = datasets.load("digits", n).inputs.double(), both.labels[:n]
    x_new, y_new = both.inputs[n:].double(), both.labels[n:]
    generator, order = torch.Generator().manual_seed(seed), []

    def whole():
        """Loss, gradient (p,) and accuracy on the whole data."""
        outputs = module(x)
        loss = loss_of(outputs, y)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
        return loss.item(), gradient, (outputs.argmax(1) == y).double().mean().item()

    def eigenvalues():
        """The largest, from all second derivatives."""
        at = [p.detach().clone() for p in module.parameters()]
        keys = [name for name, _ in module.named_parameters()]

        def f(theta):
            pieces = theta.split([p.numel() for p in at])
            named = {k: piece.view_as(p) for k, piece, p in zip(keys, pieces, at, strict=True)}
            return loss_of(torch.func.functional_call(module, named, (x,)), y)

        return torch.linalg.eigvalsh(torch.func.hessian(f)(torch.cat([p.flatten() for p in at]))).flip(0)[:2]

    rows, held_out = {}, {}
    for t in range(steps):
        if not order:  # an epoch begins
            order = list(torch.randperm(n, generator=generator).split(size))
            with torch.no_grad():
                outputs = module(x_new)
            held_out[t] = loss_of(outputs, y_new).item(), (outputs.argmax(1) == y_new).double().mean().item()
        row = rows[t] = {}
        if t % 3 == 0:
            row["eigenvalues"] = eigenvalues().tolist()
        before, start = whole(), networks.flatten(module)
        chosen = order.pop(0)
        optimiser.zero_grad()
        loss = loss_of(module(x[chosen]), y[chosen])
        loss.backward()
        optimiser.step()
        row["batch_loss"] = loss.item()
        if t % 2 == 0:
            after, v = whole(), start - networks.flatten(module)
            row["loss"], row["gradient_norm"], row["accuracy"] = before[0], before[1].norm().item(), before[2]
            row["relative_progress"] = (after[0] - before[0]) / (before[1] @ v).item()
            row["directional_smoothness"] = (v @ (before[1] - after[1]) / (v @ v)).item()

    assert run.stored["epoch"].values.tolist() == list(held_out) == [0, 4, 8]
    assert run.stored["every_2"].values.tolist() == [0, 2, 4, 6, 8]
    assert run.stored["every_3"].values.tolist() == [0, 3, 6]
    for t, row in rows.items():
        here = run.trace.sel(step=t)
        for name in ("batch_loss", "loss", "gradient_norm", "accuracy"):
            assert here[name].item() == pytest.approx(row.get(name, math.nan), rel=1e-12, nan_ok=True), (t, name)
        for name in ("relative_progress", "directional_smoothness"):  # differences of nearly equal numbers
            assert here[name].item() == pytest.approx(row.get(name, math.nan), rel=1e-9, nan_ok=True), (t, name)
        assert here["eigenvalues"].values == pytest.approx(
            row.get("eigenvalues", 2 * [math.nan]), rel=1e-9, nan_ok=True
        )
        assert here["sharpness"].item() == pytest.approx(row.get("eigenvalues", [math.nan])[0], rel=1e-9, nan_ok=True)
    for t, (loss, accuracy) in held_out.items():
        here = run.trace.sel(step=t)
        assert here.test_loss.item() == pytest.approx(loss, rel=1e-12) and here.test_accuracy.item() == accuracy
    torch.testing.assert_close(run.theta("last"), networks.flatten(module), rtol=1e-12, atol=1e-14)
    momentum = dataclasses.replace(experiment, rule=Rule(name="SGD"))
    assert not torch.allclose(experiments.carry_on(momentum).theta("last"), run.theta("last"), rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_is_measured_along_a_step_on_a_minibatch_does_not_change_the_step(precision):
    """Where nobody looks, θ takes the gradient's memory and is computed in one pass: rounded twice all the same."""
    alone = dataclasses.replace(SGD, steps=40, keep=("last", 7), precision=precision)
    seen = dataclasses.replace(alone, measurements=(Progress(),))
    alone, seen = experiments.carry_on(alone), experiments.carry_on(seen)
    np.testing.assert_array_equal(alone.trace.batch_loss, seen.trace.batch_loss)
    for at in ("last", 7):
        assert torch.equal(alone.theta(at), seen.theta(at))
    assert not torch.equal(alone.theta("last"), alone.theta(7))


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
    problem = changed(STABILIZATION, architecture=architecture, sizes=SIZES_OF[architecture], loss=loss).problem
    objective, theta = problem.begin(0, "float32", CPU)
    assert objective.evaluate(theta).outputs.shape == (30, d_out)
    operations, memory = problem.work("float32")
    assert operations > 1e7 and memory > 4 * len(theta)


def test_a_transformer_takes_the_rows_of_an_image_or_the_words_of_a_phrase():
    images = changed(STABILIZATION, architecture="transformer", sizes=SIZES_OF["transformer"])
    network = images.problem.build(0)
    assert network.embedding.shape == network.positions.shape == (8, 4)
    phrases = changed(images, dataset="sst2", data_options={"vocabulary": 50, "length": 7}).problem.build(0)
    assert phrases.embedding.shape == (50, 4) and phrases.positions.shape == (7, 4)


def test_a_language_model_has_outputs_for_each_token_of_a_text(monkeypatch):
    text = Data(dataset="markov", n=30, data_options={"vocabulary": 6, "length": 5})
    network = Network(architecture="transformer_xl", sizes={"segment": 2, "width": 4}, activation="relu")
    problem = Training(data=text, network=network, loss="cross-entropy")
    objective, theta = problem.begin(0, "float32", CPU)
    assert objective.evaluate(theta).outputs.shape == (30, 5, 6)
    assert objective.value(theta) == pytest.approx(np.log(6))  # since the last layer starts at zero
    whole = objective.gradient(theta)
    monkeypatch.setattr("eoslib.problems.objective.CHUNK", 20)
    assert objective.chunk == 4 and [len(part.labels) for _, part in objective.parts()] == [4] * 7 + [2]
    torch.testing.assert_close(objective.gradient(theta), whole)
    operations, memory = problem.work("float32")
    assert operations > 1e7 and memory > 4 * len(theta)


def test_an_unknown_architecture_is_named():
    known = "mlp, cnn, resnet18, resnet101, transformer"
    with pytest.raises(ValueError, match=f"unknown architecture 'rnn'; there are {known}"):
        changed(STABILIZATION, architecture="rnn").problem.build(0)


def test_stabilization_approaches_in_single_and_tracks_in_double_precision():
    process = STABILIZATION.process(CPU)
    assert process.theta.dtype == process.approach.inputs.dtype == torch.float32
    assert process.objective.inputs.dtype == torch.float64
    trace = experiments.carry_on(STABILIZATION).trace
    tracked = np.isfinite(trace["constrained_loss"].values)
    assert tracked.argmax() > 0 and tracked[tracked.argmax() :].all()  # from the onset on
    assert STABILIZATION.onset(trace) == tracked.argmax()
    assert STABILIZATION.onset(trace.drop_vars("constrained_loss")) == 0


def test_held_out_digits_are_those_after_the_training_examples():
    together = datasets.load("digits", 50)
    held_out = STABLE.problem.data.held_out(20)
    assert torch.equal(held_out.inputs, together.inputs[30:]) and torch.equal(held_out.labels, together.labels[30:])
    with pytest.raises(ValueError, match="digits has no test split"):
        changed(STABLE, data_options={"classes": [8, 9]}).problem.data.held_out(20)


def test_a_descent_with_a_schedule_measures_what_was_asked_when_it_was_asked():
    trace = experiments.carry_on(STABLE).trace
    for name in ("sharpness", "test_loss", "test_accuracy"):
        assert np.flatnonzero(np.isfinite(trace[name])).tolist() == [0, 3, 6, 9]
    assert trace.sizes["eigenvalue"] == 2
    np.testing.assert_allclose(trace["eta"][::3], np.minimum(4, 1 / trace["sharpness"][::3]))
    assert trace["eta"].min() < 4
    plain = experiments.carry_on(changed(STABLE, measurements=(), schedule=GD.schedule)).trace
    assert not {"test_loss", "eta"} & set(plain)


# --- device ----------------------------------------------------------------------------------------------


def test_a_gpu_that_is_absent_is_an_error_not_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        monkeypatch.setenv("EOSLIB_DEVICE", name)
        with pytest.raises(RuntimeError, match=f"'{name}' was asked for, but PyTorch sees no GPU"):
            experiments.carry_on(GD)
    monkeypatch.delenv("EOSLIB_DEVICE")
    assert store.default_device() == CPU


# --- collect ---------------------------------------------------------------------------------------------


def test_collect_computes_what_is_missing_in_order(shown):
    collected = experiments.collect([SGD, GD, LANDSCAPE])
    assert [run.key for run in collected] == [e.identity.key for e in (SGD, GD, LANDSCAPE)]
    assert shown == []


def test_collect_shows_what_it_may_not_compute_with_the_command_that_does(shown, monkeypatch):
    experiments.carry_on(SGD)
    monkeypatch.setenv("EOSLIB_COMPUTE", "0")
    monkeypatch.setenv("EOSLIB_OPTIONS", "--preset paper")
    twice = [GD, dataclasses.replace(GD, seed=1)]
    collected = experiments.collect([SGD, *twice, LANDSCAPE])
    assert [run.key for run in collected] == [e.identity.key for e in (SGD, LANDSCAPE)]  # landscapes cost nothing
    assert store.status(GD.identity) == "not started"
    (box,) = shown
    record = box["data"]["application/vnd.eoslib.notrun+json"]
    command = "python -m eoslib compute test --preset paper --only e"
    assert (record["experiment"], record["missing"], record["command"]) == ("e", 2, command)
    assert record["minutes"] > 0
    assert command in box["data"]["text/html"] and "Not run at this preset" in box["data"]["text/html"]


def test_traces_are_labelled():
    for experiment in (GD, SGD, SCHEDULED):
        stored = experiments.carry_on(experiment).stored
        assert isinstance(stored, xr.Dataset)
        assert all(v.attrs["long_name"] and v.attrs["units"] for v in stored.variables.values())


def test_a_declaration_cannot_be_changed_and_may_be_copied():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GD.steps = 13
    with pytest.raises(dataclasses.FrozenInstanceError):
        GD.problem.data.n = 13
    assert copy.deepcopy(GD) == GD and differing(copy.deepcopy(GD)) == differing(GD)
    assert SEGMENT in GD.measurements and isinstance(Loss(), Measurement)


def test_every_measurement_of_the_library_can_be_built_where_nothing_else_was_imported():
    """As `audit` does, which imports no chapter."""
    values = {"is": "Position", "every": 3}
    code = f"from eoslib.chapter.experiments import built; print(built({values}).table)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "every_3\n", done.stderr
