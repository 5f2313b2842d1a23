"""Finished runs: in the store and in recorded/."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import xarray as xr
from torch import Tensor

from eoslib.store.files import StoreError, read_json, sha256, verified, write_atomically, write_json
from eoslib.store.identity import Identity, home, recorded
from eoslib.store.traces import read, side_by_side, single, thin, values_sha256

MANIFEST, CHECKPOINT = "manifest.json", "checkpoint.json"  # each commits the files beside it


@dataclass(frozen=True)
class Run:
    """A finished run: its identity's values, its trace as stored, its manifest, whether it came from recorded/."""

    identity: dict
    stored: xr.Dataset
    manifest: dict
    recorded: bool = False

    def __getitem__(self, name: str):
        """The value of that name, wherever it stands in the identity: run["seed"], run["activation"]."""
        for found in _values(self.identity, name):
            return found
        raise KeyError(f"{name!r} is no value of {self.key}")

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
            way_out = f"declare keep=({at!r},) and compute it here, with --fresh where it is recorded"
            raise StoreError(f"run {self.key} keeps no θ of step {at}: {way_out}")
        content = verified(home() / self.key / name, self.manifest["kept"][name])
        return safetensors.torch.load(content)["theta"].clone()


def _values(value: Any, name: str) -> Iterator:
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _values(part, name)


def find(identity: Identity) -> Run | None:
    """The finished run of this identity in the store, else in recorded/, else None. Raises Damaged. Where the data is
    absent, a run of the same family is taken; its own fingerprint stands in its identity."""
    path = _commit(identity)
    return None if path is None or path.name == CHECKPOINT else _load(path)


def load(name: str) -> Run:
    """The finished run of a key, in the store or in recorded/, or at a path: the folder of a stored run, the file of a
    recorded one. Raises StoreError if there is none, and Damaged."""
    path = Path(name)
    if (path / MANIFEST).exists():
        return _load(path / MANIFEST)
    if path.suffix == ".nc" and path.with_suffix(".json").exists():
        return _load(path.with_suffix(".json"))
    for found in _commits():
        if found.name != CHECKPOINT and (found.parent.name == name or found.stem.endswith(f"-{name}")):
            return _load(found)
    raise StoreError(f"there is no finished run {name!r} in the store or in recorded/")


def status(identity: Identity) -> str:
    """ "finished", "recorded", "at step N" or "not started"; reads no trace."""
    path = _commit(identity)
    if path and path.name == CHECKPOINT:
        return f"at step {read_json(path)['step']}"
    return "not started" if path is None else "finished" if path.name == MANIFEST else "recorded"


def listing() -> list[dict]:
    """Every run of the store and of recorded/: key, experiment, status, where, and the sha256 over its values."""
    return [
        {
            "key": body["key"], "experiment": f"{body['identity']['chapter']}.{body['identity']['experiment']}",
            "status": "unfinished" if path.name == CHECKPOINT else "finished", "sha256": body.get("values_sha256"),
            "steps": body["step"], "wall_seconds": round(body["wall_seconds"], 1),
            "diverged_at": body.get("diverged_at"),
            "path": str(path.parent if path.name in (MANIFEST, CHECKPOINT) else path),
        }
        for path, body in ((path, read_json(path)) for path in _commits())
    ]  # fmt: skip


def inventory() -> dict[str, str]:
    """Key → sha256 over the values, of every finished run in the store and in recorded/."""
    return {manifest["key"]: manifest["values_sha256"] for manifest in manifests()}


def manifests() -> list[dict]:
    """Those of every finished run, in the store and in recorded/."""
    return [read_json(path) for path in _commits() if path.name != CHECKPOINT]


def recorded_runs(chapter: str | None = None) -> list[Run]:
    """All recorded runs, or those of one chapter."""
    return [run for run in map(_load, _recorded_manifests()) if chapter in (None, run.identity["chapter"])]


def verify() -> list[str]:
    """Problems found by reading every stored file and comparing its checksum; empty if all is well."""
    problems = []
    for path in _commits():
        try:
            body = read_json(path)
            files = body["files"] if path.name == CHECKPOINT else {_trace(path).name: body["trace_sha256"]}
            # a recorded manifest names θ that stayed in the store
            kept = body.get("kept", {}) if path.name in (MANIFEST, CHECKPOINT) else {}
            for name, checksum in (files | kept).items():
                verified(path.with_name(name), checksum)
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
    content = bytes(small.to_netcdf(engine="h5netcdf", encoding=encoding))
    write_atomically(target, content)
    checks = {"trace_sha256": sha256(content), "values_sha256": values_sha256(small)}
    write_json(target.with_suffix(".json"), run.manifest | checks)
    return target


def _load(path: Path) -> Run:
    manifest = read_json(path)
    trace = read(verified(_trace(path), manifest["trace_sha256"]))
    return Run(manifest["identity"], trace, manifest, recorded=path.name != MANIFEST)


def _trace(manifest: Path) -> Path:
    return manifest.with_name("trace.nc") if manifest.name == MANIFEST else manifest.with_suffix(".nc")


def _commits() -> list[Path]:
    """What commits the files of each run: the manifests, and in the store the checkpoint of what has none."""
    stored = {path.parent: path for name in (CHECKPOINT, MANIFEST) for path in home().glob(f"*/{name}")}
    return sorted(stored.values()) + _recorded_manifests()


def _recorded_manifests() -> list[Path]:
    # recorded/claims/ holds verdicts, not runs
    return sorted(path for path in recorded().glob("*/*-*.json") if path.parent.name != "claims")


def _commit(identity: Identity) -> Path | None:
    """The manifest of this run in the store, else in recorded/, else its checkpoint, else None."""
    manifest, checkpoint = (home() / identity.key / name for name in (MANIFEST, CHECKPOINT))
    if manifest.exists():
        return manifest
    for path in sorted(recorded().glob(f"*/*-{identity.key}.json")):  # the name holds the key: no need to read
        return path
    if identity.fingerprint is None:
        experiment, family, paths = identity.values["experiment"], identity.family, _recorded_manifests()
        for path in sorted(paths, key=lambda path: not path.name.startswith(experiment)):  # to read as few as may be
            if read_json(path).get("family") == family:
                return path
    return checkpoint if checkpoint.exists() else None
