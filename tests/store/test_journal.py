"""eoslib.runs: nothing is lost, nothing damaged is used, nothing is computed twice.

Faults are made in processes that are really killed, on disks that are really full. `Walk` is a process cheap
enough for that; gradient descent itself is killed too.
"""

import inspect
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from eoslib import store
from eoslib.chapter import experiments
from eoslib.store import files, journal, traces

ROOT = Path(__file__).parents[2]


class Walk:
    """A random walk. What matters of its state is a vector, a generator and a number; one observable is sparse, one a
    vector, one both. hook: called with t before each step."""

    def __init__(self, steps=40, hook=lambda t: None):
        self.steps, self.hook, self.t = steps, hook, 0
        self.theta, self.generator = torch.zeros(3, dtype=torch.float64), torch.Generator().manual_seed(5)

    @property
    def finished(self):
        return self.t >= self.steps

    def step(self):
        self.hook(self.t)
        self.theta = 0.9 * self.theta + torch.randn(3, generator=self.generator, dtype=torch.float64)
        self.t += 1

    def observe(self):
        row = {"loss": self.theta.norm().item(), "theta": self.theta.tolist()}
        return row | ({"sharpness": 1 / self.t, "eigenvalues": [1.0, self.t]} if self.t % 7 == 3 else {})

    def state(self):
        return {"t": self.t, "theta": self.theta, "inner": {"generator": self.generator.get_state(), "none": None}}

    def load(self, state):
        self.t, self.theta = state["t"], state["theta"]
        self.generator.set_state(state["inner"]["generator"])
        assert state["inner"]["none"] is None


IDENTITY = {"chapter": "test", "experiment": "walk", "step_size": 0.5, "seed": 0, "hidden": (3, 4), "fingerprint": ""}
WALK = f"import torch\n{inspect.getsource(Walk)}\nIDENTITY = {IDENTITY}\n"  # for other processes

GD = experiments.TrainingRun(
    chapter="test", experiment="gd", step_size=2 / 5, steps=300, dataset="digits", n=40, loss="mse-half-sum",
    hidden=(8,), activation="tanh", sharpness_every=2, segment_every=5, segment_nodes=3,
)  # fmt: skip
SGD = experiments.SGDRun(
    chapter="test", experiment="sgd", step_size=2 / 5, steps=300, dataset="digits", n=40, loss="cross-entropy",
    hidden=(8,), activation="relu", batch_size=7,
)  # fmt: skip


def folder():
    (found,) = store.home().iterdir()
    return found


def names(path):
    return sorted(p.name for p in path.iterdir())


def stop_at(k, error=KeyboardInterrupt):
    """A hook that raises in the k-th step."""

    def hook(t):
        if t == k:
            raise error

    return hook


def never(t):
    raise AssertionError("a finished run was computed again")


def interrupted(at=25, steps=40, **options):
    """Leave a checkpointed, unfinished walk in the store."""
    with pytest.raises(KeyboardInterrupt):
        store.carry_on(Walk(steps, stop_at(at)), IDENTITY, checkpoint_seconds=0, **options)


def whole(steps=40):
    """The walk that nothing disturbs, from a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EOSLIB_RUNS", os.environ["EOSLIB_RUNS"] + f"-undisturbed-{time.monotonic_ns()}")
        return store.carry_on(Walk(steps), IDENTITY)


def script(code, *prefix, **environment):
    """Run Python in a process of its own with `Walk` defined; returns its standard output."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", WALK + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- a run and its trace ---------------------------------------------------------------------------------


def test_a_trace_holds_every_step_labelled_with_nan_where_nothing_was_measured():
    run = store.carry_on(Walk(), IDENTITY)
    assert run.trace["step"].values.tolist() == list(range(40))
    assert run.trace["theta"].dims == ("step", "coordinate")
    assert run.trace["eigenvalues"].dims == ("step", "eigenvalue")
    measured = np.isfinite(run.trace["sharpness"].values)
    assert np.flatnonzero(measured).tolist() == [2, 9, 16, 23, 30, 37]
    assert np.isfinite(run.trace["eigenvalues"].values).all(1).tolist() == measured.tolist()
    for variable in run.trace.variables.values():
        assert variable.attrs["long_name"] and variable.attrs["units"]
    assert json.loads(run.trace.attrs["identity"]) == run.identity


