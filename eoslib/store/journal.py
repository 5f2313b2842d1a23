"""The one driver of long computations: steps a process, records it, checkpoints, shows progress, stops, resumes."""

import contextlib
import io
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
import xarray as xr
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from eoslib.store.archive import Run, find
from eoslib.store.files import StoreError, read_json, sha256, verified, write_atomically, write_json
from eoslib.store.identity import Identity, canonical, commit, home, library_sha256, machine, plain, versions
from eoslib.store.traces import Columns, columns, labelled, netcdf, values_sha256

CHECKPOINT_SECONDS = 20.0
BYTES_A_SECOND = 1e8  # of a checkpoint, on a slow disk
ROWS_IN_MEMORY = 50_000  # a checkpoint is due then too


class Process(Protocol):
    """A long computation: what `carry_on` needs of it."""

    steps: int  # at most so many
    t: int  # of them are taken
    device: torch.device  # where it computes
    variables: Mapping[str, Any]  # name → how an observable is labelled
    kept: Mapping[str, Tensor]  # name → θ that is to be kept after the last step, mostly none

    @property
    def finished(self) -> bool: ...
    def step(self) -> None: ...
    def observe(self) -> dict[str, dict[str, float | list[float] | np.ndarray]]: ...  # by table
    def state(self) -> dict: ...
    def load(self, state: dict) -> None: ...


def carry_on(
    process: Process,
    identity: Identity,
    budget: float | None = None,
    fresh: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    mix: bool = False,
) -> Run | None:
    """Carry the process to its end, from its last checkpoint if there is one.

    identity: says all that determines the run. budget: seconds after which it stops cleanly. fresh: forget what
    is stored. mix: go on with what another kind of machine has begun, which the manifest then says. Checkpoints are
    at least so many seconds apart, and fifty times what the last one cost; before the first, what its size lets expect.
    Returns the finished run, or None if the budget ended first. A second process that wants the same run says who holds
    it, waits, and returns the result. Raises Damaged, StoreError.
    """
    deadline = None if budget is None else time.monotonic() + budget
    folder = home() / identity.key
    with _sole_access(folder, deadline) as ours:
        if not ours:
            return None
        if fresh:
            _forget(folder)
        elif found := find(identity):
            return found
        journal = _Journal(folder, identity, process)
        with journal.resumed(mix), _bar(process, identity.values) as bar:
            saved, interval, sized = time.monotonic(), checkpoint_seconds, False
            try:
                while not process.finished:
                    now = time.monotonic()
                    if deadline is not None and now >= deadline:
                        journal.save()
                        return None
                    if now - saved >= interval and not sized:  # only now is the state as large as it will be
                        interval, sized = max(interval, 50 * journal.expected_seconds()), True
                    if now - saved >= interval or len(journal.rows) >= ROWS_IN_MEMORY:
                        journal.save()
                        saved, sized = time.monotonic(), True
                        interval = max(checkpoint_seconds, 50 * (saved - now))
                    journal.step()
                    bar.update(process.t - bar.n)
                    for row in journal.rows[-1][1].values():
                        for name in row.keys() & {"loss", "batch_loss"}:
                            bar.set_postfix({"loss": f"{row[name]:.4g}"}, refresh=False)
            except KeyboardInterrupt:
                # The step that was cut short may have left the process half moved: what was saved last stands.
                print(f"\ninterrupted: the same command resumes at step {journal.saved}", file=sys.stderr)
                raise
            return journal.finish()


# ------------------------------------------------------------------------------------------------- one folder


