"""store.journal: nothing is lost, nothing is computed twice, and a run that was cut short ends as if it had not been.

Processes are really killed; `Walk` is cheap enough for that, and trajectories are killed too.
"""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import xarray as xr
from walk import (
    FINISHED,
    IDENTITY,
    Walk,
    begun_elsewhere,
    carried_on,
    environment,
    flip_a_bit,
    folder,
    interrupted,
    named,
    names,
    never,
    script,
    stop_at,
    whole,
)  # fmt: skip

from eoslib import store
from eoslib.chapter import experiments
from eoslib.chapter.experiments import Data, Descent, Network, Training
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.curvature import Sharpness
from eoslib.measure.progress import HeldOut, Progress, SegmentSmoothness
from eoslib.problems.batches import Batches
from eoslib.store import files, journal

MLP = Network(architecture="mlp", sizes={"hidden": [8]}, activation="tanh")
TRAINING = Training(data=Data(dataset="digits", n=40), network=MLP, loss="mse-half-sum")
GD = Descent(
    chapter="test", experiment="gd", step_size=2 / 5, steps=300, problem=TRAINING,
    measurements=(Progress(), Sharpness(every=2), SegmentSmoothness(every=5, nodes=3)),
)  # fmt: skip
SGD = replace(
    GD, experiment="sgd", problem=replace(TRAINING, loss="cross-entropy"), batches=Batches(batch_size=7),
    measurements=(), keep=(0, 100, "last"),
)  # fmt: skip
IMAGES = replace(TRAINING, network=Network(architecture="cnn", sizes={"width": 2}, activation="tanh"))
NORMALISED = Network(architecture="resnet18", sizes={"widths": [4], "norm": "batch"}, activation="relu")
SHORT = replace(SGD, steps=130)
EACH = {
    "gradient descent with tracker": GD,
    "SGD": SGD,
    "momentum": replace(SHORT, step_size=0.05, rule=Rule(name="SGD", options={"momentum": 0.9})),
    "Adam, and the sharpness at some epochs": replace(
        SHORT, step_size=0.01, rule=Rule(name="Adam"), measurements=(Sharpness(every="epoch"),)
    ),
    "a schedule by epoch": replace(
        SHORT, schedule=Schedule(name="StepLR", options={"step_size": 3, "gamma": 0.9}, advances="epoch")
    ),
    "augmentation": replace(SHORT, problem=IMAGES, batches=Batches(batch_size=10, crop=1, flip=True)),
    "batch normalisation": replace(
        SHORT,
        step_size=0.05,
        problem=replace(TRAINING, network=NORMALISED),
        batches=Batches(batch_size=10),
        measurements=(HeldOut(every="epoch", examples=20),),  # which reads the running statistics
    ),
    "noise": replace(GD, steps=130, batches=Batches(noise="normal", noise_size=1e-3), measurements=()),
}


def test_what_is_read_back_is_what_was_returned():
    computed = store.carry_on(Walk(), IDENTITY)
    found = store.find(IDENTITY)
    assert xr.testing.assert_identical(found.stored, computed.stored) is None
    assert xr.testing.assert_identical(found.trace, computed.trace) is None
    assert (found.manifest, found.identity, found.key) == (computed.manifest, computed.identity, computed.key)
    assert store.values_sha256(found.stored) == found.manifest["values_sha256"]
    said = "identity commit library_sha256 versions machine threads wall_seconds seconds_per_step gradients products"
    assert found.manifest.keys() >= {*said.split(), "key", "family", "stretches", "kept", "step", "resumes"}
    assert (found.manifest["key"], found.manifest["family"]) == (IDENTITY.key, IDENTITY.family)
    assert found.identity == store.plain(IDENTITY.values)


def test_a_finished_run_leaves_nothing_else_behind():
    interrupted()
    carried_on(Walk())
    assert names(folder()) == FINISHED


def test_a_finished_run_is_not_computed_again_unless_fresh():
    first = store.carry_on(Walk(), IDENTITY)
    assert store.carry_on(Walk(hook=never), IDENTITY).manifest == first.manifest
    with pytest.raises(AssertionError, match="computed again"):
        store.carry_on(Walk(hook=never), IDENTITY, fresh=True)