def test_what_is_read_back_is_what_was_returned():
    computed = store.carry_on(Walk(), IDENTITY)
    found = store.find(IDENTITY)
    assert xr.testing.assert_identical(found.trace, computed.trace) is None
    assert (found.manifest, found.identity, found.key) == (computed.manifest, computed.identity, computed.key)
    assert store.values_sha256(found.trace) == found.manifest["values_sha256"]
    said = "identity commit library_sha256 versions machine threads wall_seconds gradients products"
    assert found.manifest.keys() >= set(said.split())


def test_a_finished_run_leaves_nothing_else_behind():
    interrupted()
    store.carry_on(Walk(), IDENTITY, checkpoint_seconds=0)
    assert names(folder()) == ["holder.json", "lock", "manifest.json", "trace.nc"]


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
    often = store.carry_on(Walk(), IDENTITY, checkpoint_seconds=0)
    assert xr.testing.assert_identical(often.trace, whole().trace) is None


# --- identity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(IDENTITY))
def test_every_field_of_the_identity_changes_the_key(name):
    assert store.key_of(IDENTITY | {name: "another"}) != store.key_of(IDENTITY)


def test_every_field_of_an_experiment_changes_the_key():
    keys = {store.key_of(GD.identity)}
    for name in GD.identity:
        keys.add(store.key_of(GD.identity | {name: "another"}))
    assert len(keys) == 1 + len(GD.identity)
    assert store.key_of(GD.identity | {"a field more": None}) not in keys


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain))
def test_the_key_is_of_values_alone(identity):
    """Neither the order of fields nor tuples in place of lists name another run; nor does a way through JSON."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    key = store.key_of(identity)
    assert store.key_of({name: tuples(identity[name]) for name in reversed(identity)}) == key
    assert store.key_of(json.loads(json.dumps(identity))) == key
    assert len(key) == 16


# --- interruptions ---------------------------------------------------------------------------------------


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


KILLS = """
import os, random, signal, time
import torch
torch.set_num_threads(1)
from eoslib.chapter import experiments
from eoslib import store
from eoslib.store import archive
experiment = experiments.{experiment!r}
identity, process = experiment.identity, experiment.process(torch.device("cpu"))
checkpoint = archive.folder_of(identity) / "checkpoint.json"
rng, killed = random.Random(0), 0
def stamp():
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
while True:
    before = stamp()
    child = os.fork()
    if child == 0:
        store.carry_on(process, identity, checkpoint_seconds=0)
        os._exit(0)
    if killed < {most}:
        while killed > 2 and stamp() == before and not os.waitpid(child, os.WNOHANG)[0]:
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


@pytest.mark.parametrize("experiment", [GD, SGD], ids=["gradient descent with tracker", "SGD"])
def test_kill_9_at_any_instant_changes_no_bit(experiment):
    assert script(KILLS.format(experiment=experiment, most=15)) == "15\n"
    run = store.find(experiment.identity)
    assert run.manifest["resumes"] >= 10
    assert run.trace.sizes["step"] == 300
    assert names(folder()) == ["holder.json", "lock", "manifest.json", "trace.nc"]
    assert store.verify() == []
    undisturbed = experiments.carry_on(experiment, fresh=True)
    assert run.manifest["values_sha256"] == undisturbed.manifest["values_sha256"]
    for counted in ("gradients", "products", "diverged_at", "step"):
        assert run.manifest[counted] == undisturbed.manifest[counted], counted


@pytest.mark.parametrize("victim", ["rows-", "state-", "checkpoint.json", "trace.nc", "manifest.json"])
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
        store.carry_on(Walk(10), IDENTITY, checkpoint_seconds=0)
    for module in (journal, files):
        monkeypatch.setattr(module, "write_atomically", write)
    run = store.carry_on(Walk(10), IDENTITY, checkpoint_seconds=0)
    assert run.manifest["values_sha256"] == whole(10).manifest["values_sha256"]
    assert store.verify() == []


def test_a_file_is_replaced_only_when_all_of_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    """kill -9 seldom falls into the microseconds in which this would show; a loss of power does."""
    path, events, fsync, replace = tmp_path / "file", [], os.fsync, os.replace
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(("fsync", path.read_bytes())), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("replace", a.read_bytes())), replace(a, b)))
    store.write_atomically(path, b"new")
    assert events == [("fsync", b"old"), ("replace", b"new"), ("fsync", b"new")]  # the last one is of the folder
    assert names(tmp_path) == ["file"]


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
    assert names(folder()) == ["holder.json", "lock", "manifest.json", "trace.nc"]
    assert run.manifest["values_sha256"] == whole().manifest["values_sha256"]