class _Journal:
    """Rows and checkpoints of one run in its folder."""

    def __init__(self, folder: Path, identity: Identity, process: Process):
        self.folder, self.identity, self.process = folder, identity, process
        self.rows: list[tuple[int, dict]] = []  # steps and what was observed since the last checkpoint
        self.saved = 0  # the step of the last checkpoint
        self.files: dict[str, str] = {}  # name → sha256 of the rows written so far
        self.kept: dict[str, str] = {}  # name → sha256 of each θ that is kept
        self.wall_seconds, self.resumes = 0.0, 0
        self.started = time.monotonic()
        self.code = {"commit": commit(), "library_sha256": library_sha256()}  # now: files may change meanwhile
        self.machine = machine(process.device)
        self.stretches: list[dict] = []  # earlier ones, on other kinds of machine: {"machine", "to_step"}

    @contextlib.contextmanager
    def resumed(self, mix: bool) -> Iterator[None]:
        """Load the last checkpoint into the process, and keep to its number of threads meanwhile."""
        path = self.folder / "checkpoint.json"
        threads = torch.get_num_threads()
        if path.exists():
            checkpoint = read_json(path)
            self.stretches = checkpoint["stretches"]
            if checkpoint["machine"] != self.machine:
                if not mix:
                    raise StoreError(
                        f"{path.parent.name} was begun on another machine ({checkpoint['machine']}, this is "
                        f"{self.machine}): its stretches must not be mixed. Finish it there, begin anew with --fresh, "
                        "or say --mix"
                    )
                self.stretches.append({"machine": checkpoint["machine"], "to_step": checkpoint["step"]})
            *rows, state = checkpoint["files"].items()
            for name, checksum in rows:
                verified(self.folder / name, checksum)
            tensors = safetensors.torch.load(verified(self.folder / state[0], state[1]))
            self.process.load(_join(checkpoint["state"], tensors))
            self.files, self.kept, self.saved = dict(rows), checkpoint["kept"], checkpoint["step"]
            self.wall_seconds, self.resumes = checkpoint["wall_seconds"], checkpoint["resumes"] + 1
            torch.set_num_threads(checkpoint["threads"])
        try:
            self._keep()
            yield
        finally:
            torch.set_num_threads(threads)

    def step(self) -> None:
        """One step of the process, with what it observes and wants to be kept."""
        t = self.process.t
        self.process.step()
        self.rows.append((t, self.process.observe()))
        self._keep()

    def _keep(self) -> None:
        for name, theta in self.process.kept.items():
            content = safetensors.torch.save({"theta": theta.detach().cpu().contiguous()})
            write_atomically(self.folder / f"theta-{name}.safetensors", content)
            self.kept[f"theta-{name}.safetensors"] = sha256(content)

    def expected_seconds(self) -> float:
        """What a checkpoint may cost, to tenths, by the size of the state."""
        _, tensors = _split(self.process.state())
        return round(sum(t.nbytes for t in tensors.values()) / BYTES_A_SECOND, 1)

    def save(self) -> None:
        """Make all so far survive: rows first, then the state, then the checkpoint that names both."""
        self._write_rows()
        numbers, tensors = _split(self.process.state())
        content = safetensors.torch.save(tensors)
        state = f"state-{self.process.t:09d}.safetensors"
        write_atomically(self.folder / state, content)
        body = self._body() | {
            "files": self.files | {state: sha256(content)},
            "state": numbers,
        }
        write_json(self.folder / "checkpoint.json", body)
        self.saved = self.process.t
        for path in self.folder.glob("state-*.safetensors"):
            if path.name != state:
                path.unlink()

    def finish(self) -> Run:
        """Write trace and manifest, and drop what only a resume needs."""
        self._write_rows()
        trace = self._trace()
        content = netcdf(trace)
        write_atomically(self.folder / "trace.nc", content)
        state, body = self.process.state(), self._body()
        manifest = (
            body
            | {
                "diverged_at": state.get("diverged_at"),
                "gradients": state.get("gradients"),
                "products": state.get("products"),
                "trace_sha256": sha256(content),
                "values_sha256": values_sha256(trace),
                "seconds_per_step": body["wall_seconds"] / max(1, self.process.t),
                "versions": versions(),
            }
            | self.code
        )
        write_json(self.folder / "manifest.json", manifest)
        (self.folder / "checkpoint.json").unlink(missing_ok=True)
        for pattern in ("rows-*", "state-*", ".*.tmp"):  # the last are what killed writes left
            for path in self.folder.glob(pattern):
                path.unlink()
        return Run(plain(self.identity.values), trace, manifest)

    def _body(self) -> dict:
        return {
            "key": self.identity.key,
            "family": self.identity.family,
            "identity": plain(self.identity.values),
            "step": self.process.t,
            "resumes": self.resumes,
            "wall_seconds": self.wall_seconds + time.monotonic() - self.started,
            "threads": torch.get_num_threads(),
            "machine": self.machine,
            "stretches": self.stretches,
            "kept": self.kept,
        }

    def _write_rows(self) -> None:
        if not self.rows:
            return
        arrays = columns(self.rows, self.process.variables)
        buffer = io.BytesIO()
        np.savez(buffer, **{f"{table}/{name}": a for table, named in arrays.items() for name, a in named.items()})
        name = f"rows-{self.rows[0][0]:09d}-{self.process.t:09d}.npz"
        write_atomically(self.folder / name, buffer.getvalue())
        self.files[name] = sha256(buffer.getvalue())
        self.rows = []

    def _trace(self) -> xr.Dataset:
        parts = []
        for name, checksum in self.files.items():
            part: Columns = {}
            with np.load(io.BytesIO(verified(self.folder / name, checksum))) as arrays:
                for path in arrays.files:
                    table, variable = path.split("/")
                    part.setdefault(table, {})[variable] = arrays[path]
            parts.append(part)
        return labelled(parts, self.process.variables).assign_attrs(identity=canonical(self.identity.values).decode())


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


def _bar(process: Process, identity: dict) -> tqdm:
    name = f"{identity['experiment']} η={identity['step_size']:.4g}" if "step_size" in identity else "run"
    # disable=None: silent when nobody watches
    return tqdm(total=process.steps, initial=process.t, desc=name, unit="step", disable=None, mininterval=0.5)


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
