"""chapter.audit and chapter.provenance of runs in several tables, thinned, and of several machines."""

from dataclasses import replace

import numpy as np
import pytest

from eoslib import store
from eoslib.chapter import audit, experiments
from eoslib.chapter.experiments import Data, Descent, Network, Training
from eoslib.chapter.provenance import provenance
from eoslib.measure.curvature import Sharpness
from eoslib.measure.directions import Position
from eoslib.measure.progress import HeldOut, Progress, SegmentSmoothness
from eoslib.problems.batches import Batches
from eoslib.store import traces

TRAINING = Training(
    data=Data(dataset="digits", n=20), network=Network(architecture="mlp", sizes={"hidden": [2]}, activation="tanh"),
    loss="mse-half-sum",
)  # fmt: skip
RUN = Descent(
    chapter="test", experiment="tables", step_size=0.1, steps=60, problem=TRAINING,
    measurements=(
        Progress(), HeldOut(every=3, examples=10), SegmentSmoothness(every=(1, 4, 50), nodes=2), Position(every="end"),
        Sharpness(every=2),
    ),
)  # fmt: skip


def recorded(experiment=RUN):
    store.record(experiments.carry_on(experiment))
    (run,) = store.recorded_runs()
    return run


def altered(run, name, place, factor):
    run.stored[name].values[place] *= np.float32(factor)
    return run


def test_each_table_is_audited_at_its_steps():
    run = recorded()
    assert audit.audit(run, 20) == []
    for name, place, step in (
        ("loss", 19, 19),
        ("test_loss", 6, 18),
        ("segment_smoothness", 1, 4),
        ("sharpness", 9, 18),
    ):
        (difference,) = audit.audit(altered(recorded(), name, place, 1.01), 20)
        assert difference.startswith(f"step {step}: {name} is ")
    assert audit.audit(altered(recorded(), "test_loss", 7, 1.01), 20) == []  # of step 21
    (difference,) = audit.audit(altered(recorded(), "test_loss", 7, 1.01), 22)
    assert difference.startswith("step 21: ")


@pytest.mark.parametrize("most", [25, 12])
def test_a_thinned_run_is_audited_in_the_windows_of_each_table(monkeypatch, most):
    monkeypatch.setattr(traces, "MAX_RECORDED_POINTS", most)
    run = recorded()
    windows = [store.window_of(run.stored, table) for table in ("step", "every_2", "every_3", "chosen")]
    assert windows == {25: [3, 3, 1, 1], 12: [5, 3, 3, 1]}[most]
    assert audit.audit(run, 20) == []
    assert audit.audit(run, 60) == []
    for name, place in (("loss", 1), ("loss_min", 2), ("test_loss", 1), ("sharpness_max", 0)):
        (difference,) = audit.audit(altered(recorded(), name, place, 1.01), 20)
        assert f": {name} is " in difference


def test_a_run_recorded_before_there_were_tables_has_all_in_one_and_is_audited_too(monkeypatch):
    experiment = replace(RUN, measurements=RUN.measurements[:2])
    for most, window in ((1000, 1), (25, 3)):
        monkeypatch.setattr(traces, "MAX_RECORDED_POINTS", most)
        run = experiments.carry_on(experiment)
        store.record(replace(run, stored=run.trace))
        (run,) = store.recorded_runs()
        assert store.tables_of(run.stored) == ["step"] and store.window_of(run.stored) == window
        assert np.isnan(run.stored["test_loss"]).any() == (window == 1)
        assert audit.audit(run, 20) == []
        assert len(audit.audit(altered(run, "test_loss", 0, 1.01), 20)) == 1


def test_a_variable_that_is_not_in_the_trace_is_named():
    run = recorded()
    less = replace(run, stored=run.stored.drop_vars("test_accuracy"))
    assert audit.audit(less, 5) == ["test_accuracy is not in the trace"]


def test_a_run_that_stopped_early_is_audited_to_its_end():
    run = recorded(replace(RUN, stop_accuracy=0.2, measurements=(Progress(),)))
    assert run.manifest["step"] < 60
    assert audit.audit(run, 60) == []
    assert len(audit.audit(altered(run, "loss", -1, 1.01), 60)) == 1


def test_of_a_run_of_several_machines_no_bits_are_demanded():
    """Its first steps may be another machine's, though the last ones are this one's."""
    run = altered(recorded(), "loss", 3, 1.0005)
    assert len(audit.audit(run, 20)) == 1
    stretches = [{"machine": run.manifest["machine"] | {"processor": "abacus"}, "to_step": 10}]
    mixed = replace(run, manifest=run.manifest | {"stretches": stretches})
    assert audit.audit(mixed, 20) == []
    assert len(audit.audit(altered(mixed, "loss", 3, 1.01), 20)) == 1


def test_minibatches_are_audited_by_step_and_by_epoch():
    run = recorded(replace(RUN, batches=Batches(batch_size=7), measurements=(HeldOut(every="epoch", examples=10),)))
    assert run.stored["epoch"].values.tolist()[:3] == [0, 3, 6]
    assert audit.audit(run, 20) == []
    for name in ("batch_loss", "loss", "test_loss"):
        (difference,) = audit.audit(altered(fresh(run), name, 2, 1.01), 20)
        assert f": {name} is " in difference


def fresh(run):
    return replace(run, stored=run.stored.copy(deep=True))


def test_the_page_names_runs_of_several_machines_and_all_these_machines(shown):
    run = recorded()
    provenance([run])
    stretches = [{"machine": run.manifest["machine"] | {"processor": "abacus"}, "to_step": 10}]
    provenance([replace(run, manifest=run.manifest | {"stretches": stretches})])
    plain, mixed = (output["data"]["application/vnd.eoslib.provenance+json"] for output in shown)
    assert "mixed" not in plain and "abacus" not in plain["processor"]
    assert mixed["mixed"] == run.key and "abacus" in mixed["processor"]