def test_a_checkpoint_of_another_machine_is_refused():
    interrupted()
    path = folder() / "checkpoint.json"
    checkpoint = files.read_json(path)
    files.write_json(path, checkpoint | {"machine": checkpoint["machine"] | {"processor": "abacus"}})
    with pytest.raises(store.StoreError, match=r"another machine.*abacus.*--fresh"):
        store.carry_on(Walk(hook=never), IDENTITY)
    assert store.carry_on(Walk(), IDENTITY, fresh=True).manifest["resumes"] == 0


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


# --- damage ----------------------------------------------------------------------------------------------


def flip_a_bit(path, seed):
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def one(pattern):
    return next(folder().glob(pattern))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", ["rows-*", "state-*", "checkpoint.json"])
def test_a_flipped_bit_in_an_unfinished_run_is_named_and_never_used(pattern, seed):
    interrupted()
    path = one(pattern)
    before = files.read_json(path) if path.suffix == ".json" else None
    flip_a_bit(path, seed)
    if before is not None and harmless(path, before):
        return
    assert any(str(path) in problem for problem in store.verify())
    with pytest.raises(store.Damaged, match=path.name) as caught:
        store.carry_on(Walk(hook=never), IDENTITY)
    assert "--fresh" in str(caught.value)
    recovered = store.carry_on(Walk(), IDENTITY, fresh=True)
    assert recovered.manifest["values_sha256"] == whole().manifest["values_sha256"]
    assert store.verify() == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", ["trace.nc", "manifest.json"])
def test_a_flipped_bit_in_a_finished_run_is_named_and_never_used(pattern, seed):
    store.carry_on(Walk(), IDENTITY)
    path = one(pattern)
    before = files.read_json(path) if path.suffix == ".json" else None
    flip_a_bit(path, seed)
    if before is not None and harmless(path, before):
        return
    assert [str(path) in problem for problem in store.verify()] == [True]
    for use in (lambda: store.find(IDENTITY), lambda: store.carry_on(Walk(hook=never), IDENTITY)):
        with pytest.raises(store.Damaged, match=path.name):
            use()
    recovered = store.carry_on(Walk(), IDENTITY, fresh=True)
    assert recovered.manifest["values_sha256"] == whole().manifest["values_sha256"]


def harmless(path, before):
    """Whether the flip left the JSON's meaning alone: e-05 and E-05 are one number."""
    try:
        return files.read_json(path) == before
    except store.Damaged:
        return False


@pytest.mark.parametrize("pattern", ["rows-*", "state-*"])
def test_a_missing_part_of_a_checkpoint_is_named(pattern):
    interrupted()
    one(pattern).unlink()
    with pytest.raises(store.Damaged, match=rf"{pattern[:-1]}.* is missing"):
        store.carry_on(Walk(hook=never), IDENTITY)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"body": {}, "sha256": ""}', b"\xff\xfe"])
def test_a_manifest_that_is_none_is_damaged(content):
    store.carry_on(Walk(), IDENTITY)
    (folder() / "manifest.json").write_bytes(content)
    with pytest.raises(store.Damaged, match=r"manifest\.json"):
        store.find(IDENTITY)


def test_a_damaged_recorded_trace_is_named():
    path = store.record(store.carry_on(Walk(), IDENTITY))
    flip_a_bit(path, 0)
    assert [str(path) in problem for problem in store.verify()] == [True]
    with pytest.raises(store.Damaged, match=path.name):
        store.recorded_runs()


# --- two processes ---------------------------------------------------------------------------------------

TWO = """
import os, time
from eoslib import store
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
        [sys.executable, "-c", WALK + TWO], capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
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
        import os, signal
        from eoslib import store
        store.carry_on(Walk(hook=lambda t: t == 5 and os.kill(os.getpid(), signal.SIGKILL)), IDENTITY)
        """,
        "sh", "-c", '"$@"; test $? = 137', "-",
    )  # fmt: skip
    assert store.carry_on(Walk(), IDENTITY).manifest["values_sha256"] == whole().manifest["values_sha256"]


# --- a disk that will not have it ------------------------------------------------------------------------

FILL = """
import os
from eoslib import store
%s
try:
    store.carry_on(Walk(2000), IDENTITY, checkpoint_seconds=0)
except store.StoreError as error:
    message = str(error)
else:
    raise SystemExit("the disk was never full")
assert "cannot write" in message and "make room" in message and os.environ["EOSLIB_RUNS"] in message, message
assert store.verify() == [], store.verify()  # what was committed is whole
reached = int(store.status(IDENTITY).removeprefix("at step "))
assert reached > 0
steps = []
%s
run = store.carry_on(Walk(2000, steps.append), IDENTITY)
assert steps[0] == reached, (steps[0], reached)  # nothing that was checkpointed is lost
print(run.manifest["values_sha256"])
"""


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f'mount -t tmpfs -o size=600k none {disk} && exec "$@"'
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounted, "-", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk; the next test fills one another way")
    grow = f'import subprocess; subprocess.run("mount -o remount,size=64m {disk}", shell=True, check=True)'
    out = script(FILL % ("", grow), "unshare", "-rm", "sh", "-c", mounted, "-", EOSLIB_RUNS=str(disk / "store"))
    assert out.strip() == whole(2000).manifest["values_sha256"]


