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
import functools
import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.torch
import torch
import xarray as xr
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from eoslib.observables import VARIABLES

CHECKPOINT_SECONDS = 20.0
ROWS_IN_MEMORY = 50_000  # a checkpoint is due then too
MAX_RECORDED_POINTS = 20_000


class Process(Protocol):
    """A long computation: what `carry_on` needs of it."""

    steps: int  # at most so many

    @property
    def finished(self) -> bool: ...
    def step(self) -> None: ...
    def observe(self) -> dict[str, float | list[float] | np.ndarray]: ...
    def state(self) -> dict: ...
    def load(self, state: dict) -> None: ...


class StoreError(RuntimeError):
    """The store could not be written or read; the message names the file and the way out."""


class Damaged(StoreError):
    """A stored file does not match its checksum."""


@dataclass(frozen=True)
class Run:
    """A finished run: its identity, its trace over `step`, its manifest, and whether it came from recorded/."""

    identity: dict
    trace: xr.Dataset
    manifest: dict
    recorded: bool = False

    @property
    def key(self) -> str:
        return self.manifest["key"]

    @property
    def step_size(self) -> float:
        """η"""
        return self.identity["step_size"]

    @property
    def diverged_at(self) -> int | None:
        """The first iterate at which f or ∇f was not finite, or None."""
        return self.manifest["diverged_at"]


def key_of(identity: dict) -> str:
    """16 hexadecimal digits that name the run: a hash of the identity's canonical JSON."""
    return hashlib.sha256(_canonical(identity)).hexdigest()[:16]


def store() -> Path:
    """Where runs are kept: EOSLIB_RUNS, default ./runs."""
    return Path(os.environ.get("EOSLIB_RUNS", "runs"))


def recorded() -> Path:
    """Where recorded runs lie: EOSLIB_RECORDED, default recorded/ beside the library."""
    return Path(os.environ.get("EOSLIB_RECORDED", Path(__file__).parent.parent / "recorded"))


# ---------------------------------------------------------------------------------------------------- driving


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
    folder = _folder(identity)
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


def find(identity: dict) -> Run | None:
    """The finished run of this identity in the store, else in recorded/, else None. Raises Damaged.

    Where the data is absent (identity["fingerprint"] is None), a run that agrees in all other fields is taken;
    its own fingerprint stands in its identity.
    """
    folder = _folder(identity)
    if (folder / "manifest.json").exists():
        return _load(folder / "manifest.json", folder / "trace.nc", recorded=False)
    path = _recorded_manifest(identity)
    return _load(path, path.with_suffix(".nc"), recorded=True) if path else None


def status(identity: dict) -> str:
    """ "finished", "recorded", "at step N" or "not started"; reads no trace."""
    folder = _folder(identity)
    if (folder / "manifest.json").exists():
        return "finished"
    if _recorded_manifest(identity):
        return "recorded"
    if (folder / "checkpoint.json").exists():
        return f"at step {_read_json(folder / 'checkpoint.json')['step']}"
    return "not started"


def gather(runs: Iterable[Run], along: tuple[str, ...] = ("step_size", "seed")) -> xr.Dataset:
    """The runs' traces stacked along the named fields of their identities; shorter ones end in nan."""
    stacked = [r.trace.expand_dims({name: [r.identity[name]] for name in along}).drop_attrs(deep=False) for r in runs]
    return xr.combine_by_coords(stacked, join="outer")


# -------------------------------------------------------------------------------------- listing and recording


def listing() -> list[dict]:
    """Every run of the store and of recorded/: key, experiment, status, where, and the sha256 over its values."""
    rows = []
    for folder in sorted(store().glob("*-*")):
        if (folder / "manifest.json").exists():
            rows.append(_row(_read_json(folder / "manifest.json"), "finished", folder))
        elif (folder / "checkpoint.json").exists():
            rows.append(_row(_read_json(folder / "checkpoint.json"), "unfinished", folder))
    return rows + [_row(_read_json(path), "finished", path) for path in _recorded_manifests()]