def test_two_runs_of_the_same_write_the_same_bytes(monkeypatch):
    traces = []
    for name in "ab":
        monkeypatch.setenv("EOSLIB_RUNS", os.environ["EOSLIB_RUNS"] + name)
        store.carry_on(Walk(), IDENTITY)
        traces.append((folder() / "trace.nc").read_bytes())
    assert traces[0] == traces[1]


def test_the_trace_does_not_depend_on_when_it_was_checkpointed():
    """Sparse and vector observables are absent from most parts that are written at each step."""
    often = carried_on(Walk())
    assert xr.testing.assert_identical(often.stored, whole().stored) is None


# --- interruptions ------------------------------------------------------------------------------------------


def test_an_interrupted_walk_ends_as_if_it_had_not_been():
    interrupted(at=25)
    interrupted(at=31)
    run = store.carry_on(Walk(), IDENTITY)
    assert run.manifest["values_sha256"] == whole().manifest["values_sha256"]
    assert run.manifest["resumes"] == 2


def test_ctrl_c_says_where_the_run_resumes_and_keeps_the_last_checkpoint(capsys):
    with pytest.raises(KeyboardInterrupt):
        store.carry_on(Walk(hook=stop_at(25)), IDENTITY, checkpoint_seconds=1e9)
    assert "resumes at step 0" in capsys.readouterr().err
    assert store.status(IDENTITY) == "not started"
    interrupted(at=25)
    assert "resumes at step 25" in capsys.readouterr().err
    assert store.status(IDENTITY) == "at step 25"
    steps = []
    store.carry_on(Walk(hook=steps.append), IDENTITY)
    assert steps == list(range(25, 40))


def test_a_checkpoint_is_due_when_many_rows_are_in_memory(monkeypatch):
    monkeypatch.setattr(journal, "ROWS_IN_MEMORY", 10)
    with pytest.raises(KeyboardInterrupt):
        store.carry_on(Walk(hook=stop_at(25)), IDENTITY, checkpoint_seconds=1e9)
    assert store.status(IDENTITY) == "at step 20"


@pytest.fixture
def clock(monkeypatch):
    """Seconds pass only when the test says so: append to the list."""
    ticks = []
    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: float(len(ticks))))
    return ticks


def test_a_budget_stops_cleanly_and_the_next_one_continues(clock):
    assert store.carry_on(Walk(hook=clock.append), IDENTITY, budget=10) is None
    assert store.status(IDENTITY) == "at step 10"
    assert store.carry_on(Walk(hook=never), IDENTITY, budget=0) is None
    assert store.status(IDENTITY) == "at step 10"
    run = store.carry_on(Walk(hook=clock.append), IDENTITY, budget=31)
    assert run.manifest["values_sha256"] == whole().manifest["values_sha256"]
    assert run.manifest["wall_seconds"] == 40  # of all stretches together


def test_a_run_that_ends_with_its_budget_is_finished(clock):
    assert store.carry_on(Walk(hook=clock.append), IDENTITY, budget=40) is not None


def test_checkpoints_are_as_far_apart_as_asked(clock):
    hook = stop_at(25)
    with pytest.raises(KeyboardInterrupt):
        store.carry_on(Walk(hook=lambda t: (clock.append(t), hook(t))), IDENTITY, checkpoint_seconds=7)
    assert store.status(IDENTITY) == "at step 21"


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([0, 0, 0, 0, 0], [7, 14, 21, 28, 35]),
        ([2, 0, 0], [7, 107, 114]),  # fifty times 2 s, then again the 7 s that were asked for
        ([1, 2, 0], [7, 57, 157]),
    ],
)
def test_checkpoints_are_fifty_times_further_apart_than_what_the_last_one_cost(clock, monkeypatch, costs, expected):
    at, save, left = [], journal._Journal.save, list(costs)

    def slow(self):
        save(self)
        at.append(self.process.t)
        clock.extend(range(left.pop(0) if left else 0))

    monkeypatch.setattr(journal._Journal, "save", slow)
    run = store.carry_on(Walk(160, hook=clock.append), IDENTITY, checkpoint_seconds=7)
    assert at[: len(expected)] == expected
    assert run.manifest["wall_seconds"] == 160 + sum(costs)
    assert run.manifest["values_sha256"] == whole(160).manifest["values_sha256"]