def test_a_limit_on_file_size_is_named_and_nothing_is_lost():
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({}, r.RLIM_INFINITY))"
    out = script(FILL % (limit.format(20_000), limit.format("r.RLIM_INFINITY")))
    assert out.strip() == whole(2000).manifest["values_sha256"]


def test_a_store_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "file" / "store"))
    with pytest.raises(store.StoreError, match=str(tmp_path / "file")):
        store.carry_on(Walk(hook=never), IDENTITY)


def test_a_place_for_recorded_runs_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    run = store.carry_on(Walk(), IDENTITY)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EOSLIB_RECORDED", str(tmp_path / "file"))
    with pytest.raises(store.StoreError, match=str(tmp_path / "file")):
        store.record(run)


def test_a_run_whose_lock_could_not_be_signed_can_be_tried_again(monkeypatch):
    """The disk is full before the first step: the lock must not stay with a process that goes on living."""
    write_text = Path.write_text

    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(store.StoreError, match="No space left") as caught:
        store.carry_on(Walk(hook=never), IDENTITY)
    monkeypatch.setattr(Path, "write_text", write_text)
    assert store.carry_on(Walk(), IDENTITY, budget=10) is not None, caught.value


# --- listing, recording, thinning ------------------------------------------------------------------------


def test_listing_and_inventory_of_an_empty_store():
    assert (store.listing(), store.inventory(), store.verify(), store.recorded_runs()) == ([], {}, [], [])
    assert store.find(IDENTITY) is None
    assert store.status(IDENTITY) == "not started"


def test_listing_tells_finished_from_unfinished_and_has_the_hash_of_the_values():
    run = store.carry_on(Walk(), IDENTITY)
    other = IDENTITY | {"seed": 1}
    with pytest.raises(KeyboardInterrupt):
        store.carry_on(Walk(hook=stop_at(25)), other, checkpoint_seconds=0)
    listed = {row["key"]: row for row in store.listing()}
    assert listed.keys() == {run.key, store.key_of(other)}
    assert {name: listed[run.key][name] for name in ("experiment", "status", "sha256", "steps")} == {
        "experiment": "test.walk", "status": "finished", "sha256": store.values_sha256(run.trace), "steps": 40
    }  # fmt: skip
    assert (listed[store.key_of(other)]["status"], listed[store.key_of(other)]["steps"]) == ("unfinished", 25)
    assert store.inventory() == {run.key: run.manifest["values_sha256"]}


def test_what_was_computed_in_float64_is_recorded_so():
    run = store.carry_on(Walk(), IDENTITY | {"precision": "float64"})
    store.record(run)
    (found,) = store.recorded_runs()
    for name in run.trace.data_vars:
        np.testing.assert_array_equal(found.trace[name], run.trace[name])
        assert found.trace[name].dtype == np.float64


def test_recorded_runs_are_found_as_float32(monkeypatch, tmp_path):
    run = store.carry_on(Walk(), IDENTITY)
    path = store.record(run)
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "empty"))
    assert store.status(IDENTITY) == "recorded"
    found = store.find(IDENTITY)
    assert found.recorded and not run.recorded
    assert found.key == run.key
    for name in run.trace.data_vars:
        assert found.trace[name].dtype == np.float32
        assert found.trace[name].attrs == run.trace[name].attrs
        np.testing.assert_array_equal(found.trace[name], run.trace[name].astype("float32"))
    assert path.stat().st_size < 30_000
    assert store.values_sha256(found.trace) == found.manifest["values_sha256"]
    assert [r.key for r in store.recorded_runs("test")] == [run.key]
    assert store.recorded_runs("another chapter") == []
    assert store.carry_on(Walk(hook=never), IDENTITY).recorded
    assert store.verify() == []


def test_where_the_data_is_absent_a_recorded_run_of_the_same_other_fields_is_taken():
    run = store.carry_on(Walk(), IDENTITY | {"fingerprint": "abc"})
    store.record(run)
    absent = IDENTITY | {"fingerprint": None}
    assert store.find(absent).identity["fingerprint"] == "abc"
    assert store.find(absent | {"seed": 1}) is None
    assert store.find(IDENTITY | {"fingerprint": "other data"}) is None


