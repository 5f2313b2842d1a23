"""Where untrusted code runs: a bubblewrap sandbox for each submission, which leaves nothing behind.

Inside there is no network, no process but its own, no environment variable of ours and no file of the host but system
programs, Python with its packages, eoslib, the two modules of the student's side and the assignment's `asks.py`, all
read-only. A scratch folder of bounded size is all that can be written to. `student_side` sets the limits of each
process; time, and the memory of all of them together, are watched here.

It needs no privileges. What it cannot keep out is a use of a fault in the kernel: keep the machine up to date.
"""

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import exchange
import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "USER": "student",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
SCRATCH = str(64 * 2**20)  # bytes
NOBODY = "65534"


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    seconds: float = 60  # of computing, for one code cell, and for the answer to one question
    total: float = 600  # seconds by the clock, for everything
    memory: int = 2048  # megabytes
    processes: int = 16  # threads included


@dataclass(frozen=True)
class Outcome:
    """What came back: the cells that raised, the answers to the first questions, and why there are no more of them."""

    trouble: str
    answers: tuple[dict, ...]
    ending: str


class Failed(RuntimeError):
    """The sandbox itself did not work, which is no student's fault."""


def available() -> bool:
    return shutil.which("bwrap") is not None


def run(notebook: bytes, asks: Path, questions: dict[str, dict], limits: Limits, *, trust: bool = False) -> Outcome:
    """Execute a notebook, then ask it the questions, given with their inputs; with `trust`, without a sandbox."""
    task = asdict(limits) | {"questions": json.dumps([*questions]), "notebook": np.frombuffer(notebook, np.uint8)}
    with contextlib.ExitStack() as stack:
        # Files without a name, opened here: no path that the other side could make a link, a pipe or a device.
        given, answers, complaints = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.writelines(exchange.pack(message) for message in (task, *questions.values()))
        given.seek(0)
        command = [sys.executable, str(HERE / "student_side.py"), str(asks)]
        channels = {"stdin": given, "stdout": answers, "stderr": complaints, "env": ENVIRONMENT}
        if trust:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            channels |= {"cwd": scratch, "env": ENVIRONMENT | {"HOME": scratch}}
            process = subprocess.Popen(command, start_new_session=True, **channels)
            ending = _carried_out(process, process.pid, limits)
        else:
            ending = _in_sandbox(command, asks, limits, channels)
        answers.seek(0)
        messages = []
        with contextlib.suppress(ValueError):  # what came whole before it counts
            for message in exchange.unpack(answers.read(exchange.LIMIT)):
                messages.append(message)
        complaints.seek(0)
        if not messages and (complaint := complaints.read(exchange.LIMIT).decode(errors="replace").strip()):
            raise Failed(complaint)
    report, *rest = messages[1:] or [{}]
    return Outcome(str(report.get("trouble", ""))[:20_000], tuple(rest[: len(questions)]), ending)


def _in_sandbox(command: list[str], asks: Path, limits: Limits, channels: dict) -> str:
    """Carry the command out in a sandbox. Its first process is bubblewrap's: with it, the kernel ends all others."""
    (told, tell), (held, hold) = os.pipe(), os.pipe()
    bubblewrap, *arguments = _bubblewrap(asks)
    command = [bubblewrap, "--info-fd", str(tell), "--block-fd", str(held), *arguments, *command]
    process = subprocess.Popen(command, start_new_session=True, pass_fds=[tell, held], **channels)
    os.close(tell)
    os.close(held)
    with open(told, "rb") as information, open(hold, "wb") as release:
        text = b""
        while b"}" not in text and (more := information.read1()):
            text += more
        if not text:  # bubblewrap has said why in its complaints
            return f"no sandbox, status {process.wait()}"
        return _carried_out(process, json.loads(text)["child-pid"], limits, release.close)


def _carried_out(process: subprocess.Popen, first: int, limits: Limits, release=lambda: None) -> str:
    """Watch to the end, which is described; then no process of the other side is left."""
    guard = os.pidfd_open(first)
    release()
    try:
        return _watch(process, first, limits)
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(guard, signal.SIGKILL)
        select.select([guard], [], [])
        os.close(guard)
        process.wait()
        with contextlib.suppress(ProcessLookupError):  # what a trusted notebook started
            os.killpg(process.pid, signal.SIGKILL)


def _watch(process: subprocess.Popen, first: int, limits: Limits) -> str:
    end = time.monotonic() + limits.total
    while process.poll() is None:
        if time.monotonic() > end:
            return f"stopped after {limits.total:g} seconds"
        if _resident(first) > limits.memory * 2**20:
            return f"stopped, because it used more than {limits.memory} MB of memory"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.25)
    return f"ended early with status {process.returncode}" if process.returncode else ""


def _resident(first: int) -> int:
    """Bytes in memory of a process and all below it."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (parent := psutil.Process(first), *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def _bubblewrap(asks: Path) -> list[str]:
    """A sandbox in a sandbox. In the inner one, of which the notebook is process 1, there is nothing but the notebook.

    The outer one's first process is out of the notebook's reach, and takes everything with it when it ends. In between
    root becomes nobody: no limit on processes binds root, and nobody can read what the outer one shows.
    """
    view = _view(asks)
    outer = ["bwrap", "--unshare-pid", "--die-with-parent", *view, "--bind", "/proc", "/proc", "--dev", "/dev", "--"]
    drop = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"] if os.geteuid() == 0 else []
    inner = [
        *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1", "--die-with-parent", *view),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--size", SCRATCH, "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/", "--hostname", "sandbox", "--chdir", "/tmp", "--"),
    ]
    return [*outer, *drop, *inner]


def _view(asks: Path) -> list[str]:
    """bubblewrap's arguments for what is shown, read-only and each where it is on the host."""
    eoslib = importlib.util.find_spec("eoslib")
    shown = {
        *(Path("/usr"), Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]),
        *(HERE / "student_side.py", HERE / "exchange.py", asks),
        *(map(Path, eoslib.submodule_search_locations) if eoslib else ()),
        *map(Path, ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime")),
    }
    arguments = ["--size", SCRATCH, "--tmpfs", "/tmp"]
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib64")):
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        else:
            shown.add(path)
    for path in sorted(path for path in shown if path.exists() and not shown.intersection(path.parents)):
        for parent in reversed(path.parents[:-1]):  # which bubblewrap would make readable by their owner alone
            arguments += ["--perms", "0755", "--dir", str(parent)]
        arguments += ["--ro-bind", str(path), str(path)]
    return arguments