def test_the_seconds_of_a_step_are_those_of_all_stretches(clock):
    assert store.carry_on(Walk(hook=clock.append), IDENTITY, budget=10) is None
    clock.extend(range(1000))  # nobody works on it meanwhile
    run = store.carry_on(Walk(hook=lambda t: clock.extend((t, t))), IDENTITY)
    assert run.manifest["wall_seconds"] == 10 + 2 * 30
    assert run.manifest["seconds_per_step"] == 70 / 40


def test_a_run_of_no_step_has_no_seconds_per_step_to_stumble_over(clock):
    assert store.carry_on(Walk(0), IDENTITY).manifest["seconds_per_step"] == 0


KILLS = """
import random, signal
torch.set_num_threads(1)
from eoslib.chapter.experiments import *
from eoslib.measure.curvature import *
from eoslib.measure.progress import *
experiment = {experiment!r}
identity, process = experiment.identity, experiment.process(torch.device("cpu"))
checkpoint = store.home() / identity.key / "checkpoint.json"
rng, killed = random.Random(0), 0
def step():
    if checkpoint.exists():
        with contextlib.suppress(store.StoreError):
            return files.read_json(checkpoint)["step"]
    return -1
while True:
    before = step()
    child = os.fork()
    if child == 0:
        carried_on(process, identity)
        os._exit(0)
    if killed < {most}:
        while killed > 2 and step() == before and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(1e-4)  # let it come further than its predecessor
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        assert status == 0
        break
    killed += 1
print(killed)
"""


@pytest.mark.parametrize("experiment", EACH.values(), ids=EACH)
def test_kill_9_at_any_instant_changes_no_bit(experiment):
    assert script(KILLS.format(experiment=experiment, most=8)) == "8\n"
    run = store.find(experiment.identity)
    assert run.manifest["resumes"] >= 5
    assert run.stored.sizes["step"] == run.trace.sizes["step"] == experiment.steps
    assert run.diverged_at is None
    kept = [f"theta-{at}.safetensors" for at in experiment.keep]
    assert names(folder()) == sorted([*FINISHED, *kept])
    assert store.verify() == []
    undisturbed = experiments.carry_on(experiment, fresh=True)
    assert run.manifest["values_sha256"] == undisturbed.manifest["values_sha256"]
    for counted in ("gradients", "products", "diverged_at", "step", "kept"):
        assert run.manifest[counted] == undisturbed.manifest[counted], counted


def test_what_makes_these_trajectories_differ_is_at_work():
    """A trajectory whose momentum, schedule, augmentation or noise did nothing would resume as well."""
    keys, ends = set(), set()
    for experiment in (SGD, *EACH.values()):
        run = experiments.carry_on(replace(experiment, steps=30, measurements=(), keep=("last",)))
        keys.add(run.key)
        ends.add(tuple(run.theta().tolist()))
    assert len(keys) == len(ends) == len(EACH)
    plain = {name: replace(EACH[name], steps=30, measurements=(), keep=("last",)) for name in EACH}
    for name, without in {
        "momentum": {"rule": Rule()},
        "a schedule by epoch": {"schedule": Schedule()},
        "augmentation": {"batches": Batches(batch_size=10)},
        "noise": {"batches": Batches()},
    }.items():
        with_, bare = (experiments.carry_on(e) for e in (plain[name], replace(plain[name], **without)))
        assert not torch.equal(with_.theta(), bare.theta()), name