def inventory() -> dict[str, str]:
    """Key → sha256 over the values, of every finished run in the store and in recorded/."""
    return {row["key"]: row["sha256"] for row in listing() if row["status"] == "finished"}


def recorded_runs(chapter: str | None = None) -> list[Run]:
    """All recorded runs, or those of one chapter."""
    loaded = (_load(path, path.with_suffix(".nc"), recorded=True) for path in _recorded_manifests())
    return [run for run in loaded if chapter in (None, run.identity["chapter"])]


def verify() -> list[str]:
    """Problems found by reading every stored file and comparing its checksum; empty if all is well."""
    problems = []
    for folder in sorted(store().glob("*-*")):
        try:
            if (folder / "manifest.json").exists():
                _load(folder / "manifest.json", folder / "trace.nc", recorded=False)
            elif (folder / "checkpoint.json").exists():
                checkpoint = _read_json(folder / "checkpoint.json")
                for name, checksum in checkpoint["files"].items():
                    _verified(folder / name, checksum)
        except StoreError as error:
            problems.append(str(error))
    for path in _recorded_manifests():
        try:
            _load(path, path.with_suffix(".nc"), recorded=True)
        except StoreError as error:
            problems.append(str(error))
    return problems


def record(run: Run) -> Path:
    """Copy a finished run to recorded/, compressed: scalars as float32 unless it was computed in float64; a curve of
    more than 20,000 points is thinned by `thin`. The manifest goes with it. Returns the trace's path."""
    target = recorded() / run.identity["chapter"] / f"{run.identity['experiment']}-{run.key}.nc"
    # what was computed in double precision is kept so: an identity that holds to rounding would not survive float32
    small = thin(run.trace) if run.identity.get("precision") == "float64" else single(thin(run.trace))
    encoding = {name: {"zlib": True, "complevel": 9, "shuffle": True} for name in small.data_vars}
    content = _netcdf(small, encoding)
    write_atomically(target, content)
    checks = {"trace_sha256": _sha256(content), "values_sha256": values_sha256(small)}
    _write_json(target.with_suffix(".json"), run.manifest | checks)
    return target


