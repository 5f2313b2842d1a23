"""What determines a run, and what made it: the key, the code, the machine."""

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr


@dataclass(frozen=True)
class Identity:
    """All that determines a run, as plain values.

    values: every field, for people and for code to read; the labels `chapter` and `experiment` among them, and the
    `fingerprint` of the data ("" for none, None if they are absent here). differing: what names the run beside the
    data, so that a field that has its default changes no key.
    """

    values: dict
    differing: dict

    @property
    def fingerprint(self) -> str | None:
        return self.values.get("fingerprint", "")

    @property
    def family(self) -> str:
        """16 hexadecimal digits of a hash of `differing`: the run on whatever data."""
        return _hash(self.differing)

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the run."""
        return _hash(self.differing | {"fingerprint": self.fingerprint})


def _hash(values: dict) -> str:
    return hashlib.sha256(canonical(values)).hexdigest()[:16]


def home() -> Path:
    """Where runs are kept: EOSLIB_RUNS, default ./runs."""
    return Path(os.environ.get("EOSLIB_RUNS", "runs"))


def recorded() -> Path:
    """Where recorded runs lie: EOSLIB_RECORDED, default recorded/ beside the library."""
    return Path(os.environ.get("EOSLIB_RECORDED", Path(__file__).parents[2] / "recorded"))


@functools.cache
def library_sha256() -> str:
    """A hash over the library's source files, as they were when first asked."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.relative_to(Path(__file__).parents[1]).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def default_device() -> torch.device:
    """EOSLIB_DEVICE, or a GPU if there is one. Raises RuntimeError if it names a GPU that is absent."""
    wanted = os.environ.get("EOSLIB_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"device {wanted!r} was asked for, but PyTorch sees no GPU here; use cpu")
    return torch.device(wanted)


@functools.cache
def machine(device: torch.device) -> dict[str, str]:
    """What can change a floating-point result beside the number of threads: processor, the device used, PyTorch."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "model\t")))
        processor = ", model ".join(sorted(set(models), reverse=True)) or processor
    used = {"cpu": "none"}.get(device.type, str(device))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else used
    return {"processor": processor, "gpu": gpu, "torch": torch.__version__}


def canonical(identity: dict) -> bytes:
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def plain(identity: dict) -> dict:
    """As it will be read back: tuples become lists."""
    return json.loads(canonical(identity))


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": np.__version__, "xarray": xr.__version__}


@functools.cache
def commit() -> str | None:
    """The checkout's git commit, with `+changes` if the library differs from it; None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "eoslib") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
