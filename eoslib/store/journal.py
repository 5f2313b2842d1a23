"""The run store, and the one driver of long computations.

A run is one process carried to its end. Its *identity*, a dict of plain values, says all that determines it;
the key is a hash of that. `carry_on` steps the process, records what it observes, checkpoints, shows progress,
stops at a budget and resumes, bit for bit. In the store (`EOSLIB_RUNS`, default ./runs) a run is a folder:

    rows-*.npz, state-*.safetensors, checkpoint.json    while it goes on; checkpoint.json commits the others
    trace.nc, manifest.json                             once finished; manifest.json commits the trace

Every file is written under another name, flushed to the disk and renamed, and carries a checksum that is
verified before use. `recorded/` holds finished traces, floats as float32, smaller, read-only to a build.
"""

import contextlib
import io
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.torch
import torch
import xarray as xr
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from eoslib.store.archive import Run, find, folder_of
from eoslib.store.files import StoreError, read_json, sha256, verified, write_atomically, write_json
from eoslib.store.identity import canonical, commit, key_of, library_sha256, machine, plain, versions
from eoslib.store.traces import columns, labelled, netcdf, values_sha256

CHECKPOINT_SECONDS = 20.0


ROWS_IN_MEMORY = 50_000  # a checkpoint is due then too


class Process(Protocol):
    """A long computation: what `carry_on` needs of it."""

    steps: int  # at most so many

    @property
    def finished(self) -> bool: ...
    def step(self) -> None: ...
    def observe(self) -> dict[str, float | list[float] | np.ndarray]: ...
    def state(self) -> dict: ...
    def load(self, state: dict) -> None: ...


def carry_on(
    process: Process,
    identity: dict,
    budget: float | None = None,
    fresh: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Run | None:
    """Carry the process to its end, from its last checkpoint if there is one.

    identity: says all that determines the run. budget: seconds after which it stops cleanly. fresh: forget what
    is stored. Returns the finished run, or None if the budget ended first. A second process that wants the
    same run says who holds it, waits, and returns the result. Raises Damaged, StoreError.
    """
    deadline = None if budget is None else time.monotonic() + budget
    folder = folder_of(identity)
    with _sole_access(folder, deadline) as ours:
        if not ours:
            return None
        if fresh:
            _forget(folder)
        elif found := find(identity):
            return found
        journal = _Journal(folder, identity)
        with journal.resumed(process), _bar(process, identity, journal.step) as bar:
            saved = time.monotonic()
            try:
                while not process.finished:
                    now = time.monotonic()
                    if deadline is not None and now >= deadline:
                        journal.save(process)
                        return None
                    if now - saved >= checkpoint_seconds or len(journal.rows) >= ROWS_IN_MEMORY:
                        journal.save(process)
                        saved = now
                    process.step()
                    journal.append(process.observe())
                    bar.update()
                    if "loss" in journal.rows[-1]:
                        bar.set_postfix(loss=f"{journal.rows[-1]['loss']:.4g}", refresh=False)
            except KeyboardInterrupt:
                # The step that was cut short may have left the process half moved: what was saved last stands.
                print(f"\ninterrupted: the same command resumes at step {journal.saved_step}", file=sys.stderr)
                raise
            return journal.finish(process)


class _Journal:
    """Rows and checkpoints of one run in its folder."""

    def __init__(self, folder: Path, identity: dict):
        self.folder, self.identity = folder, plain(identity)
        self.rows: list[dict] = []  # observed since the last checkpoint
        self.step = self.saved_step = 0
        self.files: dict[str, str] = {}  # name → sha256 of the rows written so far
        self.wall_seconds, self.resumes = 0.0, 0
        self.started = time.monotonic()
        self.code = {"commit": commit(), "library_sha256": library_sha256()}  # now: files may change meanwhile

    @contextlib.contextmanager
    def resumed(self, process: Process) -> Iterator[None]:
        """Load the last checkpoint into the process, and keep to its number of threads meanwhile."""
        path = self.folder / "checkpoint.json"
        threads = torch.get_num_threads()
        if path.exists():
            checkpoint = read_json(path)
            if checkpoint["machine"] != machine():
                raise StoreError(
                    f"{path.parent.name} was begun on another machine ({checkpoint['machine']}, this is {machine()}): "
                    "its stretches must not be mixed. Finish it there, or begin anew with --fresh"
                )
            *rows, state = checkpoint["files"].items()
            for name, checksum in rows:
                verified(self.folder / name, checksum)
            tensors = safetensors.torch.load(verified(self.folder / state[0], state[1]))
            process.load(_join(checkpoint["state"], tensors))
            self.files = dict(rows)
            self.step = self.saved_step = checkpoint["step"]
            self.wall_seconds, self.resumes = checkpoint["wall_seconds"], checkpoint["resumes"] + 1
            torch.set_num_threads(checkpoint["threads"])
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def append(self, row: dict) -> None:
        self.rows.append(row)
        self.step += 1

    def save(self, process: Process) -> None:
        """Make all so far survive: rows first, then the state, then the checkpoint that names both."""
        self._write_rows()
        numbers, tensors = _split(process.state())
        content = safetensors.torch.save(tensors)
        state = f"state-{self.step:09d}.safetensors"
        write_atomically(self.folder / state, content)
        body = self._body() | {
            "files": self.files | {state: sha256(content)},
            "state": numbers,
            "machine": machine(),
        }
        write_json(self.folder / "checkpoint.json", body)
        self.saved_step = self.step
        for path in self.folder.glob("state-*.safetensors"):
            if path.name != state:
                path.unlink()

    def finish(self, process: Process) -> Run:
        """Write trace and manifest, and drop what only a resume needs."""
        self._write_rows()
        trace = self._trace()
        content = netcdf(trace)
        write_atomically(self.folder / "trace.nc", content)
        state = process.state()
        manifest = (
            self._body()
            | {
                "diverged_at": state.get("diverged_at"),
                "gradients": state.get("gradients"),
                "products": state.get("products"),
                "trace_sha256": sha256(content),
                "values_sha256": values_sha256(trace),
                "machine": machine(),
                "versions": versions(),
            }
            | self.code
        )
        write_json(self.folder / "manifest.json", manifest)
        (self.folder / "checkpoint.json").unlink(missing_ok=True)
        for pattern in ("rows-*", "state-*", ".*.tmp"):  # the last are what killed writes left
            for path in self.folder.glob(pattern):
                path.unlink()
        return Run(self.identity, trace, manifest)

    def _body(self) -> dict:
        return {
            "key": key_of(self.identity),
            "identity": self.identity,
            "step": self.step,
            "resumes": self.resumes,
            "wall_seconds": self.wall_seconds + time.monotonic() - self.started,
            "threads": torch.get_num_threads(),
        }

    def _write_rows(self) -> None:
        if not self.rows:
            return
        first = self.step - len(self.rows)
        arrays = columns(self.rows)
        buffer = io.BytesIO()
        np.savez(buffer, step=np.arange(first, self.step), **arrays)
        name = f"rows-{first:09d}-{self.step:09d}.npz"
        write_atomically(self.folder / name, buffer.getvalue())
        self.files[name] = sha256(buffer.getvalue())
        self.rows = []

    def _trace(self) -> xr.Dataset:
        parts = []
        for name, checksum in self.files.items():
            with np.load(io.BytesIO(verified(self.folder / name, checksum))) as columns:
                parts.append(labelled(dict(columns)))
        trace = xr.concat(parts, "step", join="outer", data_vars="all", coords="minimal", compat="override")
        return trace.assign_attrs(identity=canonical(self.identity).decode())


def _forget(folder: Path) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)  # first: without it the trace is not finished
    (folder / "checkpoint.json").unlink(missing_ok=True)
    for path in folder.glob("*"):
        if path.name not in ("lock", "holder.json"):
            path.unlink()


