"""chapter.audit and chapter.provenance of a run that several machines made."""

from dataclasses import replace

import numpy as np

from eoslib import store
from eoslib.chapter import audit, experiments
from eoslib.chapter.experiments import Data, Descent, Network, Training
from eoslib.chapter.provenance import provenance

TRAINING = Training(
    data=Data(dataset="digits", n=20), network=Network(architecture="mlp", sizes={"hidden": [2]}, activation="tanh"),
    loss="mse-half-sum",
)  # fmt: skip
RUN = Descent(chapter="test", experiment="gd", step_size=0.1, steps=30, problem=TRAINING)


def recorded(experiment=RUN):
    store.record(experiments.carry_on(experiment))
    (run,) = store.recorded_runs()
    return run


def altered(run, name, place, factor):
    run.stored[name].values[place] *= np.float32(factor)
    return run


def test_of_a_run_of_several_machines_no_bits_are_demanded():
    """Its first steps may be another machine's, though the last ones are this one's."""
    run = altered(recorded(), "loss", 3, 1.0005)
    assert len(audit.audit(run, 20)) == 1
    stretches = [{"machine": run.manifest["machine"] | {"processor": "abacus"}, "to_step": 10}]
    mixed = replace(run, manifest=run.manifest | {"stretches": stretches})
    assert audit.audit(mixed, 20) == []
    assert len(audit.audit(altered(mixed, "loss", 3, 1.01), 20)) == 1


def test_the_page_names_runs_of_several_machines_and_all_these_machines(shown):
    run = recorded()
    provenance([run])
    stretches = [{"machine": run.manifest["machine"] | {"processor": "abacus"}, "to_step": 10}]
    provenance([replace(run, manifest=run.manifest | {"stretches": stretches})])
    plain, mixed = (output["data"]["application/vnd.eoslib.provenance+json"] for output in shown)
    assert "mixed" not in plain and "abacus" not in plain["processor"]
    assert mixed["mixed"] == run.key and "abacus" in mixed["processor"]
