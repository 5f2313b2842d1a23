"""The one driver of long computations: steps a process, records it, checkpoints, shows progress, stops, resumes."""

import contextlib
import io
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
import xarray as xr
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from eoslib.store.archive import CHECKPOINT, MANIFEST, Run, find
from eoslib.store.files import StoreError, read_json, sha256, verified, write_atomically, write_json
from eoslib.store.identity import Identity, canonical, commit, home, library_sha256, machine, plain
from eoslib.store.traces import columns, labelled, values_sha256

CHECKPOINT_SECONDS = 30.0
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
    process: Process, identity: Identity, budget: float | None = None, fresh: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS, mix: bool = False,
) -> Run | None:  # fmt: skip
    """Carry the process to its end, from its last checkpoint if there is one.

    identity: says all that determines the run. budget: seconds after which it stops cleanly. fresh: forget what
    is stored. mix: go on with what another kind of machine has begun, which the manifest then says. Checkpoints are
    at least so many seconds apart, and fifty times what the last one cost. Returns the finished run, or None if the
    budget ended first. A second process that wants the same run says who holds it, waits, and returns the result.
    Raises Damaged, StoreError.
    """
    deadline = None if budget is None else time.monotonic() + budget
    folder = home() / identity.key
    with contextlib.ExitStack() as at_last:
        lock = FileLock(folder / "lock")
        at_last.callback(lock.release)
        at_last.callback(torch.set_num_threads, torch.get_num_threads())
        if not _acquired(lock, folder, deadline):
            return None
        if fresh:
            _sweep(folder, MANIFEST, CHECKPOINT, "*")
        elif found := find(identity):
            return found
        journal = _Journal(folder, identity, process)
        journal.resume(mix)
        name = "{experiment} η={step_size:.4g}".format_map(identity.values) if "step_size" in identity.values else "run"
        # disable=None: silent when nobody watches
        bar = tqdm(total=process.steps, initial=process.t, desc=name, unit="step", disable=None, mininterval=0.5)
        at_last.callback(bar.close)
        saved, interval = time.monotonic(), checkpoint_seconds
        try:
            while not process.finished:
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    journal.save()
                    return None
                if now - saved >= interval or len(journal.rows) >= ROWS_IN_MEMORY:
                    journal.save()
                    saved = time.monotonic()
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


