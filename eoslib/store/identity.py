"""What determines a run, and what made it: the key, the code, the machine."""

import contextlib
import functools
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from eoslib.store.files import sha256

ROOT = Path(__file__).parents[2]  # of the checkout


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
        return sha256(canonical(self.differing))[:16]

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the run."""
        return sha256(canonical(self.differing | {"fingerprint": self.fingerprint}))[:16]


def home() -> Path:
    """Where runs are kept: EOSLIB_RUNS, default ./runs."""
    return Path(os.environ.get("EOSLIB_RUNS", "runs"))


def recorded() -> Path:
    """Where recorded runs lie: EOSLIB_RECORDED, default recorded/ beside the library."""
    return Path(os.environ.get("EOSLIB_RECORDED", ROOT / "recorded"))


@functools.cache
def library_sha256() -> str:
    """A hash over the library's source files, as they were when first asked."""
    library = ROOT / "eoslib"
    paths = sorted(library.rglob("*.py"))
    return sha256(b"".join(path.relative_to(library).as_posix().encode() + path.read_bytes() for path in paths))


def default_device() -> torch.device:
    """EOSLIB_DEVICE, or a GPU if there is one. Raises RuntimeError if it names a GPU that is absent."""
    wanted = os.environ.get("EOSLIB_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and (local := os.environ.get("LOCAL_RANK")):  # `torchrun` gives each process a GPU
        wanted = f"cuda:{local}"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"device {wanted!r} was asked for, but PyTorch sees no GPU here; use cpu")
    return torch.device(wanted)


@functools.cache
def machine(device: torch.device) -> dict[str, str]:
    """What can change a floating-point result beside the number of threads: processor, the device used, PyTorch, and
    how many processes take the steps together, if they are several."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "model\t")))
        processor = ", model ".join(sorted(set(models), reverse=True)) or processor
    used = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    found = {"processor": processor, "gpu": "none" if device.type == "cpu" else used, "torch": torch.__version__}
    together = os.environ.get("WORLD_SIZE", "1")
    return found if together == "1" else found | {"processes": together}


def processor(machine: dict[str, str]) -> str:
    """What computed on a machine: its GPU, or its processor if none was used."""
    return machine["processor"] if machine["gpu"] == "none" else machine["gpu"]


def canonical(identity: dict) -> bytes:
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def plain(identity: dict) -> dict:
    """As it will be read back: tuples become lists."""
    return json.loads(canonical(identity))


@functools.cache
def commit() -> str | None:
    """The checkout's git commit, with `+changes` if the library differs from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "eoslib") else "")
    return None
