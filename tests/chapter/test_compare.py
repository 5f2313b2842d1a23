"""What two runs, notebooks or builds are said to differ in."""

import base64
import dataclasses

import nbformat
import numpy as np
import pytest
import xarray as xr
from declared import GD

from eoslib import store
from eoslib.chapter import claims, figures, presets
from eoslib.chapter.compare import compare, partings
from eoslib.chapter.experiments import carry_on

PNG = base64.b64encode(b"a picture").decode()


def trace(values, **others):
    variables = {"loss": values} | others
    return xr.Dataset({name: ("step", v) for name, v in variables.items()}, {"step": np.arange(len(values))})


def test_two_trajectories_part_at_the_first_step_beyond_rounding_and_at_the_rate_of_their_difference():
    t = np.arange(60)
    loss = 2 + np.sin(t)
    apart = loss * (1 + 1e-9 * 1.5**t)
    (parting,) = partings(trace(loss, same=loss), trace(apart, same=loss), tolerance=1e-6)
    assert (parting.observable, parting.step) == ("loss", 18)  # 1.5^18 = 1478
    assert parting.growth == pytest.approx(1.5, rel=0.01)
    assert parting.difference == pytest.approx(1.478e-6, rel=0.01) and parting.largest > 0.5


def test_what_is_not_finite_in_one_of_them_parts_and_in_both_does_not():
    a, b = np.ones(5), np.ones(5)
    a[3], b[3:] = np.nan, np.nan
    (parting,) = partings(trace(a), trace(b), 1e-6)
    assert (parting.step, parting.largest) == (4, np.inf) and np.isnan(parting.growth)
    assert partings(trace(b), trace(b), 1e-6) == []
    assert partings(trace(a * 0), trace(b * 0 + a * 0), 1e-6)[0].step == 4


def test_two_runs_differ_in_what_was_declared_and_in_what_came_of_it():
    one, two = carry_on(GD), carry_on(dataclasses.replace(GD, seed=1))
    found = compare(one.key, two.key)
    assert found.parameters == [("seed", "0", "1")]
    assert found.parted[0].step == 0 and {p.observable for p in found.parted} >= {"loss", "sharpness"}
    assert f"A: {one.key}" in found.text() and "seed: 0 → 1" in found.text()
    assert not found.identical


def test_a_run_is_found_by_its_key_or_its_path_and_is_identical_to_itself():
    run = carry_on(GD)
    recorded = store.record(run)
    folder = store.home() / run.key
    assert compare(run.key, str(folder)).text() == f"{run.key} and {folder} are identical"
    assert compare(run.key, str(recorded)).identical  # float32 is rounding
    with pytest.raises(store.StoreError, match="no finished run 'nothing'"):
        compare(run.key, "nothing")


def notebook(path, verdict="reproduced", value=0.5, width=4, picture=PNG):
    claim = {"id": "p/ex1/a", "verdict": verdict, "cases": {"η": value}}
    outputs = [{claims.MIME: claim}, {figures.MIME: {"name": "fig1"}, "image/png": picture}]
    cell = nbformat.v4.new_code_cell("…", outputs=[nbformat.v4.new_output("display_data", data=d) for d in outputs])
    made = nbformat.v4.new_notebook(cells=[cell])
    made.metadata["eoslib"] = {"preset": "quick", "parameters": {"width": width}, "seconds": 1.0, "key": "k"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return str(path)


def test_two_notebooks_differ_in_parameters_verdicts_values_and_figures(tmp_path):
    other = base64.b64encode(b"another").decode()
    one = notebook(tmp_path / "a.ipynb")
    two = notebook(tmp_path / "b.ipynb", "not reproduced", 0.7, 5, other)
    found = compare(one, two)
    assert found.parameters == [("width", "4", "5")]
    assert found.verdicts == [("p/ex1/a", "reproduced", "not reproduced")]
    assert found.values == [("p/ex1/a η", "0.5", "0.7")]
    assert found.pictures == [("fig1", PNG, other)]
    page = found.html()
    assert page.count("data:image/png;base64,") == 2 and "not reproduced" in page and page.startswith("<!DOCTYPE")
    assert "width: 4 → 5" in found.text() and "figures (1): fig1" in found.text()


def test_two_builds_of_the_same_are_identical_and_what_one_lacks_is_named(tmp_path):
    for build in ("one", "two"):
        notebook(tmp_path / build / "notebooks/first.ipynb")
        notebook(tmp_path / build / "notebooks/second.ipynb")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert compare(one, two).identical and "They are identical" in compare(one, two).html()
    notebook(tmp_path / "two/notebooks/second.ipynb", value=0.6)
    notebook(tmp_path / "two/third.ipynb")
    found = compare(one, two)
    assert found.values == [("notebooks/second.ipynb: p/ex1/a η", "0.5", "0.6")]
    assert found.parameters == [("third.ipynb", "–", "there")]
    with pytest.raises(presets.ParameterError, match="cannot compare a run with notebooks"):
        compare(one, "0123456789abcdef")
