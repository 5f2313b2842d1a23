"""eoslib.chapter.provenance: what the runs of a chapter were made from."""

import dataclasses

import torch
from declared import GD, LANDSCAPE, SCHEDULED, SGD, changed

from eoslib import store
from eoslib.chapter import experiments
from eoslib.chapter.provenance import provenance
from eoslib.problems import datasets


def rows_of(shown):
    return shown[0]["data"]["application/vnd.eoslib.provenance+json"]


def test_provenance_says_what_the_runs_were_made_from(shown):
    provenance(experiments.collect([GD, SGD]), experiments.collect([GD, LANDSCAPE]))
    rows = rows_of(shown)
    assert rows["runs"] == "3, of which 0 recorded"
    assert rows["data"] == f"digits, fingerprint {datasets.fingerprint('digits')[:12]}…"
    assert rows["precision"] == "float32"
    assert rows["seeds"] == "0"
    assert rows["PyTorch"] == torch.__version__
    assert store.library_sha256()[:12] in rows["library"]
    manifests = [experiments.carry_on(e).manifest for e in (GD, SGD, LANDSCAPE)]
    assert rows["gradients"] == f"{sum(m['gradients'] for m in manifests):,}"
    assert rows["Hessian-vector products"] == f"{sum(m['products'] for m in manifests):,}" != "0"
    assert all(name in shown[0]["data"]["text/html"] for name in rows)


def test_each_data_set_seed_and_precision_is_named_once(shown):
    other = changed(GD, dataset="power_law", seed=4, measurements=())
    store.record(experiments.carry_on(other))
    recorded = next(iter(store.recorded_runs()))
    provenance(experiments.collect([GD, SCHEDULED, dataclasses.replace(GD, seed=3)]), [recorded])
    rows = rows_of(shown)
    assert rows["runs"] == "4, of which 1 recorded"
    for fingerprint in (datasets.fingerprint("digits"), datasets.fingerprint("power_law")):
        assert rows["data"].count(fingerprint[:12]) == 1
    assert rows["data"].count("digits") == rows["data"].count("power_law") == 1
    assert rows["seeds"] == "0, 3, 4"
    assert rows["precision"] == "float32, float64"


def test_runs_without_data_have_no_rows_about_data(shown):
    provenance(experiments.collect([LANDSCAPE]))
    assert not {"data", "seeds", "precision", "about the data"} & rows_of(shown).keys()
