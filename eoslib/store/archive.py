"""Finished runs: in the store and in recorded/."""

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import xarray as xr
from torch import Tensor

from eoslib.store.files import StoreError, read_json, sha256, verified, write_atomically, write_json
from eoslib.store.identity import Identity, home, recorded
from eoslib.store.traces import netcdf, side_by_side, single, thin, values_sha256


@dataclass(frozen=True)
class Run:
    """A finished run: the values of its identity, its trace as it is stored, its manifest, and whether it came from
    recorded/."""

    identity: dict
    stored: xr.Dataset
    manifest: dict
    recorded: bool = False

    def __getitem__(self, name: str):
        """The value of that name, wherever it stands in the identity: run["seed"], run["activation"]."""
        found = list(_values(self.identity, name))
        if not found:
            raise KeyError(f"{name!r} is no value of {self.key}")
        return found[0]

    @functools.cached_property
    def trace(self) -> xr.Dataset:
        """All tables save the end's over `step`, nan where nothing was measured."""
        return side_by_side(self.stored)

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

    def theta(self, at: int | str = "last") -> Tensor:
        """θ (p,) at that step, or the last. Raises StoreError unless the experiment asked to keep it and it lies in the
        store: recorded/ holds traces only."""
        name = f"theta-{at}.safetensors"
        if self.recorded or name not in self.manifest.get("kept", {}):
            raise StoreError(
                f"run {self.key} keeps no θ of step {at}: declare keep=({at!r},) and compute it here, with "
                "--fresh where it is recorded"
            )
        content = verified(home() / self.key / name, self.manifest["kept"][name])
        return safetensors.torch.load(content)["theta"].clone()


def _values(values: dict, name: str) -> Iterator:
    if name in values:
        yield values[name]
    for value in values.values():
        if isinstance(value, dict):
            yield from _values(value, name)
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, dict):
                    yield from _values(part, name)


def find(identity: Identity) -> Run | None:
    """The finished run of this identity in the store, else in recorded/, else None. Raises Damaged.

    Where the data is absent, a run of the same family is taken; its own fingerprint stands in its identity.
    """
    folder = home() / identity.key
    if (folder / "manifest.json").exists():
        return load_run(folder / "manifest.json", folder / "trace.nc", recorded=False)
    path = _recorded_manifest(identity)
    return load_run(path, path.with_suffix(".nc"), recorded=True) if path else None


def status(identity: Identity) -> str:
    """ "finished", "recorded", "at step N" or "not started"; reads no trace."""
    folder = home() / identity.key
    if (folder / "manifest.json").exists():
        return "finished"
    if _recorded_manifest(identity):
        return "recorded"
    if (folder / "checkpoint.json").exists():
        return f"at step {read_json(folder / 'checkpoint.json')['step']}"
    return "not started"


def listing() -> list[dict]:
    """Every run of the store and of recorded/: key, experiment, status, where, and the sha256 over its values."""
    rows = []
    for folder in sorted(home().glob("*")):
        if (folder / "manifest.json").exists():
            rows.append(_row(read_json(folder / "manifest.json"), "finished", folder))
        elif (folder / "checkpoint.json").exists():
            rows.append(_row(read_json(folder / "checkpoint.json"), "unfinished", folder))
    return rows + [_row(read_json(path), "finished", path) for path in _recorded_manifests()]


def inventory() -> dict[str, str]:
    """Key → sha256 over the values, of every finished run in the store and in recorded/."""
    return {row["key"]: row["sha256"] for row in listing() if row["status"] == "finished"}


def manifests() -> list[dict]:
    """Those of every finished run, in the store and in recorded/."""
    stored = [path for path in home().glob("*/manifest.json")]
    return [read_json(path) for path in [*stored, *_recorded_manifests()]]


def recorded_runs(chapter: str | None = None) -> list[Run]:
    """All recorded runs, or those of one chapter."""
    loaded = (load_run(path, path.with_suffix(".nc"), recorded=True) for path in _recorded_manifests())
    return [run for run in loaded if chapter in (None, run.identity["chapter"])]


def verify() -> list[str]:
    """Problems found by reading every stored file and comparing its checksum; empty if all is well."""
    problems = []
    for folder in sorted(home().glob("*")):
        try:
            files = {}
            if (folder / "manifest.json").exists():
                files = load_run(folder / "manifest.json", folder / "trace.nc", recorded=False).manifest.get("kept", {})
            elif (folder / "checkpoint.json").exists():
                checkpoint = read_json(folder / "checkpoint.json")
                files = checkpoint["files"] | checkpoint["kept"]
            for name, checksum in files.items():
                verified(folder / name, checksum)
        except StoreError as error:
            problems.append(str(error))
    for path in _recorded_manifests():
        try:
            load_run(path, path.with_suffix(".nc"), recorded=True)
        except StoreError as error:
            problems.append(str(error))
    return problems


def record(run: Run) -> Path:
    """Copy a finished run to recorded/, compressed: scalars as float32 unless it was computed in float64; a curve of
    more than 20,000 points is thinned by `thin`. The manifest goes with it. Returns the trace's path."""
    target = recorded() / run.identity["chapter"] / f"{run.identity['experiment']}-{run.key}.nc"
    # what was computed in double precision is kept so: an identity that holds to rounding would not survive float32
    small = thin(run.stored) if run.identity.get("precision") == "float64" else single(thin(run.stored))
    encoding = {name: {"zlib": True, "complevel": 9, "shuffle": True} for name in small.data_vars}
    content = netcdf(small, encoding)
    write_atomically(target, content)
    checks = {"trace_sha256": sha256(content), "values_sha256": values_sha256(small)}
    write_json(target.with_suffix(".json"), run.manifest | checks)
    return target


def load_run(manifest_path: Path, trace_path: Path, recorded: bool) -> Run:
    manifest = read_json(manifest_path)
    content = verified(trace_path, manifest["trace_sha256"])
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


def _recorded_manifest(identity: Identity) -> Path | None:
    for path in _recorded_manifests():
        if path.stem.endswith(identity.key):  # the name holds the key: no need to read
            return path
        if identity.fingerprint is None and read_json(path).get("family") == identity.family:
            return path
    return None