@pytest.mark.parametrize("victim", ["rows-", "state-", "theta-", "checkpoint.json", "trace.nc", "manifest.json"])
@pytest.mark.parametrize("instant", ["before", "half written", "before the rename", "after"])
def test_a_crash_in_the_middle_of_each_write_changes_no_bit(victim, instant, monkeypatch):
    """kill -9 finds these instants by chance; here each is met."""
    write = store.write_atomically

    class Crash(BaseException):
        pass

    def crashing(path, content):
        if not path.name.startswith(victim) or (store.status(IDENTITY) == "not started" and "json" not in victim):
            return write(path, content)  # the first checkpoint is left alone, so that there is one to return to
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        if instant == "after":
            write(path, content)
        elif instant != "before":
            temporary.write_bytes(content[: len(content) // (2 if instant == "half written" else 1)])
        raise Crash

    for module in (journal, files):
        monkeypatch.setattr(module, "write_atomically", crashing)
    with pytest.raises(Crash):
        carried_on(Walk(10, keep=(0, 4, "last")))
    for module in (journal, files):
        monkeypatch.setattr(module, "write_atomically", write)
    run = carried_on(Walk(10, keep=(0, 4, "last")))
    assert run.manifest["values_sha256"] == whole(10).manifest["values_sha256"]
    assert store.verify() == []
    left = {name for name in names(folder()) if not name.startswith((".", "rows-", "state-", "checkpoint"))}
    assert left == {*FINISHED, *run.manifest["kept"]}
    if (victim, instant) != ("manifest.json", "after"):  # what it had no time to delete then is not looked at again
        assert names(folder()) == sorted(left)
    expected = kept_by(Walk(10, keep=(0, 4, "last")))
    assert expected.keys() == {"0", "4", "last"}
    assert all(torch.equal(run.theta(at), theta) for at, theta in expected.items())


def kept_by(walk):
    """θ by its name, if nothing disturbs."""
    kept = dict(walk.kept)
    while not walk.finished:
        walk.step()
        kept |= walk.kept
    return kept


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("unlinked", range(4))
def test_a_crash_while_a_run_is_begun_anew_leaves_nothing_half_deleted(finished, unlinked, monkeypatch):
    interrupted()
    if finished:
        store.carry_on(Walk(), IDENTITY)
    left, unlink, glob = [unlinked], Path.unlink, Path.glob

    class Crash(BaseException):
        pass

    def crashing(self, *arguments, **options):
        if not left[0]:
            raise Crash
        left[0] -= self.exists()
        unlink(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises((Crash, AssertionError)):
        patch.setattr(Path, "unlink", crashing)
        patch.setattr(Path, "glob", lambda *arguments: sorted(glob(*arguments), reverse=True))  # in the worst order
        store.carry_on(Walk(hook=never), IDENTITY, fresh=True)
    assert store.verify() == []
    assert store.carry_on(Walk(), IDENTITY).manifest["values_sha256"] == whole().manifest["values_sha256"]


def test_what_a_killed_write_left_is_swept_up():
    interrupted()
    (folder() / ".rows-000000025-000000031.npz.4711.tmp").write_bytes(b"half")
    (folder() / "rows-000000025-000000031.npz").write_bytes(b"never committed")
    run = store.carry_on(Walk(), IDENTITY)
    assert names(folder()) == FINISHED
    assert run.manifest["values_sha256"] == whole().manifest["values_sha256"]


def test_a_checkpoint_of_another_machine_is_refused():
    interrupted()
    begun_elsewhere()
    for _ in range(2):
        with pytest.raises(store.StoreError, match=r"another machine.*abacus.*--fresh, or say --mix"):
            store.carry_on(Walk(hook=never), IDENTITY)
    assert store.status(IDENTITY) == "at step 25"  # where it can go on
    assert store.carry_on(Walk(), IDENTITY, fresh=True).manifest["resumes"] == 0
    assert store.find(IDENTITY).manifest["stretches"] == []


@pytest.mark.parametrize("part", ["processor", "gpu", "torch"])
def test_each_part_of_what_a_machine_is_makes_another(part):
    interrupted()
    path = folder() / "checkpoint.json"
    checkpoint = files.read_json(path)
    files.write_json(path, checkpoint | {"machine": checkpoint["machine"] | {part: "other"}})
    with pytest.raises(store.StoreError, match="another machine"):
        store.carry_on(Walk(hook=never), IDENTITY)


def test_with_mix_another_machine_goes_on_and_the_manifest_says_how_far_each_came(capsys):
    interrupted()
    here = files.read_json(folder() / "checkpoint.json")["machine"]
    abacus = begun_elsewhere()
    with pytest.raises(KeyboardInterrupt):
        carried_on(Walk(hook=stop_at(31)), mix=True)
    sliderule = begun_elsewhere("slide rule")  # where the stretch from 25 to 31 was taken
    steps = []
    run = store.carry_on(Walk(hook=steps.append), IDENTITY, mix=True)
    assert steps == list(range(31, 40))
    assert run.manifest["machine"] == here
    assert run.manifest["stretches"] == [{"machine": abacus, "to_step": 25}, {"machine": sliderule, "to_step": 31}]
    assert store.find(IDENTITY).manifest["stretches"] == run.manifest["stretches"]
    assert run.manifest["values_sha256"] == whole().manifest["values_sha256"]  # of the same kind in truth


def test_a_mixed_run_goes_on_where_it_was_last_without_being_told_again():
    interrupted()
    abacus = begun_elsewhere()
    with pytest.raises(KeyboardInterrupt):
        carried_on(Walk(hook=stop_at(31)), mix=True)
    run = store.carry_on(Walk(), IDENTITY)
    assert run.manifest["stretches"] == [{"machine": abacus, "to_step": 25}]


def test_a_run_of_one_machine_has_no_stretches():
    interrupted()
    assert store.carry_on(Walk(), IDENTITY, mix=True).manifest["stretches"] == []


def test_a_resumed_run_keeps_its_number_of_threads_and_gives_ours_back():
    interrupted()
    seen = []
    torch.set_num_threads(2)
    try:
        store.carry_on(Walk(hook=lambda t: seen.append(torch.get_num_threads())), IDENTITY)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert store.find(IDENTITY).manifest["threads"] == 1


# --- θ that is kept --------------------------------------------------------------------------------------------


def test_theta_is_kept_at_the_steps_that_were_asked_for_and_at_the_end():
    path, walk = [], Walk(40, keep=(0, 7, 39, "last"))
    walk.hook = lambda t: path.append(walk.theta.clone())
    run = store.carry_on(walk, IDENTITY)
    assert names(folder()) == sorted([*FINISHED, *(f"theta-{at}.safetensors" for at in (0, 7, 39, "last"))])
    for at in (0, 7, 39):
        assert torch.equal(run.theta(at), path[at])
        assert torch.equal(store.find(IDENTITY).theta(str(at)), path[at])
    assert torch.equal(run.theta(), walk.theta) and torch.equal(run.theta("last"), walk.theta)
    assert run.theta().dtype == torch.float64
    run.theta()[0] = 7
    assert torch.equal(run.theta(), walk.theta)  # each reader has its own


@pytest.mark.parametrize("at", [1, 6, 7, 8, 38, 39])
def test_theta_survives_an_interruption_at_any_step(at):
    keep = (0, 7, 39, "last")
    interrupted(at=at, keep=keep)
    so_far = {f"theta-{k}.safetensors" for k in keep[:-1] if k <= at}
    assert files.read_json(folder() / "checkpoint.json")["kept"].keys() == so_far
    run = store.carry_on(Walk(keep=keep), IDENTITY)
    assert run.manifest["resumes"] == 1
    assert all(torch.equal(run.theta(k), theta) for k, theta in kept_by(Walk(keep=keep)).items())


def test_theta_of_a_trajectory_is_that_of_its_iterate():
    """At given steps it is where the trajectory of so many steps ends, whole or in minibatches."""
    for experiment in (replace(GD, measurements=(), steps=12), replace(SGD, steps=12)):
        run = experiments.carry_on(replace(experiment, keep=(0, 5, 12, "last")))
        process = experiment.process(torch.device("cpu"))
        for t in range(13):
            if t in (0, 5, 12):
                assert torch.equal(run.theta(t), process.theta)
            if t < 12:
                process.step()
        assert torch.equal(run.theta(12), run.theta("last"))
        assert run.theta(0).dtype == torch.float32


def test_the_last_theta_of_a_run_that_diverged_or_stopped_early_is_kept():
    stopped = replace(GD, measurements=(Progress(),), stop_accuracy=0.5, keep=("last", 299))
    run = experiments.carry_on(stopped)
    assert 0 < run.manifest["step"] < 300
    assert run.manifest["kept"].keys() == {"theta-last.safetensors"}
    assert run.trace["accuracy"][-1] >= 0.5
    diverged = experiments.carry_on(replace(GD, measurements=(), step_size=1e6, keep=("last",)))
    assert diverged.diverged_at is not None and diverged.manifest["step"] < 300
    assert len(diverged.theta()) == len(run.theta())


def test_what_was_not_kept_is_named_with_the_way_to_it():
    run = store.carry_on(Walk(keep=(7,)), IDENTITY)
    for at, declared in ((8, r"keep=\(8,\)"), ("last", r"keep=\('last',\)"), (70, r"keep=\(70,\)")):
        with pytest.raises(store.StoreError, match=rf"{run.key} keeps no θ of step {at}: declare {declared}"):
            run.theta(at)
    bare = store.carry_on(Walk(), named(seed=1))
    with pytest.raises(store.StoreError, match="keeps no θ of step last"):
        bare.theta()


def test_a_recorded_run_has_no_theta_and_says_how_to_get_it(monkeypatch, tmp_path):
    store.record(store.carry_on(Walk(keep=(7,)), IDENTITY))
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "empty"))
    run = store.find(IDENTITY)
    assert run.recorded
    with pytest.raises(store.StoreError, match=r"keeps no θ of step 7.*--fresh where it is recorded"):
        run.theta(7)
    assert store.verify() == []
    assert torch.equal(store.carry_on(Walk(keep=(7,)), IDENTITY, fresh=True).theta(7), store.find(IDENTITY).theta(7))


@pytest.mark.parametrize("harm", ["flipped", "missing", "another run's"])
def test_a_damaged_theta_is_named_and_never_used(harm):
    run = store.carry_on(Walk(keep=(7, "last")), IDENTITY)
    path = folder() / "theta-7.safetensors"
    if harm == "flipped":
        flip_a_bit(path)
    elif harm == "missing":
        path.unlink()
    else:
        path.write_bytes(safetensors.torch.save({"theta": torch.zeros(3, dtype=torch.float64)}))
    with pytest.raises(store.Damaged, match=r"theta-7.*--fresh"):
        run.theta(7)
    assert run.theta("last").shape == (3,)
    assert [str(path) in problem for problem in store.verify()] == [True]
    assert store.carry_on(Walk(keep=(7, "last")), IDENTITY, fresh=True).theta(7).shape == (3,)
    assert store.verify() == []


def test_a_damaged_theta_of_an_unfinished_run_is_found_by_verify():
    interrupted(keep=(7,))
    assert store.verify() == []
    flip_a_bit(folder() / "theta-7.safetensors")
    (problem,) = store.verify()
    assert "theta-7.safetensors is damaged" in problem


def test_fresh_forgets_the_theta_of_before():
    store.carry_on(Walk(keep=(7,)), IDENTITY)
    store.carry_on(Walk(), IDENTITY, fresh=True)
    assert names(folder()) == FINISHED


# --- two processes --------------------------------------------------------------------------------------------

TWO = """
def slow(t):
    with open("steps", "a") as file:
        file.write("x")
    time.sleep(0.02)
first = os.fork()
if first == 0:
    store.carry_on(Walk(hook=slow), IDENTITY, checkpoint_seconds=0)
    os._exit(0)
while not os.path.exists("steps"):
    time.sleep(0.005)
run = store.carry_on(Walk(hook=slow), IDENTITY)
assert os.waitpid(first, 0)[1] == 0
print(first, run.manifest["values_sha256"], flush=True)
"""


def test_of_two_processes_on_one_run_one_works_and_the_other_says_who_holds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "from walk import *\n" + TWO], capture_output=True, text=True, timeout=300,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    holder, sha256 = done.stdout.split()
    assert f"waiting for process {holder} on {os.uname().nodename}" in done.stderr
    assert (tmp_path / "steps").stat().st_size == 40  # each step once
    assert sha256 == store.find(IDENTITY).manifest["values_sha256"] == whole().manifest["values_sha256"]


def test_a_budget_ends_the_wait_for_another_process_too():
    """`compute --budget 1` must not hang for hours because another process holds the run."""
    holding, release = threading.Event(), threading.Event()

    def hold(t):
        holding.set()
        release.wait(60)

    holder = threading.Thread(target=store.carry_on, args=(Walk(3, hook=hold), IDENTITY))
    holder.start()
    try:
        assert holding.wait(60)
        assert store.carry_on(Walk(hook=never), IDENTITY, budget=0.1) is None
    finally:
        release.set()
        holder.join()


def test_the_lock_of_a_killed_process_is_free():
    script(
        """
        import signal
        store.carry_on(Walk(hook=lambda t: t == 5 and os.kill(os.getpid(), signal.SIGKILL)), IDENTITY)
        """,
        "sh", "-c", '"$@"; test $? = 137', "-",
    )  # fmt: skip
    assert store.carry_on(Walk(), IDENTITY).manifest["values_sha256"] == whole().manifest["values_sha256"]
