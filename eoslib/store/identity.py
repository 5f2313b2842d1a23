"""What determines a run, and what made it: the key, the code, the machine."""

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
import xarray as xr


def key_of(identity: dict) -> str:
    """16 hexadecimal digits that name the run: a hash of the identity's canonical JSON."""
    return hashlib.sha256(canonical(identity)).hexdigest()[:16]


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
