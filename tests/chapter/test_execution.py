"""Strict parameters, execution and cache keys of `eoslib.chapter`, on small chapters written here."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eoslib import store
from eoslib.chapter import execution, presets
from eoslib.problems import datasets

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""

PARAMETERS = """\
preset: Literal["quick", "standard"] = "quick"
step_size: PositiveFloat = 2 / 5
width: PositiveInt = 32
hidden: Annotated[list[PositiveInt], Len(min_length=1)] = [32, 32]
steps: list[float] = [2 / 60, 1]
activation: Literal["tanh", "relu"] = "tanh"
label: str = "a"
seeds: list[NonNegativeInt] = [0]
momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.0
clip: float | None = None
shuffle: bool = False
weights: dict[str, float] = {"a": 1.0}
offset: float = -0.5
"""


def write(folder, code='print("hello")', parameters=PARAMETERS, name="tiny", presets=None):
    """Write a chapter: imports, parameters, one cell of code."""
    notebooks = folder / "notebooks"
    (notebooks / "presets").mkdir(parents=True, exist_ok=True)
    path = notebooks / f"{name}.py"
    path.write_text(
        f"{HEADER}\n# %% [markdown]\n# # Tiny\n\n# %%\n"
        "from typing import Annotated, Literal\n\nfrom annotated_types import Interval, Len\n"
        "from pydantic import NonNegativeInt, PositiveFloat, PositiveInt\n"
        f'\n# %% tags=["parameters"]\n{parameters}\n# %%\n{code}\n'
    )
    if presets is not None:
        (notebooks / "presets" / f"{name}.yaml").write_text(presets)
    return path


@pytest.fixture
def chapter(tmp_path):
    return write(tmp_path, presets='quick: {}\nstandard: {step_size: "2/60", steps: ["2/30", 1], width: 8}\n')


# --- parameters ------------------------------------------------------------------------------------------


def test_defaults_are_the_parameters_cell(chapter):
    values = presets.parameters(chapter)
    assert values["preset"] == "quick"
    assert values["step_size"] == 2 / 5
    assert values["steps"] == [2 / 60, 1.0]
    assert values["offset"] == -0.5
    assert list(values)[:3] == ["preset", "step_size", "width"]


def test_a_preset_changes_only_what_it_names(chapter):
    values = presets.parameters(chapter, "standard")
    assert (values["preset"], values["step_size"], values["steps"], values["width"]) == (
        "standard",
        2 / 60,
        [2 / 30, 1.0],
        8,
    )
    assert values["hidden"] == [32, 32]


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("step_size", "2/60", 2 / 60),
        ("step_size", "1e-3", 1e-3),
        ("step_size", " 3 * (1 + 1/2) - 0.5 ", 4.0),
        ("step_size", 1, 1.0),
        ("width", "64", 64),
        ("hidden", "[64, 2*32]", [64, 64]),
        ("hidden", [64], [64]),
        ("steps", "[2/60, 2/90]", [2 / 60, 2 / 90]),
        ("steps", ["2/60"], [2 / 60]),
        ("activation", "relu", "relu"),
        ("label", "2/60", "2/60"),
        ("label", "true", "true"),
        ("clip", "null", None),
        ("clip", "-1/4", -0.25),
        ("shuffle", "true", True),
        ("shuffle", "False", False),
        ("weights", "{b: 2/4}", {"b": 0.5}),
        ("weights", "{'b': 1}", {"b": 1.0}),
        ("momentum", "0", 0.0),
    ],
)
def test_text_becomes_the_exact_value(chapter, name, text, value):
    got = presets.parameters(chapter, overrides={name: text})[name]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("step_size", "-1", "greater than 0"),
        ("step_size", "0", "greater than 0"),
        ("step_size", "tanh", "valid number"),
        ("step_size", "1/0", "division by zero"),
        ("step_size", "1e308*10", "finite number"),
        ("step_size", "2 **3", "cannot read"),
        ("step_size", "__import__('os')", "cannot read"),
        ("step_size", "(", "cannot read"),
        ("step_size", "", "cannot read"),
        ("step_size", "true", "valid number"),
        ("step_size", "null", "valid number"),
        ("width", "6.0", "valid integer"),
        ("width", "true", "valid integer"),
        ("width", True, "valid integer"),
        ("width", "[1]", "valid integer"),
        ("hidden", "[]", "at least 1 item"),
        ("hidden", "[64, 0]", "greater than 0"),
        ("hidden", "64", "valid list"),
        ("steps", "[tanh]", "valid number"),
        ("activation", "gelu", "'tanh' or 'relu'"),
        ("activation", "leaky-relu", "'tanh' or 'relu'"),
        ("label", 3, "valid string"),
        ("seeds", "[-1]", "greater than or equal to 0"),
        ("momentum", "1", "less than 1"),
        ("shuffle", "1", "valid boolean"),
        ("shuffle", "yes", "valid boolean"),
        ("weights", "{a: x}", "valid number"),
        ("weights", "{'a' + 'b': 1}", "not a number"),
    ],
)
def test_bad_values_are_named_with_what_was_expected(chapter, name, text, expected):
    with pytest.raises(presets.ParameterError) as caught:
        presets.parameters(chapter, overrides={name: text})
    message = str(caught.value)
    assert f"parameter {name!r}" in message and expected in message
    assert "Valid parameters: preset, step_size, width" in message


def test_unknown_names_are_all_reported_with_the_nearest(chapter):
    with pytest.raises(presets.ParameterError) as caught:
        presets.parameters(chapter, overrides={"stepsize": 1, "zzz": 1, "width": "x"})
    message = str(caught.value)
    assert "unknown parameter 'stepsize', did you mean 'step_size'?" in message
    assert "unknown parameter 'zzz' (valid:" in message
    assert "parameter 'width'" in message


def test_overrides_as_options_are_read_back(chapter):
    overrides = {
        "step_size": "2/60", "width": 8, "hidden": [4, 5], "steps": ["2/30", 1], "activation": "relu", "label": "a b",
        "clip": None, "shuffle": True, "weights": {"a": 2, "b": 0.5},
    }  # fmt: skip
    preset, *given = shlex.split(execution.options("standard", overrides).removeprefix("--preset "))
    pairs = dict(text.split("=", 1) for text in given if text != "-p")
    assert presets.parameters(chapter, preset, pairs) == presets.parameters(chapter, preset, overrides)
    assert execution.options("quick", {"label": "true"}) == "--preset quick -p label=true"  # not quoted once more


def test_the_preset_is_not_a_parameter_to_set(tmp_path, chapter):
    with pytest.raises(presets.ParameterError, match="--preset"):
        presets.parameters(chapter, overrides={"preset": "standard"})
    sly = write(tmp_path, name="sly", presets="standard: {preset: quick}")
    with pytest.raises(presets.ParameterError, match=r"\(preset standard\)"):
        presets.parameters(sly, "standard")


def test_unknown_presets_and_chapters_list_the_valid_ones(chapter):
    with pytest.raises(presets.ParameterError, match=r"'standart', did you mean 'standard'\? \(valid: quick"):
        presets.parameters(chapter, "standart")
    with pytest.raises(presets.ParameterError, match=r"unknown chapter 'tinny', did you mean 'tiny'"):
        presets.chapter_path("tinny", chapter.parent)


@pytest.mark.parametrize(
    "cell, message",
    [
        ("width = 3", "expected 'name: type = value'"),
        ("width: int", "expected 'name: type = value'"),
        ("import os", "expected 'name: type = value'"),
        ("width: complex = 3", "a type may use int, float"),
        ("width: __import__('os') = 3", "a type may use int, float"),
        ("width: int = len([])", "cannot read 'len"),
        ("width: int = 1\nwidth: int = 2", "declared twice"),
        ("width: int = ", "the parameters cell: invalid syntax"),
        ("width: int = 'a'", "expected int"),
    ],
)
def test_a_loose_parameters_cell_is_refused(tmp_path, cell, message):
    with pytest.raises(presets.ParameterError) as caught:
        presets.parameters(write(tmp_path, parameters=cell))
    assert message in str(caught.value)


def test_a_chapter_has_exactly_one_parameters_cell(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("parameters", "other"))
    with pytest.raises(presets.ParameterError, match="one cell tagged 'parameters', found 0"):
        presets.parameters(path)


def test_declared_experiments_see_only_the_parameters(tmp_path):
    path = write(tmp_path, code='raise RuntimeError("not for compute")')
    assert presets.declared_experiments(path, {}) == {}
    path.write_text(
        path.read_text() + '\n# %% tags=["experiments"]\nbase = width * 2\n'
        '\n# %% tags=["experiments"]\nexperiments = {"main": [base, base + 1]}\n'
    )
    assert presets.declared_experiments(path, presets.parameters(path)) == {"main": [64, 65]}


# --- execution -------------------------------------------------------------------------------------------


def test_execution_injects_the_parameters_and_says_what_ran(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("EOSLIB_RUNS")
    code = "import os\nfrom eoslib import store\nprint(repr([step_size, steps, clip, label]))"
    code += "\nprint(os.environ['OMP_NUM_THREADS'], store.home().resolve())\nprint(os.environ['EOSLIB_COMPUTE'])"
    path, out = write(tmp_path / "checkout", code), tmp_path / "out" / "{tiny}.ipynb"
    overrides = {"step_size": "2/60", "label": 'a "quoted" \\ text'}
    notebook = execution.execute(path, out, overrides=overrides, compute=False)
    printed = notebook.cells[-1].outputs[0].text
    assert printed.splitlines() == [
        repr([2 / 60, [2 / 60, 1.0], None, 'a "quoted" \\ text']),
        f"{os.environ.get('OMP_NUM_THREADS', '1')} {store.home().resolve()}",  # as of a sweep, and not the checkout's
        "0",
    ]
    stored = json.loads(out.read_text())
    assert stored["metadata"]["eoslib"]["preset"] == "quick"
    assert stored["metadata"]["eoslib"]["parameters"]["step_size"] == 2 / 60
    assert stored["metadata"]["eoslib"]["key"] == notebook.metadata["eoslib"]["key"]
    assert len(presets.code_cells(notebook, "injected-parameters")) == 1
    assert os.listdir(out.parent) == [out.name]  # no partial or temporary file stays


def test_bad_parameters_stop_before_anything_runs(tmp_path):
    path = write(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(presets.ParameterError):
        execution.execute(path, tmp_path / "out.ipynb", overrides={"width": "0"})
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out.ipynb").exists()


def test_a_raising_cell_is_named_and_the_partial_notebook_kept(tmp_path):
    path = write(tmp_path, "# first line\nprint('before')\n1 / 0")
    with pytest.raises(execution.ChapterFailed) as caught:
        execution.execute(path, tmp_path / "out.ipynb")
    message = "chapter tiny failed: ZeroDivisionError: division by zero, in code cell 4 ('# first line')"
    assert message in str(caught.value)
    assert "before" in caught.value.partial.read_text()
    assert str(caught.value.partial) in str(caught.value)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_dead_kernel_is_named_and_does_not_hang(tmp_path):
    path = write(tmp_path, "import os\nos._exit(3)")
    with pytest.raises(execution.ChapterFailed) as caught:
        execution.execute(path, tmp_path / "out.ipynb")
    assert "DeadKernelError: Kernel died, in code cell 4 ('import os')" in str(caught.value)
    assert caught.value.partial.exists()


def test_a_failure_survives_the_way_between_processes(tmp_path):
    import pickle

    error = pickle.loads(pickle.dumps(execution.ChapterFailed("tiny", "boom", Path("x.ipynb"))))
    assert (error.chapter, error.cause, error.partial) == ("tiny", "boom", Path("x.ipynb"))


# --- where notebooks are found ---------------------------------------------------------------------------


def test_notebooks_are_those_of_the_checkout_or_else_of_the_current_directory(tmp_path, monkeypatch):
    checkout, mine = tmp_path / "checkout", tmp_path / "mine"
    (mine / "notebooks").mkdir(parents=True)
    checkout.mkdir()
    monkeypatch.setattr(presets, "LIBRARY", checkout / "eoslib")
    for here in (mine, mine / "notebooks"):
        monkeypatch.chdir(here)
        assert presets._find_notebooks() == mine / "notebooks"
    monkeypatch.chdir(checkout)
    assert not presets._find_notebooks().exists()
    (checkout / "notebooks").mkdir()
    monkeypatch.chdir(mine)
    assert presets._find_notebooks() == checkout / "notebooks"


def test_an_installed_library_finds_ledgers_and_templates(tmp_path):
    shutil.copytree(presets.LIBRARY, tmp_path / "site" / "eoslib", ignore=shutil.ignore_patterns("__pycache__"))
    write(tmp_path / "mine")
    ledger = tmp_path / "mine/notebooks/claims/tiny.yaml"
    ledger.parent.mkdir()
    ledger.write_text(
        "paper: a\n"
        "claims: [{id: b/c, where: x, scale: exact, statement: x, quantity: x, criteria: {quick: {holds: true}}}]"
    )
    code = (
        "from eoslib.chapter import claims, presets; claims.Ledger('tiny', 'quick').measure('b/c', {'': True}); "
        "print(presets.chapters(), presets.LIBRARY)"
    )
    for here in ("mine", "mine/notebooks"):
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path / here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "a/b/c: reproduced" in done.stdout
        assert f"['tiny'] {tmp_path / 'site' / 'eoslib'}" in done.stdout


# --- cache keys ------------------------------------------------------------------------------------------


def test_the_key_changes_with_code_parameters_and_claims_but_not_with_prose(tmp_path, monkeypatch):
    path = write(tmp_path)
    parameters = presets.parameters(path)
    key = execution.cache_key(path, parameters)
    assert key == execution.cache_key(path, parameters)
    path.write_text(path.read_text().replace("# # Tiny", "# # Tiny, in other words"))
    assert execution.cache_key(path, parameters) == key
    changed = {
        "parameters": execution.cache_key(path, parameters | {"width": 33}),
        "compute": None,
    }
    monkeypatch.setattr(execution.store, "inventory", lambda: {"run": "1"})
    changed["compute"] = execution.cache_key(path, parameters, compute=False)
    monkeypatch.setattr(execution.store, "inventory", lambda: {"run": "2"})
    changed["runs"] = execution.cache_key(path, parameters, compute=False)
    (path.parent / "claims").mkdir()
    (path.parent / "claims" / "tiny.yaml").write_text("claims: []")
    changed["claims"] = execution.cache_key(path, parameters)
    path.write_text(path.read_text().replace("hello", "hello again"))
    changed["code"] = execution.cache_key(path, parameters)
    monkeypatch.setattr(execution, "LIBRARY", tmp_path)
    changed["library"] = execution.cache_key(path, parameters)
    (tmp_path / "new.py").write_text("")
    changed["library file"] = execution.cache_key(path, parameters)
    (tmp_path / "new.html").write_text("")
    changed["template"] = execution.cache_key(path, parameters)
    monkeypatch.setattr(datasets, "fingerprint", lambda name: f"print of {name}")
    changed["data"] = execution.cache_key(path, parameters | {"dataset": "digits"})
    monkeypatch.setattr(datasets, "fingerprint", lambda name: f"other print of {name}")
    changed["other data"] = execution.cache_key(path, parameters | {"dataset": "digits"})
    assert len({key, *changed.values()}) == len(changed) + 1, changed


def test_importing_the_library_imports_no_papermill_and_no_sphinx():
    code = (
        "import sys, eoslib.__main__, eoslib.chapter.execution; "
        "print({'papermill', 'sphinx', 'jupytext'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=presets.LIBRARY.parent, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr
