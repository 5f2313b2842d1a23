"""eoslib.chapter.audit: the first steps of a recorded run are recomputed, and every deviation that counts is named."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from declared import BETWEEN, EACH, GD, LANDSCAPE, NAMED, OTHERWISE, SCHEDULED, STABILIZATION, TOGETHER, carried_on

from eoslib import store
from eoslib.chapter import experiments
from eoslib.chapter.audit import audit
from eoslib.measure.curvature import Sharpness
from eoslib.measure.progress import Progress
from eoslib.problems.problem import OnLandscape
from eoslib.store import traces

ALL = pytest.mark.parametrize("experiment", EACH, ids=list(NAMED))
ULP = 1 + 2**-23  # of float32


def recorded(experiment):
    run = carried_on(experiment)
    store.record(run)
    return next(found for found in store.recorded_runs() if found.key == run.key)


def at(run, name, step):
    """What is stored of a variable, where it was measured at that step."""
    table = run.stored[name].dims[0]
    return {table: run.stored[table].values.tolist().index(step)}


def tampered(run, name, factor, step=1):
    return with_values(run, name, step, run.stored[name][at(run, name, step)].values * factor)


def with_values(run, name, step, values):
    stored = run.stored.copy(deep=True)
    stored[name][at(run, name, step)] = values
    return dataclasses.replace(run, stored=stored)


def elsewhere(run):
    return dataclasses.replace(run, manifest=run.manifest | {"machine": {"processor": "abacus"}})


@ALL
def test_a_recorded_run_is_recomputed_bit_for_bit(experiment):
    run = recorded(experiment)
    assert run.recorded
    assert audit(run) == []
    assert audit(experiments.carry_on(experiment)) == []  # the store's float64 too


@pytest.mark.parametrize("name", [name for name in NAMED if name != "together"])
def test_one_unit_in_the_last_place_is_noticed_on_the_same_machine(name):
    experiment = NAMED[name]
    run = recorded(experiment)
    begin = experiment.onset(run.trace)
    assert (begin > 0) == (experiment in (STABILIZATION, OTHERWISE))
    first = next(n for n in ("batch_loss", "loss", "point_steps", "eta", "pieces", "shift") if n in run.trace)
    step = begin + (2 if experiment is BETWEEN else 1)  # which sees the loss at every other step
    run = tampered(run, first, ULP, step)
    (difference,) = audit(run)
    assert difference.startswith(f"step {step}: {first} is ")
    assert audit(run, steps=step - begin) == []  # only the steps asked for, of a Stabilization after its onset


def test_one_unit_in_the_only_step_is_noticed_too():
    (difference,) = audit(tampered(recorded(TOGETHER), "gram", ULP, 0))
    assert difference.startswith("step 0: gram is ")


def test_a_vector_and_a_value_that_should_not_be_there_are_noticed():
    run = recorded(GD)
    stored = run.stored.copy(deep=True)
    stored["segment_smoothness"].values[1, 1] *= 2
    stored["accuracy"].values[2] = np.nan
    differences = audit(dataclasses.replace(run, stored=stored))
    assert [d.split(" is ")[0] for d in differences] == ["step 2: accuracy", "step 4: segment_smoothness"]


def test_a_value_where_nothing_was_measured_is_noticed():
    run = recorded(GD)
    moved = run.stored.assign_coords(every_3=[0, 1, 6, 9])
    differences = audit(dataclasses.replace(run, stored=moved))
    assert any(d.startswith("step 1: sharpness is nan, stored is ") for d in differences)
    assert any(d.startswith("step 3: sharpness is ") and d.endswith("stored is nan") for d in differences)
    assert not any("loss" in d for d in differences)


def test_a_run_recorded_before_tables_had_cadences_of_their_own_is_compared_too():
    run = recorded(GD)
    one_table = dataclasses.replace(run, stored=run.trace)
    assert store.tables_of(one_table.stored) == ["step"] != store.tables_of(run.stored)
    assert audit(one_table) == []
    (difference,) = audit(with_values(one_table, "sharpness", 1, 3.0))
    assert difference == "step 1: sharpness is nan, stored is 3.0"
    assert len(audit(tampered(one_table, "sharpness", 1.0011, 3))) == 1


def test_what_was_measured_at_the_end_is_compared_where_the_end_is_reached():
    run = recorded(SCHEDULED)
    assert len(audit(tampered(run, "sharpness", 1.0011, 12))) == 1
    assert audit(tampered(run, "sharpness", 1.0011, 12), steps=11) == []


def test_an_observable_that_the_trace_lacks_is_named():
    run = recorded(GD)
    for name, differences in {
        "accuracy": ["accuracy is not in the trace"],
        "sharpness": ["sharpness is not in the trace"],
        "products": [],  # which is no result
    }.items():
        assert audit(dataclasses.replace(run, stored=run.stored.drop_vars(name))) == differences


def test_another_machine_may_differ_by_a_thousandth():
    run = recorded(GD)
    assert len(audit(tampered(run, "loss", 1.0009))) == 1
    assert audit(tampered(elsewhere(run), "loss", 1.0009)) == []
    assert len(audit(tampered(elsewhere(run), "loss", 1.0011))) == 1
    assert len(audit(tampered(elsewhere(run), "segment_smoothness", 1.0011, 4))) == 1
    assert len(audit(with_values(elsewhere(run), "loss", 1, np.inf))) == 1


# --- tolerances are those that the variables of the process declare ------------------------------------------


MEASURED = {
    "gd": "loss gradient_norm accuracy relative_progress directional_smoothness sharpness sharpness_residual alignment "
    "products eigenvalues segment_smoothness",
    "sgd": "batch_loss loss gradient_norm accuracy",
    "between": "loss relative_progress segment_sharpness",
    "adaptive": "loss preconditioned_sharpness sharpness_residual alignment products eigenvalues",
    "stable": "sharpness test_loss test_accuracy eta",
    "scheduled": "batch_loss theta eta expected_relative_progress expected_relation decreasing_share",
    "landscape": "loss theta",
}


@pytest.mark.parametrize("experiment, name", [(e, name) for e, names in MEASURED.items() for name in names.split()])
def test_each_variable_may_differ_by_its_own_tolerance_and_not_by_more(experiment, name):
    """Here and elsewhere; what has none is exact here and right to a thousandth elsewhere."""
    experiment = NAMED[experiment]
    run, variable = recorded(experiment), experiment.process(torch.device("cpu")).variables[name]
    measured = run.stored[name]
    step = int(measured[measured.dims[0]][np.flatnonzero(measured.values.reshape(len(measured), -1).all(1))[0]])
    values = measured[at(run, name, step)].values  # no zeros, which no factor changes
    for where, exact in ((run, 2 * (ULP - 1)), (elsewhere(run), 1e-3)):
        by = variable.tolerance or exact

        def moved(share, by=by):
            return values + share * by * (1 if variable.absolute else values)

        if math.isinf(by):
            assert audit(with_values(where, name, step, 1e9)) == []
            continue
        if where is not run or variable.tolerance:
            assert audit(with_values(where, name, step, moved(0.9))) == []
        assert len(audit(with_values(where, name, step, moved(1.1)))) == 1


def test_the_tolerances_are_those_of_the_design():
    """Eigenvalues a thousandth; what their vectors give a hundredth, cosines in absolute terms; lower bounds a tenth;
    costs without limit; all else is exact here."""
    alone = [e for e in EACH if not e.builds_on]
    variables = {name: v for e in alone for name, v in e.process(torch.device("cpu")).variables.items()}
    found = {name.removeprefix("by_size_"): (v.tolerance, v.absolute) for name, v in variables.items()}
    wanted = {
        (1e-3, False): """sharpness eigenvalues segment_sharpness preconditioned_sharpness midpoint_sharpness
            constrained_sharpness constrained_eigenvalues next_eigenvalue flow_sharpness central_sharpness
            sample_sharpness sample_operator_norm predicted_sharpness_there generalised_sharpness_there""",
        (0.01, True): "alignment unstable_alignment",
        (0.01, False): "sample_sharpness_se fresh_sharpness fresh_sharpness_se",
        (0.1, False): """rho_3 rho_4 restoring_ratio fourth_order_ratio third_order_ratio_v
            third_order_ratio_gradient""",
        (math.inf, False): """products sample_products sharpness_residual sample_sharpness_residual
            constrained_residual""",
    }
    exact = {name for name, tolerance in found.items() if tolerance == (0.0, False)}
    assert {"loss", "gradient_norm", "batch_loss", "relative_progress", "theta", "outcome"} < exact
    tolerant = {name: tolerance for tolerance, names in wanted.items() for name in names.split()}
    assert {name: found[name] for name in found.keys() - exact} == tolerant


def test_a_search_may_find_the_same_by_another_way():
    """Its result is right to a tolerance, on this machine too; what it cost is no result."""
    run = recorded(GD)
    for name in ("products", "sharpness_residual"):
        assert audit(tampered(run, name, 2, step=3)) == []
    assert audit(tampered(run, "sharpness", 1.0009, step=3)) == []
    assert len(audit(tampered(run, "sharpness", 1.0011, step=3))) == 1
    alignment = run.trace.alignment.values[3]
    assert audit(tampered(run, "alignment", 1 + 0.009 / alignment, step=3)) == []
    assert len(audit(tampered(run, "alignment", 1 + 0.011 / alignment, step=3))) == 1


def test_a_lower_bound_may_be_raised_by_a_longer_search():
    run = recorded(STABILIZATION)
    onset = int(np.isfinite(run.trace.constrained_loss.values).argmax())
    assert audit(tampered(run, "rho_4", 1.09, onset)) == []
    assert len(audit(tampered(run, "rho_4", 1.12, onset))) == 1


# --- whatever the run --------------------------------------------------------------------------------------


def test_an_audit_keeps_our_number_of_threads_and_uses_the_runs():
    run = recorded(GD)
    torch.set_num_threads(2)
    try:
        assert audit(run) == []
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_diverged_run_can_be_audited():
    diverging = dataclasses.replace(
        LANDSCAPE, problem=OnLandscape(landscape="linear_neuron", start=(13.0, 1.0)), step_size=1.0, steps=100
    )
    run = recorded(diverging)
    assert run.diverged_at is not None and run.trace.sizes["step"] < 20
    assert audit(run) == []


def test_a_thinned_run_can_be_audited(monkeypatch):
    """Its first windows are compared with the mean, minimum and maximum of as many recomputed steps."""
    monkeypatch.setattr(traces, "MAX_RECORDED_POINTS", 4)
    run = recorded(GD)
    assert run.stored.attrs["window"] == 3
    assert audit(run) == []
    assert {t: run.stored.sizes[t] for t in store.tables_of(run.stored)} == {"step": 4, "every_3": 4, "every_4": 3}
    for name in ("loss", "loss_min", "loss_max"):
        assert len(audit(tampered(run, name, 1.01, step=4))) == 1, name
    assert len(audit(tampered(run, "sharpness", 1.01, step=3))) == 1


def test_of_a_thinned_table_only_whole_windows_are_compared(monkeypatch):
    monkeypatch.setattr(traces, "MAX_RECORDED_POINTS", 4)
    run = recorded(dataclasses.replace(GD, measurements=(Progress(), Sharpness(every=2)), steps=18))
    assert [store.window_of(run.stored, table) for table in ("step", "every_2")] == [5, 3]
    assert audit(run) == audit(run, steps=1) == audit(run, steps=12) == []
    assert run.stored.every_2.values.tolist() == [2, 8, 14]
    late = tampered(run, "sharpness_max", 1.01, step=14)
    assert audit(late, steps=12) == [] and len(audit(late)) == 1  # 15 steps hold two windows of three measurements


def test_a_thinned_run_is_recomputed_to_so_many_steps_after_its_onset(monkeypatch):
    monkeypatch.setattr(traces, "MAX_RECORDED_POINTS", 4)
    run = recorded(STABILIZATION)
    onset = STABILIZATION.onset(experiments.carry_on(STABILIZATION).trace)
    late = STABILIZATION.onset(run.trace)
    assert run.stored.attrs["window"] == 3 and abs(late - onset) <= 1 < onset
    assert audit(run, steps=1) == []
    assert audit(tampered(run, "constrained_loss", 1.01, late), steps=1)
