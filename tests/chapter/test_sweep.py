"""Sweeps: what is swept, what a case finds, and that nothing that was found is lost."""

import asyncio
import contextlib
import csv
import errno
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import dask
import pytest
import torch
import yaml
from distributed import LocalCluster, Worker
from filelock import FileLock

from eoslib import store
from eoslib.chapter import presets, sweep

CHAPTER = """\
# %% tags=["parameters"]
preset: Literal["quick"] = "quick"
step_sizes: list[float] = [0.01, 0.02]
seed: int = 0
trouble: Literal["none", "raises", "dies", "waits"] = "none"

# %% tags=["plain"]
raise RuntimeError("a sweep does not execute it")

# %% tags=["experiments"]
from eoslib.chapter.experiments import Data, Descent, Network, Training

network = Network(architecture="mlp", sizes={"hidden": [4]}, activation="tanh")
training = Training(data=Data(dataset="digits", n=20), network=network, loss="mse-sum")
experiments = {
    "hill": [Descent(chapter="tiny", experiment="hill", problem=training, step_size=s, steps=5) for s in step_sizes],
    "net": [Descent(chapter="tiny", experiment="net", problem=training, step_size=0.1, steps=5, seed=seed)],
}

# %%
import os
import signal
import time
from pathlib import Path

from eoslib.chapter.claims import Ledger
from eoslib.chapter.experiments import collect

if trouble == "raises":
    raise ValueError("on purpose")
if trouble == "dies" and not Path("died").exists():
    Path("died").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if trouble == "waits":
    Path("waiting").write_text(str(os.getpid()))
    while not Path("go").exists():
        time.sleep(0.1)
ledger = Ledger("tiny", preset, Path("notebooks/claims/tiny.yaml"))
hill = collect(experiments["hill"])
ledger.measure("ex1/small", {f"{r.step_size}": r.trace.loss.values[-1] for r in hill}, hill)
net = collect(experiments["net"])
ledger.measure("ex1/learns", {"": r.trace.loss.values[-1] < r.trace.loss.values[0] for r in net}, net)
"""

