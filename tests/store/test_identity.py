"""store.identity: what names a run, and what does not."""

import dataclasses
import json
from dataclasses import field, fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from walk import VALUES, Walk, never

from eoslib import store
from eoslib.chapter import experiments
from eoslib.chapter.experiments import Data, Descent, Experiment, Network, OnLandscape, Training
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.curvature import Sharpness
from eoslib.measure.progress import Progress
from eoslib.problems import datasets
from eoslib.problems.batches import Batches
from eoslib.store import identity as identities

DATA = Data(dataset="digits", n=40)
NETWORK = Network(architecture="mlp", sizes={"hidden": [8]}, activation="tanh")
TRAINING = Training(data=DATA, network=NETWORK, loss="mse-half-sum")
GD = Descent(chapter="test", experiment="gd", step_size=2 / 5, steps=300, problem=TRAINING)
OTHERWISE = {
    "chapter": "another", "experiment": "another", "step_size": 0.25, "steps": 301,
    "problem": replace(TRAINING, loss="cross-entropy"), "rule": Rule(name="SGD"), "schedule": Schedule(name="StepLR"),
    "batches": Batches(batch_size=7), "measurements": (Progress(),), "precision": "float64", "seed": 1,
    "stop_accuracy": 0.9, "keep": ("last",), "start": GD, "start_at": 7,
}  # fmt: skip


# --- keys of experiments --------------------------------------------------------------------------------------


def test_every_field_is_given_another_value_below():
    assert OTHERWISE.keys() == {f.name for f in fields(Descent)}


@pytest.mark.parametrize("name", sorted(OTHERWISE.keys() - {"chapter", "experiment"}))
def test_every_field_of_an_experiment_that_differs_changes_the_key(name):
    changed = replace(GD, **{name: OTHERWISE[name]}).identity
    assert changed.key != GD.identity.key
    assert changed.family != GD.identity.family


@pytest.mark.parametrize(
    "parts",
    [
        {"data": replace(DATA, n=41)},
        {"data": replace(DATA, data_options={"classes": [0, 1]})},
        {"data": replace(DATA, standardisation="per-channel")},
        {"network": replace(NETWORK, sizes={"hidden": [9]})},
        {"network": replace(NETWORK, activation="relu")},
        {"network": replace(NETWORK, bias_init="zero")},
    ],
    ids=str,
)
def test_a_field_deep_inside_that_differs_changes_the_key(parts):
    assert replace(GD, problem=replace(TRAINING, **parts)).identity.family != GD.identity.family


def test_measurements_are_named_by_what_they_are_and_how_often():
    kinds = [(), (Progress(),), (Progress(every=2),), (Sharpness(),), (Sharpness(eigenvalues=2),)]
    kinds += [(Progress(), Sharpness()), (Sharpness(), Progress())]
    assert len({replace(GD, measurements=kind).identity.key for kind in kinds}) == len(kinds)


def test_chapter_and_experiment_are_labels_and_change_no_key():
    relabelled = replace(GD, chapter="another", experiment="other").identity
    assert (relabelled.key, relabelled.family) == (GD.identity.key, GD.identity.family)
    assert (relabelled.values["chapter"], relabelled.values["experiment"]) == ("another", "other")


def test_two_labels_of_one_key_share_one_run():
    hill = Descent(
        chapter="one",
        experiment="a",
        step_size=0.01,
        steps=5,
        problem=OnLandscape(landscape="quadratic", start=(1.0, 1.0)),
    )
    run = experiments.carry_on(hill)
    other = replace(hill, chapter="two", experiment="b")
    assert experiments.collect([other])[0].manifest == run.manifest
    assert store.carry_on(Walk(hook=never), other.identity).manifest == run.manifest
    assert store.status(other.identity) == "finished"
    assert [row["key"] for row in store.listing()] == [run.key]


def test_values_that_are_equal_make_one_key_whether_listed_or_in_a_tuple():
    hidden = replace(NETWORK, sizes={"hidden": (8,)})
    same = replace(GD, problem=replace(TRAINING, network=hidden), measurements=[], keep=[])
    assert same.identity.key == GD.identity.key


def experiment_with(more, revision=1):
    """A kind of experiment as it was, or as it is after it got more fields; both are called the same."""
    base = [("widths", tuple, field(default=(3, 4))), ("part", Rule, field(default=Rule()))]
    made = dataclasses.make_dataclass(
        "Kind", [*base, *more], bases=(Experiment,), namespace={"revision": revision}, frozen=True, kw_only=True
    )
    return lambda **given: made(chapter="c", experiment="e", step_size=0.5, steps=10, **given)


def test_a_field_more_that_is_equal_to_its_default_leaves_every_key_as_it_was():
    before = experiment_with([])
    after = experiment_with(
        [
            ("more", int, field(default=7)),
            ("options", dict, field(default_factory=dict)),
            ("p", Rule, field(default=Rule())),
        ]
    )
    for given_ in ({}, {"widths": (5,)}, {"part": Rule(name="Adam", options={"betas": (0.9, 0.99)})}):
        assert before(**given_).identity.key == after(**given_).identity.key
        assert before(**given_).identity.values.keys() < after(**given_).identity.values.keys()
    keys = {after().identity.key, after(more=8).identity.key, after(options={"a": 1}).identity.key}
    keys |= {after(p=Rule(name="Adam")).identity.key}
    assert len(keys) == 4