class _Journal:
    """Rows and checkpoints of one run in its folder."""

    def __init__(self, folder: Path, identity: Identity, process: Process):
        self.folder, self.process = folder, process
        self.rows: list[tuple[int, dict]] = []  # steps and what was observed since the last checkpoint
        self.saved = 0  # the step of the last checkpoint
        self.files: dict[str, str] = {}  # name → sha256 of the rows written so far
        self.started = time.monotonic()
        self.body: dict[str, Any] = {  # what checkpoint and manifest both say
            "key": identity.key,
            "family": identity.family,
            "identity": plain(identity.values),
            "commit": commit(),  # now, as the files may change meanwhile
            "library_sha256": library_sha256(),
            "machine": machine(process.device),
            "stretches": [],  # earlier ones, on other kinds of machine: {"machine", "to_step"}
            "kept": {},  # name → sha256 of each θ that is kept
            "resumes": 0,
            "wall_seconds": 0.0,  # until this process began
        }

    def resume(self, mix: bool) -> None:
        """Load the last checkpoint, if there is one, into the process, and take its number of threads."""
        if (self.folder / CHECKPOINT).exists():
            checkpoint = read_json(self.folder / CHECKPOINT)
            begun, here = checkpoint["machine"], self.body["machine"]
            if begun != here and not mix:
                begun_elsewhere = f"{self.folder.name} was begun on another machine ({begun}, this is {here})"
                way_out = "Finish it there, begin anew with --fresh, or say --mix"
                raise StoreError(f"{begun_elsewhere}: its stretches must not be mixed. {way_out}")
            earlier = [{"machine": begun, "to_step": checkpoint["step"]}] if begun != here else []
            *rows, (state, checksum) = checkpoint["files"].items()
            for name, sha in rows:
                verified(self.folder / name, sha)
            tensors = safetensors.torch.load(verified(self.folder / state, checksum))
            self.process.load(_join(checkpoint["state"], tensors))
            self.files, self.saved = dict(rows), checkpoint["step"]
            self.body |= {name: checkpoint[name] for name in ("kept", "wall_seconds")}
            self.body |= {"stretches": checkpoint["stretches"] + earlier, "resumes": checkpoint["resumes"] + 1}
            torch.set_num_threads(checkpoint["threads"])
        self._keep()

    def step(self) -> None:
        """One step of the process, with what it observes and wants to be kept."""
        t = self.process.t
        self.process.step()
        self.rows.append((t, self.process.observe()))
        self._keep()

    def _keep(self) -> None:
        for name, theta in self.process.kept.items():
            content = safetensors.torch.save({"theta": theta.detach().cpu().contiguous()})
            self.body["kept"] |= self._written(f"theta-{name}.safetensors", content)

    def save(self) -> None:
        """Make all so far survive: rows first, then the state, then the checkpoint that names both."""
        self._write_rows()
        numbers, tensors = _split(self.process.state())
        state = self._written(f"state-{self.process.t:09d}.safetensors", safetensors.torch.save(tensors))
        write_json(self.folder / CHECKPOINT, self._body() | {"files": self.files | state, "state": numbers})
        self.saved = self.process.t
        for path in self.folder.glob("state-*.safetensors"):
            if path.name not in state:
                path.unlink()

    def finish(self) -> Run:
        """Write trace and manifest, and drop what only a resume needs."""
        self._write_rows()
        parts = [dict(np.load(io.BytesIO(verified(self.folder / name, sha)))) for name, sha in self.files.items()]
        identity = canonical(self.body["identity"]).decode()
        trace = labelled(parts, self.process.variables).assign_attrs(identity=identity)
        checksums = self._written("trace.nc", bytes(trace.to_netcdf(engine="h5netcdf")))
        state, body = self.process.state(), self._body()
        manifest = body | {name: state.get(name) for name in ("diverged_at", "gradients", "products")}
        if unreadable := state.get("unreadable"):
            manifest["unreadable"] = unreadable
        manifest |= {
            "trace_sha256": checksums["trace.nc"],
            "values_sha256": values_sha256(trace),
            "seconds_per_step": body["wall_seconds"] / max(1, self.process.t),
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "xarray": xr.__version__},
        }
        write_json(self.folder / MANIFEST, manifest)
        _sweep(self.folder, CHECKPOINT, "rows-*", "state-*", ".*.tmp")  # the last are what killed writes left
        return Run(body["identity"], trace, manifest)

    def _body(self) -> dict:
        seconds = self.body["wall_seconds"] + time.monotonic() - self.started
        return self.body | {"step": self.process.t, "wall_seconds": seconds, "threads": torch.get_num_threads()}

    def _written(self, name: str, content: bytes) -> dict[str, str]:
        """Write a file; returns its name → sha256."""
        write_atomically(self.folder / name, content)
        return {name: sha256(content)}

    def _write_rows(self) -> None:
        if self.rows:
            buffer = io.BytesIO()
            np.savez(buffer, **columns(self.rows, self.process.variables))
            self.files |= self._written(f"rows-{self.rows[0][0]:09d}-{self.process.t:09d}.npz", buffer.getvalue())
            self.rows = []


def _sweep(folder: Path, *patterns: str) -> None:
    """Delete a run's files of these names; what commits the others goes first, so no instant leaves a part of a run."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.name not in ("lock", "holder.json"):
                path.unlink()


def _acquired(lock: FileLock, folder: Path, deadline: float | None) -> bool:
    """Whether the run's lock, which the system releases even if its holder is killed, came in time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
        if not lock.is_locked:
            with contextlib.suppress(OSError, ValueError):
                holder = json.loads((folder / "holder.json").read_text())
                print(f"{folder.name}: waiting for process {holder['pid']} on {holder['host']}", file=sys.stderr)
            with contextlib.suppress(Timeout):  # -1 waits for ever
                lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic()))
        if lock.is_locked:
            (folder / "holder.json").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    except OSError as error:
        raise StoreError(f"the run store cannot be written at {folder}: {error.strerror}") from error
    return lock.is_locked


def _split(state: dict) -> tuple[dict, dict[str, Tensor]]:
    """A nested state as JSON numbers, with each tensor's place marked, and the tensors by that mark."""
    tensors: dict[str, Tensor] = {}

    def marked(value: Tensor) -> dict[str, str]:
        tensors[mark := str(len(tensors))] = value.detach().cpu().contiguous()
        return {"tensor": mark}

    return json.loads(json.dumps(state, default=marked)), tensors


def _join(numbers: dict, tensors: dict[str, Tensor]) -> dict:
    """The inverse of `_split`. Tensors are copied to memory of PyTorch's own: it is aligned, that of a file's content
    is not, and on some processors the matrix library then sums in another order."""
    return json.loads(
        json.dumps(numbers), object_hook=lambda part: tensors[part["tensor"]].clone() if "tensor" in part else part
    )