CLAIMS = {
    "paper": "tiny2026",
    "claims": [
        {
            "id": f"ex1/{name}", "where": "Example 1", "statement": "…", "quantity": "f", "scale": "exact",
            "criteria": {"quick": criterion},
        }
        for name, criterion in (("small", {"at_most": 20.0}), ("learns", {"holds": True}))
    ],
}  # fmt: skip


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    (tmp_path / "notebooks/claims").mkdir(parents=True)
    (tmp_path / "notebooks/tiny.py").write_text(CHAPTER)
    (tmp_path / "notebooks/claims/tiny.yaml").write_text(yaml.safe_dump(CLAIMS))
    monkeypatch.setattr(presets, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "notebooks/tiny.py"


def table(folder):
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


# --- what is swept ---------------------------------------------------------------------------------------


def test_a_grid_is_all_combinations():
    given = sweep.grid(["a=1,[2, 3],tanh", "b=1:3:3"])
    assert [point["a"] for point in given[::3]] == ["1", "[2, 3]", "tanh"]
    assert [point["b"] for point in given[:3]] == ["1", "2", "3"] and len(given) == 9
    assert sweep.grid([]) == [{}]


def test_values_are_spaced_evenly_or_geometrically():
    assert [float(point["eta"]) for point in sweep.grid(["eta=2/100:2/10:3@log"])] == pytest.approx(
        [0.02, 0.02 * 10**0.5, 0.2]
    )
    assert [float(point["eta"]) for point in sweep.grid(["eta=-1:1:5"])] == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize(
    "text", ["a", "a=1,,2", "a=1:2", "a=1:2:3@lin", "a=0:2:3@log", "a=1:2:0", "a=x:2:3", "a=1:2:1.5"]
)
def test_a_grid_that_cannot_be_read_is_named(text):
    with pytest.raises(presets.ParameterError, match="-g"):
        sweep.grid([text])


def test_cases_come_from_a_file(tmp_path):
    (tmp_path / "c.csv").write_text('seed,step_sizes\n1,"[0.1, 0.2]"\n2,[0.3]\n')
    assert sweep.table(tmp_path / "c.csv") == [
        {"seed": "1", "step_sizes": "[0.1, 0.2]"}, {"seed": "2", "step_sizes": "[0.3]"}
    ]  # fmt: skip
    (tmp_path / "c.yaml").write_text("- {seed: 1}\n- {seed: 2, step_sizes: [0.3]}\n")
    assert sweep.table(tmp_path / "c.yaml") == [{"seed": 1}, {"seed": 2, "step_sizes": [0.3]}]
    for name, text in (("d.csv", "seed\n1,2\n"), ("d.yaml", "seed: 1\n"), ("e.yaml", "[")):
        (tmp_path / name).write_text(text)
        with pytest.raises(presets.ParameterError, match=name):
            sweep.table(tmp_path / name)
    with pytest.raises(presets.ParameterError, match=r"none\.csv"):
        sweep.table(tmp_path / "none.csv")


def test_each_case_is_there_once_and_has_a_key_of_its_own(chapter):
    given = [{"seed": "1"}, {"seed": "2"}, {"seed": "1"}]
    wanted = sweep.cases(chapter, "quick", given)
    assert [case.given for case in wanted] == [{"seed": 1}, {"seed": 2}]
    (alone,) = sweep.cases(chapter, "quick", given[:1], only="net")
    assert len({alone.key, *(case.key for case in wanted)}) == 3
    chapter.write_text(CHAPTER.replace("steps=5, seed", "steps=6, seed"))
    assert sweep.cases(chapter, "quick", given)[0].key != wanted[0].key


def test_nothing_runs_where_a_parameter_is_wrong(chapter):
    with pytest.raises(presets.ParameterError, match="'sed', did you mean 'seed'"):
        sweep.cases(chapter, "quick", [{"seed": "1"}, {"sed": "2"}])


def test_shards_share_the_cases():
    wanted = list("abcdefg")
    assert [sweep.of_shard(wanted, f"{i}/3") for i in (1, 2, 3)] == [list("adg"), list("be"), list("cf")]
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0"):
        with pytest.raises(presets.ParameterError, match="--shard"):
            sweep.of_shard(wanted, wrong)


# --- what a case finds -----------------------------------------------------------------------------------


def found(chapter, tmp_path, only=None, **given):
    (case,) = sweep.cases(chapter, "quick", [given], only)
    sweep.case_of(case, tmp_path / "out")
    return json.loads((tmp_path / "out" / f"{case.key}.json").read_text())


def test_a_case_finds_observables_and_claims(chapter, tmp_path):
    values = found(chapter, tmp_path, seed=3)
    rows = {(row["name"], row["label"]): row for row in values["rows"]}
    (run,) = [
        store.find(e.identity) for n, e in sweep.cases(chapter, "quick", [{"seed": 3}])[0].experiments() if n == "net"
    ]
    assert rows["net/loss", "η = 0.1, seed 3"]["value"] == run.trace.loss.values[-1]
    assert rows["tiny2026/ex1/learns", ""]["value"] is True
    assert rows["tiny2026/ex1/learns", ""]["verdict"] == "reproduced"
    assert {label for name, label in rows if name == "tiny2026/ex1/small"} == {"0.01", "0.02"}
    assert values["threads"].keys() == {*sweep.THREADS, "torch"} and values["given"] == {"seed": 3}


def test_of_one_experiment_only_its_runs_are_computed_and_its_claims_judged(chapter, tmp_path):
    rows = found(chapter, tmp_path, only="net")["rows"]
    assert {row["name"] for row in rows if row["kind"] == "claim"} == {"tiny2026/ex1/learns"}
    assert [run["experiment"] for run in store.listing()] == ["tiny.net"]
    with pytest.raises(presets.ParameterError, match="there are hill, net"):
        found(chapter, tmp_path, only="nets")


# --- all together ----------------------------------------------------------------------------------------


def test_no_case_is_lost_whatever_happens_to_others(chapter, tmp_path, capsys):
    """One worker is killed, one case raises; cases share runs; then the sweep goes on where it stopped."""
    given = [{"seed": s, "trouble": t} for t in ("none", "raises", "dies") for s in (0, 1)]
    wanted, out = sweep.cases(chapter, "quick", given), tmp_path / "out"
    failed = sweep.sweep(wanted, out)
    assert sorted(failed) == sorted(case.key for case in wanted if case.given["trouble"] == "raises")
    assert all("on purpose" in text and "tiny.py, code cell" in text for text in failed.values())
    assert (tmp_path / "died").exists()
    rows = table(out)
    assert Counter((row["seed"], row["trouble"]) for row in rows if row["name"] == "tiny2026/ex1/learns") == {
        (s, t): 1 for s in "01" for t in ("none", "dies")
    }
    assert Counter(run["experiment"] for run in store.listing()) == {"tiny.hill": 2, "tiny.net": 2}
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(written) == 4
    assert sweep.sweep([case for case in wanted if case.key not in failed], out) == {}  # and no worker is started
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.json")} == written
    threads = json.loads(next(out.glob("*.json")).read_text())["threads"]
    assert set(threads.values()) == {"1", 1}
    picture = sweep.plot(out, "net/loss:seed:trouble")
    assert picture.read_text().startswith("<?xml") and picture.name == "net-loss-seed-trouble.svg"
    with pytest.raises(presets.ParameterError, match="net/loss"):
        sweep.plot(out, "net/los:seed")


def in_this_process():
    """A cluster."""
    options = {"threads_per_worker": 1, "protocol": "tcp", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    return LocalCluster(n_workers=1, processes=False, **options)


@pytest.fixture
def in_process(monkeypatch):
    """That in place of the local one."""
    with in_this_process() as cluster:
        monkeypatch.setattr(sweep, "_local", lambda: contextlib.nullcontext(cluster.scheduler_address))
        yield cluster


def test_where_the_disk_is_full_cases_fail_and_are_done_when_it_is_not(chapter, tmp_path, in_process, monkeypatch):
    wanted, out = sweep.cases(chapter, "quick", [{"seed": s} for s in range(3)]), tmp_path / "out"
    replace, full = os.replace, f"{wanted[1].key}.json"

    def until_full(source, target):
        if Path(target).name == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", until_full)
    failed = sweep.sweep(wanted, out)
    assert list(failed) == [wanted[1].key] and "make room" in failed[wanted[1].key]
    assert {row["seed"] for row in table(out)} == {"0", "2"}
    monkeypatch.setattr(os, "replace", replace)
    assert sweep.sweep(wanted, out) == {} and {row["seed"] for row in table(out)} == {"0", "1", "2"}


WHOLE = """
import os, pathlib, sys
from eoslib.chapter import presets, sweep
presets.NOTEBOOKS = pathlib.Path("notebooks")
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
given = [{"seed": s, "trouble": "waits" if s else "none"} for s in (0, 1)]
sweep.sweep(sweep.cases(presets.NOTEBOOKS / "tiny.py", "quick", given), pathlib.Path("out"))
"""


def test_a_sweep_whose_scheduler_is_killed_loses_no_case_and_leaves_no_worker(chapter, tmp_path, in_process):
    """The scheduler is the sweep's own process; the second case waits until there is a file, and then for good."""
    process = subprocess.Popen([sys.executable, "-c", WHOLE], cwd=tmp_path)
    assert _within(600, lambda: list((tmp_path / "out").glob("*.json")) and (tmp_path / "waiting").exists())
    worker = int((tmp_path / "waiting").read_text())
    process.kill()
    process.wait()
    assert _within(120, lambda: not os.path.exists(f"/proc/{worker}"))
    (first,) = (tmp_path / "out").glob("*.json")
    before = first.stat().st_mtime_ns
    (tmp_path / "go").touch()
    wanted = sweep.cases(chapter, "quick", [{"seed": s, "trouble": "waits" if s else "none"} for s in (0, 1)])
    assert sweep.sweep(wanted, tmp_path / "out") == {} and first.stat().st_mtime_ns == before
    assert {row["seed"] for row in table(tmp_path / "out")} == {"0", "1"}


def test_where_a_scheduler_elsewhere_is_killed_the_sweep_says_so_and_goes_on_with_another(chapter, tmp_path):
    """The second case is under way when it dies; what the first found is kept, and not found again."""
    wanted = sweep.cases(chapter, "quick", [{"seed": s, "trouble": "waits" if s else "none"} for s in (0, 1)])
    out, port = tmp_path / "out", tmp_path / "scheduler.json"
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(port)]
    scheduler = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    try:
        assert _within(600, lambda: port.exists() and port.stat().st_size)
        address = json.loads(port.read_text())["address"]

        async def work():
            async with Worker(address, nthreads=1) as worker:
                await worker.finished()

        def kill():
            _within(600, lambda: list(out.glob("*.json")) and (tmp_path / "waiting").exists())
            scheduler.kill()

        for run in (functools.partial(asyncio.run, work()), kill):
            threading.Thread(target=run, daemon=True).start()
        with pytest.raises(sweep.SchedulerLost, match=f"{address} was lost.*the same command goes on"):
            sweep.sweep(wanted, out, address)
    finally:
        scheduler.kill()
        scheduler.wait()
    (first,) = out.glob("*.json")
    before = first.stat().st_mtime_ns
    assert {row["seed"] for row in table(out)} == {"0"}
    (tmp_path / "go").touch()
    with in_this_process() as cluster:
        assert sweep.sweep(wanted, out, cluster.scheduler_address) == {} and first.stat().st_mtime_ns == before
    assert {row["seed"] for row in table(out)} == {"0", "1"}


def test_while_a_sweep_runs_nothing_else_goes_to_its_scheduler(chapter, tmp_path):
    """Or a case that outlives its scheduler leaves the process with one that is gone, which xarray asks for locks."""
    with in_this_process() as cluster:
        under_way = sweep._done(sweep.cases(chapter, "quick", [{}]), tmp_path, cluster.scheduler_address)
        (_, failure), scheduler = next(under_way), dask.config.get("scheduler", None)
        assert failure is None and scheduler is None
        assert list(under_way) == []


def test_where_no_scheduler_answers_it_is_named(chapter, tmp_path):
    lost = pytest.raises(sweep.SchedulerLost, match=r"tcp://127\.0\.0\.1:9")
    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}), lost:
        sweep.sweep(sweep.cases(chapter, "quick", [{}]), tmp_path / "out", "tcp://127.0.0.1:9")


def _within(seconds, holds):
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.1)
    return holds()


def test_each_gpu_has_a_worker_that_sees_it_alone(monkeypatch):
    monkeypatch.setattr(store, "default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in sweep.environments()] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")  # as a batch system gives them
    assert [e["CUDA_VISIBLE_DEVICES"] for e in sweep.environments()] == ["5", "7"]
    monkeypatch.undo()
    assert sweep.environments() == [dict.fromkeys(sweep.THREADS, "1")] * len(os.sched_getaffinity(0))


def test_a_sweep_that_is_under_way_is_not_begun_twice(chapter, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/lock-1-of-1"), pytest.raises(store.StoreError, match="another process"):
        sweep.sweep(sweep.cases(chapter, "quick", [{}]), tmp_path / "out")


def test_a_job_script_runs_a_shard_in_each_job():
    script = sweep.job(["mini", "-g", "hidden=[4, 4],[8]", "-o", "out"], 5)
    assert "#SBATCH --array=1-5\n" in script and f"--chdir={os.getcwd()}\n" in script
    assert "sweep mini -g 'hidden=[4, 4],[8]' -o out --shard \"$SLURM_ARRAY_TASK_ID/5\"\n" in script