@contextlib.contextmanager
def _sole_access(folder: Path, deadline: float | None) -> Iterator[bool]:
    """Hold the run's lock, which the system releases even if the process is killed; whether it came in time."""
    lock = FileLock(folder / "lock")
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (ours := _acquired(lock, 0)):
                with contextlib.suppress(OSError, ValueError):
                    holder = json.loads((folder / "holder.json").read_text())
                    print(f"{folder.name}: waiting for process {holder['pid']} on {holder['host']}", file=sys.stderr)
                ours = _acquired(lock, -1 if deadline is None else max(0.0, deadline - time.monotonic()))
            if ours:
                (folder / "holder.json").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        except OSError as error:
            raise StoreError(f"the run store cannot be written at {folder}: {error.strerror}") from error
        yield ours
    finally:
        lock.release()


def _acquired(lock: FileLock, seconds: float) -> bool:
    """Whether the lock was free within so many seconds; -1 waits for ever."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


def _bar(process: Process, identity: dict, done: int) -> tqdm:
    name = f"{identity['experiment']} η={identity['step_size']:.4g}" if "step_size" in identity else "run"
    # disable=None: silent when nobody watches
    return tqdm(total=process.steps, initial=done, desc=name, unit="step", disable=None, mininterval=0.5)


def _split(state: dict, path: str = "") -> tuple[dict, dict[str, Tensor]]:
    """A nested state as JSON numbers, with each tensor's place marked, and the tensors by that mark."""
    numbers, tensors = {}, {}
    for name, value in state.items():
        here = f"{path}/{name}"
        if isinstance(value, Tensor):
            numbers[name], tensors[here] = {"tensor": here}, value.detach().cpu().contiguous()
        elif isinstance(value, dict):
            numbers[name], inner = _split(value, here)
            tensors |= inner
        else:
            numbers[name] = value
    return numbers, tensors


def _join(numbers: dict, tensors: dict[str, Tensor]) -> dict:
    """The inverse of `_split`.

    Tensors are copied to memory of PyTorch's own: it is aligned, that of a file's content is not, and on some
    processors the matrix library then sums in another order.
    """
    joined = {}
    for name, value in numbers.items():
        if isinstance(value, dict):
            joined[name] = tensors[value["tensor"]].clone() if "tensor" in value else _join(value, tensors)
        else:
            joined[name] = value
    return joined
