"""The guide, `book/rerun.md`: every command and every block of code in it works, on a chapter in miniature."""

import contextlib
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from distributed import LocalCluster
from distributed.cli import dask_scheduler, dask_worker

import eoslib
from eoslib import __main__, store
from eoslib.chapter import presets, selftest, sweep
from eoslib.problems import landscapes

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "book/rerun.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
COMMANDS = [line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
CHAPTER, CLAIMS = (next(text for _, text in BLOCKS if text.startswith(begin)) for begin in ("# ---", "paper:"))
LOOP = next(text for text in PYTHON if "eoslib.watch" in text)

# what the guide's commands name of a chapter, in small
MINIATURE = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
from typing import Literal

# %% tags=["parameters"]
preset: Literal["quick", "standard", "paper"] = "quick"
activation: Literal["tanh", "swish"] = "tanh"
optimiser: Literal["gd", "SGD"] = "gd"
optimiser_options: dict = {}
unstable_step_sizes: list[float] = [0.01]
seeds: list[int] = [0]

# %% tags=["experiments"]
from eoslib.chapter.experiments import Data, Descent, Network, Rule, Training
from eoslib.measure.curvature import Sharpness

network = Network(architecture="mlp", sizes={"hidden": [4]}, activation=activation)
training = Training(data=Data(dataset="digits", n=20), network=network, loss="mse-sum")
experiments = {
    "exp3": [
        Descent(
            chapter="unstable_convergence", experiment="exp3", problem=training, step_size=eta, steps=6, seed=seed,
            rule=Rule(name=optimiser, options=optimiser_options), measurements=(Sharpness(every=2),),
        )
        for eta in unstable_step_sizes
        for seed in seeds
    ]
}

# %%
from eoslib.chapter.claims import Ledger
from eoslib.chapter.experiments import collect

runs = collect(experiments["exp3"])
slow = {str(run.identity['seed']): run.trace.loss.values[-1] > run.trace.loss.values[0] / 2 for run in runs}
Ledger("unstable_convergence", preset).measure("exp3/slow", slow, runs)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the miniature and the guide's own chapter, in which the command line works."""
    for folder in ("claims", "presets"):
        (tmp_path / "notebooks" / folder).mkdir(parents=True)
    claims = yaml.safe_load(CLAIMS)
    (stated,) = claims["claims"]
    for name, text in (("unstable_convergence", MINIATURE), ("mine", CHAPTER)):  # a kernel finds the checkout's ledgers
        there = f'"{name}", preset, __import__("pathlib").Path("{tmp_path}/notebooks/claims/{name}.yaml"))'
        (tmp_path / f"notebooks/{name}.py").write_text(text.replace(f'"{name}", preset)', there))
    slow = {name: stated[name] for name in stated if name != "control"} | {"id": "exp3/slow"}
    (tmp_path / "notebooks/claims/unstable_convergence.yaml").write_text(yaml.safe_dump(claims | {"claims": [slow]}))
    (tmp_path / "notebooks/presets/unstable_convergence.yaml").write_text("paper: {seeds: [1]}\n")
    (tmp_path / "notebooks/claims/mine.yaml").write_text(CLAIMS)
    monkeypatch.setattr(presets, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("EOSLIB_COMPUTE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_process(command, monkeypatch):
    """Run a command of the guide as `python -m eoslib` would; returns what of it a shell would have to do."""
    line, _, redirected = command.partition(" > ")
    words = shlex.split(line, comments=True)
    while "=" in words[0]:
        name, value = words.pop(0).split("=")
        monkeypatch.setenv(name, value.replace("cuda", "cpu"))
    assert words[:3] == ["python", "-m", "eoslib"]
    words = ["cpu" if word == "cuda" else word for word in words]  # where the guide moves to a GPU
    monkeypatch.setattr(sys, "argv", words[2:])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert not end.value.code, command
    return redirected


def accepted(command):
    """The real chapter has the parameters that a command sets."""
    words = shlex.split(command.partition(" > ")[0], comments=True)
    if "mine" in words or not {"-p", "-g"} & set(words):
        return False
    path = presets.chapter_path(words[words.index("eoslib") + 2], ROOT / "notebooks")
    pairs = list(itertools.pairwise(words))
    fixed = __main__._assignments([value for flag, value in pairs if flag == "-p"])
    for point in sweep.grid([value for flag, value in pairs if flag == "-g"]):
        values = presets.parameters(path, "quick", fixed | point)
        if "--only" in words:
            assert words[words.index("--only") + 1] in presets.declared_experiments(path, values)
    return True


def test_the_commands(project, monkeypatch, capsys):
    """From top to bottom, as a new user follows them."""
    checked, said = 0, []
    options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    whole = selftest.run
    monkeypatch.setattr(selftest, "run", lambda device: itertools.islice(whole(device), 2))
    with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
        monkeypatch.setattr(sweep, "_local", lambda: contextlib.nullcontext(cluster.scheduler_address))
        for command in COMMANDS:
            if command.startswith("make "):
                target = command.split()[1]
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            elif " dask " in f" {command}":
                words = shlex.split(command)
                which = words[words.index("dask") + 1 :]
                cli = {"scheduler": dask_scheduler, "worker": dask_worker}[which[0]]
                assert cli.main.make_context(which[0], which[1:]).params
            elif command.startswith("sbatch "):
                _runs_a_shard(Path(command.split()[1]), monkeypatch)
            else:
                checked += accepted(command)
                capsys.readouterr()
                into = in_process(command.replace("tcp://127.0.0.1:8786", cluster.scheduler_address), monkeypatch)
                said.append(capsys.readouterr().out)
                if into:
                    Path(into).write_text(said[-1])
    assert checked >= 5
    assert "optimiser_options: {} → {'momentum': 0.9}" in "".join(said)
    assert "exp3/sharpness" in (project / "sweep/results.csv").read_text()
    assert "momentum" in (project / "difference.html").read_text()


def _runs_a_shard(script, monkeypatch):
    """The script is one that a shell reads, and its last line is the command of a shard."""
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    command = script.read_text().splitlines()[-1].replace('"$SLURM_ARRAY_TASK_ID/2"', "2/2")
    shutil.rmtree("sweep")
    in_process(command.replace(sys.executable, "python"), monkeypatch)


def test_the_code(project, monkeypatch):
    """The blocks follow one another; what is declared in them runs."""
    monkeypatch.setattr(landscapes, "LANDSCAPES", landscapes.LANDSCAPES.copy())
    namespace = {}
    for text in PYTHON:
        if text not in (CHAPTER, LOOP):
            exec(compile(text, "book/rerun.md", "exec"), namespace)
    assert set(namespace["run"].trace) > {"loss", "relative_progress", "gradient_curvature"}
    assert {run["experiment"] for run in store.listing()} == {"mine.heavy-ball", "mine.rings", "mine.valley"}


def test_the_loop(tmp_path, monkeypatch):
    """`...` stands for a loop."""
    import torch

    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.eye(3), torch.tensor([0, 1, 0])
    loss_fn = torch.nn.functional.cross_entropy

    def loop():
        for _ in range(21):
            optimiser.zero_grad()
            loss_fn(model(x), y).backward()
            optimiser.step()

    monkeypatch.chdir(tmp_path)
    exec(LOOP.replace("    ...  ", "    loop()  "), {"eoslib": eoslib} | locals())
    assert {path.name for path in tmp_path.iterdir()} >= {"watched.png", "watched.nc"}


def test_every_block_is_of_a_kind_that_is_tested():
    gallery = [text for kind, text in BLOCKS if kind == "yaml" and text != CLAIMS]
    assert {kind for kind, _ in BLOCKS} == {"console", "python", "yaml"} and len(gallery) == 1
    assert yaml.safe_load(gallery[0])["chapter"] in presets.chapters(ROOT / "notebooks")