values = st.floats(-1e6, 1e6, width=32)


@given(st.lists(values, min_size=2, max_size=120), st.integers(1, 40))
def test_thinning_keeps_extremes_and_mean_in_odd_windows(curve, most):
    curve = np.array(curve)
    trace = xr.Dataset({"loss": ("step", curve, {"long_name": "f", "units": "1"})}, {"step": np.arange(len(curve))})
    thinned = store.thin(trace, most)
    if len(curve) <= most:
        assert thinned is trace
        return
    assert thinned.sizes["step"] <= most
    assert thinned.attrs["window"] % 2 == 1
    assert thinned["loss_min"].min() == curve.min()
    assert thinned["loss_max"].max() == curve.max()
    assert thinned["loss"].attrs["long_name"] == "f"
    w = thinned.attrs["window"]
    for i, (low, mean, high) in enumerate(zip(thinned["loss_min"], thinned["loss"], thinned["loss_max"], strict=True)):
        window = curve[i * w : (i + 1) * w]
        assert (low, high) == (window.min(), window.max())
        np.testing.assert_allclose(mean, window.mean(), rtol=1e-12, atol=1e-6)
    assert (i + 1) * w >= len(curve)


def test_a_long_curve_is_recorded_thinned_and_says_so():
    step = np.arange(50_001)
    trace = xr.Dataset({"loss": ("step", (-1.0) ** step)}, {"step": step})
    run = store.Run(IDENTITY, trace, {"key": store.key_of(IDENTITY), "identity": IDENTITY, "step": 50_001})
    store.record(run)
    (found,) = store.recorded_runs()
    assert found.trace.sizes["step"] <= traces.MAX_RECORDED_POINTS
    assert found.trace.attrs["window"] == 3
    # both phases of the oscillation are in every window
    assert (found.trace["loss_min"] == -1).all() and (found.trace["loss_max"] == 1).all()
    assert (abs(found.trace["loss"]) < 0.34).all()


def test_a_window_in_which_nothing_was_measured_stays_nan():
    sparse = np.full(90, np.nan)
    sparse[::30] = 1
    thinned = store.thin(xr.Dataset({"sharpness": ("step", sparse)}, {"step": np.arange(90)}), 18)
    assert np.isfinite(thinned["sharpness"].values).sum() == 3


def test_gather_stacks_along_step_size_and_seed_and_pads_with_nan():
    collected = [
        store.carry_on(Walk(steps), IDENTITY | {"step_size": eta, "seed": seed})
        for steps, eta, seed in [(40, 0.5, 0), (40, 0.5, 1), (10, 0.25, 0), (40, 0.25, 1)]
    ]
    gathered = store.gather(collected)
    assert dict(gathered.sizes) == {"step_size": 2, "seed": 2, "step": 40, "coordinate": 3, "eigenvalue": 2}
    assert gathered["step_size"].values.tolist() == [0.25, 0.5]
    short = gathered["loss"].sel(step_size=0.25, seed=0)
    np.testing.assert_array_equal(short[:10], collected[2].trace["loss"])
    assert np.isnan(short[10:]).all()
    np.testing.assert_array_equal(gathered["theta"].sel(step_size=0.5, seed=1), collected[1].trace["theta"])
    assert gathered["loss"].attrs["long_name"]


def test_gather_of_an_incomplete_grid_has_nan_for_the_missing_run():
    grid = [(0.5, 0), (0.5, 1), (0.25, 0)]
    gathered = store.gather([store.carry_on(Walk(), IDENTITY | {"step_size": e, "seed": s}) for e, s in grid])
    assert np.isnan(gathered["loss"].sel(step_size=0.25, seed=1)).all()
    assert np.isfinite(gathered["loss"].sel(step_size=0.25, seed=0)).all()


def test_the_value_hash_is_of_names_shapes_and_values_not_of_order():
    a, b = ("step", np.zeros(4)), ("step", np.ones(4))
    sha = store.values_sha256(xr.Dataset({"a": a, "b": b}))
    assert sha == store.values_sha256(xr.Dataset({"b": b, "a": a}))
    others = [{"a": b, "b": a}, {"a": a, "c": b}, {"a": a}, {"a": (("x", "y"), np.zeros((2, 2))), "b": b}]
    assert len({sha, *(store.values_sha256(xr.Dataset(other)) for other in others)}) == 5