def thin(trace: xr.Dataset, most: int = MAX_RECORDED_POINTS) -> xr.Dataset:
    """A trace of more than `most` steps in windows of odd length, each with its mean, and minimum and maximum as
    `<name>_min`, `<name>_max`. Odd, because an even stride would see one phase of the period-2 oscillation."""
    window = -(-trace.sizes["step"] // most)
    if window <= 1:
        return trace
    return windowed(trace, window + 1 - window % 2)


def windowed(trace: xr.Dataset, window: int) -> xr.Dataset:
    """A trace in windows of so many steps, see `thin`; the trace itself if they hold one."""
    if window == 1:
        return trace
    windows = trace.coarsen(step=window, boundary="pad")  # the last one may hold fewer
    with warnings.catch_warnings():  # a window in which a sparse observable was never measured is nan
        warnings.simplefilter("ignore", RuntimeWarning)
        parts = {"": windows.mean(), "_min": windows.min(), "_max": windows.max()}
    return xr.merge([part.rename({n: n + s for n in part.data_vars}) for s, part in parts.items()]).assign_attrs(
        trace.attrs, window=window
    )


def single(trace: xr.Dataset) -> xr.Dataset:
    """A trace with its float64 as float32; what that cannot hold becomes infinite."""
    wide = [name for name, values in trace.data_vars.items() if values.dtype == "float64"]
    with np.errstate(over="ignore"):
        return trace.assign(trace[wide].astype("float32", keep_attrs=True))


def trace_of(rows: list[dict]) -> xr.Dataset:
    """Rows of observables, one for each step from 0 on, as a labelled trace."""
    return _labelled({"step": np.arange(len(rows)), **_columns(rows)})


def values_sha256(trace: xr.Dataset) -> str:
    """A hash over names, shapes and values of a trace's variables, independent of file format."""
    digest = hashlib.sha256()
    for name in sorted(map(str, trace.variables)):
        values = np.ascontiguousarray(trace[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


@functools.cache
def library_sha256() -> str:
    """A hash over the library's source files, as they were when first asked."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def machine() -> dict[str, str]:
    """What can change a floating-point result beside the number of threads: processor, device, PyTorch."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "model\t")))
        processor = ", model ".join(sorted(set(models), reverse=True)) or processor
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"processor": processor, "gpu": device, "torch": torch.__version__}


# ------------------------------------------------------------------------------------------------- one folder


class _Journal:
    """Rows and checkpoints of one run in its folder."""

    def __init__(self, folder: Path, identity: dict):
        self.folder, self.identity = folder, _plain(identity)
        self.rows: list[dict] = []  # observed since the last checkpoint
        self.step = self.saved_step = 0
        self.files: dict[str, str] = {}  # name → sha256 of the rows written so far
        self.wall_seconds, self.resumes = 0.0, 0
        self.started = time.monotonic()
        self.code = {"commit": _commit(), "library_sha256": library_sha256()}  # now: files may change meanwhile

    @contextlib.contextmanager
    def resumed(self, process: Process) -> Iterator[None]:
        """Load the last checkpoint into the process, and keep to its number of threads meanwhile."""
        path = self.folder / "checkpoint.json"
        threads = torch.get_num_threads()
        if path.exists():
            checkpoint = _read_json(path)
            if checkpoint["machine"] != machine():
                raise StoreError(
                    f"{path.parent.name} was begun on another machine ({checkpoint['machine']}, this is {machine()}): "
                    "its stretches must not be mixed. Finish it there, or begin anew with --fresh"
                )
            *rows, state = checkpoint["files"].items()
            for name, checksum in rows:
                _verified(self.folder / name, checksum)
            tensors = safetensors.torch.load(_verified(self.folder / state[0], state[1]))
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
            "files": self.files | {state: _sha256(content)},
            "state": numbers,
            "machine": machine(),
        }
        _write_json(self.folder / "checkpoint.json", body)
        self.saved_step = self.step
        for path in self.folder.glob("state-*.safetensors"):
            if path.name != state:
                path.unlink()

    def finish(self, process: Process) -> Run:
        """Write trace and manifest, and drop what only a resume needs."""
        self._write_rows()
        trace = self._trace()
        content = _netcdf(trace)
        write_atomically(self.folder / "trace.nc", content)
        state = process.state()
        manifest = (
            self._body()
            | {
                "diverged_at": state.get("diverged_at"),
                "gradients": state.get("gradients"),
                "products": state.get("products"),
                "trace_sha256": _sha256(content),
                "values_sha256": values_sha256(trace),
                "machine": machine(),
                "versions": _versions(),
            }
            | self.code
        )
        _write_json(self.folder / "manifest.json", manifest)
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
        columns = _columns(self.rows)
        buffer = io.BytesIO()
        np.savez(buffer, step=np.arange(first, self.step), **columns)
        name = f"rows-{first:09d}-{self.step:09d}.npz"
        write_atomically(self.folder / name, buffer.getvalue())
        self.files[name] = _sha256(buffer.getvalue())
        self.rows = []

    def _trace(self) -> xr.Dataset:
        parts = []
        for name, checksum in self.files.items():
            with np.load(io.BytesIO(_verified(self.folder / name, checksum))) as columns:
                parts.append(_labelled(dict(columns)))
        trace = xr.concat(parts, "step", join="outer", data_vars="all", coords="minimal", compat="override")
        return trace.assign_attrs(identity=_canonical(self.identity).decode())


def _columns(rows: list[dict]) -> dict[str, np.ndarray]:
    """Rows of observables as one array for each name; nan where an observable was not measured."""
    names = dict.fromkeys(name for row in rows for name in row)
    blank = {n: np.full(np.shape(next(r[n] for r in rows if n in r)), np.nan) for n in names}
    return {n: np.array([row.get(n, blank[n]) for row in rows], dtype=VARIABLES[n].dtype) for n in names}


def _labelled(columns: dict[str, np.ndarray]) -> xr.Dataset:
    """Columns with their dimensions, long names and units, over the coordinate `step`."""
    step = ("step", columns.pop("step"), {"long_name": "iteration t", "units": "1"})
    data = {}
    for name, values in columns.items():
        variable = VARIABLES[name]
        data[name] = (("step", *variable.dims), values, {"long_name": variable.long_name, "units": variable.units})
    return xr.Dataset(data, {"step": step})


def _load(manifest_path: Path, trace_path: Path, recorded: bool) -> Run:
    manifest = _read_json(manifest_path)
    content = _verified(trace_path, manifest["trace_sha256"])
    with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as trace:
        return Run(manifest["identity"], trace.load(), manifest, recorded)


def _row(manifest: dict, status: str, path: Path) -> dict:
    identity = manifest["identity"]
    return {
        "key": manifest["key"],
        "experiment": f"{identity['chapter']}.{identity['experiment']}",
        "status": status,
        "sha256": manifest.get("values_sha256"),
        "steps": manifest["step"],
        "wall_seconds": round(manifest["wall_seconds"], 1),
        "diverged_at": manifest.get("diverged_at"),
        "path": str(path),
    }


def _recorded_manifests() -> list[Path]:
    # recorded/claims/ holds verdicts, not runs
    return sorted(path for path in recorded().glob("*/*-*.json") if path.parent.name != "claims")


def _recorded_manifest(identity: dict) -> Path | None:
    for path in _recorded_manifests():
        if path.stem.endswith(key_of(identity)):  # the name holds the key: no need to read
            return path
        data_absent = identity.get("fingerprint", "") is None
        if data_absent and _read_json(path)["identity"] | {"fingerprint": None} == _plain(identity):
            return path
    return None


def _folder(identity: dict) -> Path:
    return store() / f"{identity['chapter']}.{identity['experiment']}-{key_of(identity)}"


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


# --------------------------------------------------------------------------------------------------- one file


def write_atomically(path: Path, content: bytes) -> None:
    """Write atomically: after a crash at any instant the file is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        disk = next(folder for folder in path.parents if os.path.isdir(folder))
        raise StoreError(
            f"cannot write {path}: {error.strerror} ({len(content):,} bytes; "
            f"{shutil.disk_usage(disk).free:,} are free). Nothing finished or checkpointed is lost: "
            "make room and give the same command again"
        ) from error


def _write_json(path: Path, body: dict) -> None:
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    write_atomically(
        path, json.dumps({"sha256": _sha256(text.encode()), "body": body}, sort_keys=True, indent=1).encode()
    )


def _read_json(path: Path) -> dict:
    """The body of a file made by `_write_json`, verified."""
    try:
        wrapped = json.loads(path.read_bytes())
        body, checksum = wrapped["body"], wrapped["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damage(path) from error
    if _sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()) != checksum:
        raise _damage(path)
    return body


def _verified(path: Path, checksum: str) -> bytes:
    """The file's content, whose checksum is right."""
    if not path.exists():
        raise Damaged(f"{path} is missing. Begin this run anew with --fresh, or delete {path.parent}")
    content = path.read_bytes()
    if _sha256(content) != checksum:
        raise _damage(path)
    return content


def _damage(path: Path) -> Damaged:
    return Damaged(
        f"{path} is damaged: its checksum is not the one it was written with. It is not used. "
        f"Begin this run anew with --fresh, or delete {path.parent}"
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _netcdf(trace: xr.Dataset, encoding: dict | None = None) -> bytes:
    return bytes(trace.to_netcdf(engine="h5netcdf", encoding=encoding))


def _canonical(identity: dict) -> bytes:
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(identity: dict) -> dict:
    """As it will be read back: tuples become lists."""
    return json.loads(_canonical(identity))


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


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": np.__version__, "xarray": xr.__version__}


@functools.cache
def _commit() -> str | None:
    """The checkout's git commit, with `+changes` if the library differs from it; None outside a checkout."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "eoslib") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
