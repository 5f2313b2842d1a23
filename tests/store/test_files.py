"""store.files: what is written is whole, what is damaged is named and never used, and a full disk loses nothing."""

import os
import subprocess
from pathlib import Path

import pytest
from walk import IDENTITY, Walk, flip_a_bit, folder, interrupted, names, never, script, whole

from eoslib import store
from eoslib.store import files


def test_a_file_is_replaced_only_when_all_of_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    """kill -9 seldom falls into the microseconds in which this would show; a loss of power does."""
    path, events, fsync, replace = tmp_path / "file", [], os.fsync, os.replace
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(("fsync", path.read_bytes())), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("replace", a.read_bytes())), replace(a, b)))
    store.write_atomically(path, b"new")
    assert events == [("fsync", b"old"), ("replace", b"new"), ("fsync", b"new")]  # the last one is of the folder
    assert names(tmp_path) == ["file"]


# --- damage ---------------------------------------------------------------------------------------------------


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


# --- a disk that will not have it -----------------------------------------------------------------------------

FILL = """
%s
try:
    carried_on(Walk(2000))
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