def test_a_field_that_has_its_default_is_said_but_not_hashed():
    identity = GD.identity
    assert identity.values["batches"] == experiments.described(Batches())
    assert "batches" not in identity.differing
    assert replace(GD, batches=Batches(batch_size=None, repeats=1)).identity.key == identity.key


def test_a_raised_revision_changes_the_key():
    first, second = experiment_with([])(), experiment_with([], revision=2)()
    assert first.identity.key != second.identity.key
    assert first.identity.values == second.identity.values


@pytest.mark.parametrize("part", [Rule, Schedule, Batches, Training, Data, Network, Sharpness])
def test_a_raised_revision_of_a_part_changes_the_key_even_where_the_part_is_the_default(part, monkeypatch):
    experiment = replace(GD, measurements=(Sharpness(),))
    before = experiment.identity
    monkeypatch.setattr(part, "revision", 2, raising=False)
    assert experiment.identity.key != before.key
    assert experiment.identity.values == before.values


def test_the_fingerprint_changes_the_key_and_not_the_family(monkeypatch):
    before = GD.identity
    monkeypatch.setattr(datasets, "fingerprint", lambda *arguments, **options: "other data")
    after = GD.identity
    assert after.fingerprint == "other data" != before.fingerprint
    assert after.key != before.key and after.family == before.family


def test_a_key_is_what_it_has_been():
    """Were it to change, no recorded run would be found again."""
    landscape = Descent(
        chapter="c", experiment="e", step_size=0.9, steps=60, problem=OnLandscape(landscape="f2", start=(0.25, 0.5))
    )
    assert landscape.identity.differing == {
        "is": "Descent", "step_size": 0.9, "steps": 60,
        "problem": {"is": "OnLandscape", "landscape": "f2", "start": [0.25, 0.5]},
    }  # fmt: skip
    assert (landscape.identity.key, landscape.identity.family) == ("74d52f22b27c44b0", "5c27c5ee89d67661")


# --- keys of values -------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def key_of(values):
    return store.Identity(values, values).key


@given(st.dictionaries(st.text(), plain))
def test_the_key_is_of_values_alone(values):
    """Neither the order of fields nor tuples in place of lists name another run; nor does a way through JSON."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    key = key_of(values)
    assert key_of({name: tuples(values[name]) for name in reversed(values)}) == key
    assert key_of(json.loads(json.dumps(values))) == key
    assert len(key) == 16


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_value_that_differs_changes_the_key(name):
    assert key_of(VALUES | {name: "another"}) != key_of(VALUES)
    assert key_of(VALUES | {"a field more": None}) != key_of(VALUES)


def test_what_does_not_differ_is_not_in_the_key():
    assert store.Identity(VALUES | {"a field more": 3}, VALUES).key == store.Identity(VALUES, VALUES).key


def test_no_data_absent_data_and_some_data_are_three_keys_of_one_family():
    identities_ = [store.Identity(VALUES | {"fingerprint": f}, {"seed": 1}) for f in ("", None, "abc")]
    assert len({i.key for i in identities_}) == 3
    assert len({i.family for i in identities_}) == 1
    assert store.Identity({}, {"seed": 1}).key == identities_[0].key


# --- the machine ----------------------------------------------------------------------------------------------


@pytest.fixture
def a_gpu(monkeypatch):
    """What PyTorch says on a machine that has one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A GPU")
    identities.machine.cache_clear()
    yield
    identities.machine.cache_clear()


def test_the_machine_of_a_device_names_the_gpu_only_if_it_is_the_device(a_gpu):
    on_cpu, on_gpu = (store.machine(torch.device(name)) for name in ("cpu", "cuda"))
    assert (on_cpu["gpu"], on_gpu["gpu"]) == ("none", "A GPU")
    assert {name for name in on_cpu if on_cpu[name] != on_gpu[name]} == {"gpu"}
    assert on_cpu["torch"] == torch.__version__ and on_cpu["processor"]


def test_a_run_on_the_cpu_names_no_gpu_even_where_there_is_one(a_gpu, monkeypatch):
    monkeypatch.setenv("EOSLIB_DEVICE", "cuda")
    hill = Descent(
        chapter="c",
        experiment="e",
        step_size=0.1,
        steps=5,
        problem=OnLandscape(landscape="quadratic", start=(1.0, 1.0)),
    )
    assert store.default_device() == torch.device("cuda")
    assert experiments.carry_on(hill).manifest["machine"]["gpu"] == "none"


def test_a_gpu_that_is_asked_for_and_absent_is_named(monkeypatch):
    monkeypatch.setenv("EOSLIB_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="'cuda' was asked for"):
        store.default_device()
