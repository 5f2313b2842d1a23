"""A chapter over a grid of parameters, on Dask: cases call the library, no kernels.

A case is a chapter at some parameters. Its runs are computed first, each once however many cases share it; then the
chapter's cells judge the claims, in the worker's own process. What a case found is a file of its own, written whole as
soon as it is known: a sweep that is killed goes on where it stopped, and `results.csv` holds what all its shards found.
"""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from eoslib import store
from eoslib.chapter import claims, execution, experiments, presets
from eoslib.chapter.experiments import Experiment

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
APART = {"parameters", "plain", "compared"}  # tags of cells that judge nothing
COLUMNS = ("kind", "name", "label", "value", "standard_error", "verdict")


class SchedulerLost(RuntimeError):
    """The scheduler of a sweep cannot be reached any more; the message says how to go on."""


# --- what is swept ---


def grid(given: Sequence[str]) -> list[dict[str, str]]:
    """All combinations of the values of `name=a,b,c` or `name=low:high:count`, evenly spaced, with `@log` at the end
    geometrically. Values are as on the command line. Raises ParameterError."""
    axes = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals:
            raise presets.ParameterError(f"-g {text!r}: expected name=a,b,c or name=low:high:count@log")
        axes[name.strip()] = _spaced(text, values) if ":" in values and "{" not in values else _listed(text, values)
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def _listed(text: str, values: str) -> list[str]:
    """The values between commas that stand in no brackets."""
    found, depth = [""], 0
    for character in values:
        depth += (character in "[{(") - (character in "]})")
        found = [*found, ""] if character == "," and not depth else [*found[:-1], found[-1] + character]
    if not all(value.strip() for value in found):
        raise presets.ParameterError(f"-g {text!r}: a value is empty")
    return [value.strip() for value in found]


def _spaced(text: str, values: str) -> list[str]:
    ends, _, how = values.partition("@")
    try:
        low, high, count = (presets.number(part) for part in ends.split(":"))
        if how not in ("", "log") or count != int(count) or count < 1 or (how and not (low > 0 and high > 0)):
            raise ValueError("expected low:high:count, and @log between positive ends")
    except ValueError as error:
        raise presets.ParameterError(f"-g {text!r}: {error}") from None
    spaced = np.geomspace(low, high, int(count)) if how else np.linspace(low, high, int(count))
    return [f"{value:.12g}" for value in spaced]  # on which all processors agree


def table(path: Path) -> list[dict[str, Any]]:
    """The cases of a file: a row of a CSV file, or an entry of a YAML list, for each. Raises ParameterError."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise presets.ParameterError(f"cannot read cases from {path}: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and None not in (*r, *r.values()) for r in rows):
        raise presets.ParameterError(f"{path}: expected a list of cases, each with the same kind of name: value")
    return rows


@dataclasses.dataclass(frozen=True)
class Case:
    """A chapter at some parameters. given: those that differ from the preset's, as values; only: one experiment, whose
    runs alone are computed."""

    path: Path
    preset: str
    given: dict[str, Any]
    only: str | None
    key: str

    def experiments(self) -> list[tuple[str, Experiment]]:
        """The case's experiments with their names."""
        values = presets.parameters(self.path, self.preset, self.given)
        declared = presets.declared_experiments(self.path, values)
        if self.only is not None and self.only not in declared:
            raise presets.ParameterError(f"no experiment {self.only!r}; there are {', '.join(declared)}")
        return [(name, e) for name, listed in declared.items() if self.only in (None, name) for e in listed]


def cases(path: Path, preset: str, given: Sequence[Mapping[str, Any]], only: str | None = None) -> list[Case]:
    """Each case once, in the order given. Raises ParameterError, before anything runs, on parameters that the chapter
    does not accept."""
    code = execution.cache_key(path, {})
    found = {}
    for overrides in given:
        values = presets.parameters(path, preset, overrides)
        key = hashlib.sha256(json.dumps([code, values, only], sort_keys=True).encode()).hexdigest()[:16]
        found.setdefault(key, Case(path.resolve(), preset, {name: values[name] for name in overrides}, only, key))
    for case in list(found.values())[:1]:
        case.experiments()  # there is `only`
    return list(found.values())


# --- what a worker does ---


def alone(task):
    """The task, inside which xarray does not ask the scheduler for a lock whenever it writes a file."""

    @functools.wraps(task)
    def done(*arguments):
        import dask

        with dask.config.set(scheduler="synchronous"):
            return task(*arguments)

    return done


@alone
def compute(experiment: Experiment, *builds_on: Any) -> str:
    """The key of the finished run. builds_on: finished before."""
    return experiments.carry_on(experiment).key


@alone
def case_of(case: Case, folder: Path, *runs: Any) -> None:
    """Write what the case found. runs: finished before."""
    began = time.monotonic()
    done = [(name, e, experiments.carry_on(e)) for name, e in case.experiments()]  # in the store
    rows = [*observables(done), *judged(case)]
    found = {"given": case.given, "preset": case.preset, "rows": rows, "seconds": time.monotonic() - began}
    found |= {"threads": {name: os.environ.get(name) for name in THREADS} | {"torch": torch.get_num_threads()}}
    found |= {"machine": store.machine(store.default_device())}
    store.write_atomically(folder / f"{case.key}.json", json.dumps(found, ensure_ascii=False).encode())


def observables(runs: Sequence[tuple[str, Experiment, store.Run]]) -> Iterator[dict]:
    """Of each run, with the name and declaration of its experiment, the last finite value of each observable, and the
    step at which it diverged."""
    for name, experiment, run in runs:
        label = f"η = {run.step_size:.6g}" + (f", seed {experiment.seed}" if hasattr(experiment, "seed") else "")
        for variable, values in run.stored.data_vars.items():
            if values.ndim == 1 and values.dtype.kind == "f" and np.isfinite(values).any():
                last = float(values[np.isfinite(values)][-1])
                yield {"kind": "observable", "name": f"{name}/{variable}", "label": label, "value": last}
        if run.diverged_at is not None:
            yield {"kind": "observable", "name": f"{name}/diverged_at", "label": label, "value": run.diverged_at}


def judged(case: Case) -> Iterator[dict]:
    """The verdicts of the chapter's cells, on the runs that there are."""
    verdicts = []

    def shown(*objects, **_) -> None:
        verdicts.extend(data[claims.MIME] for data in objects if isinstance(data, dict) and claims.MIME in data)

    values = presets.parameters(case.path, case.preset, case.given)
    namespace: dict[str, Any] = {"__name__": "__main__"} | values
    environment = {"EOSLIB_COMPUTE": "0" if case.only else "1", "MPLBACKEND": "agg"}
    environment["EOSLIB_OPTIONS"] = execution.options(case.preset, case.given)
    with (
        mock.patch("IPython.display.display", shown),
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        for number, cell in enumerate(presets.code_cells(presets.read_chapter(case.path)), start=1):
            if not APART.intersection(cell.metadata.get("tags", [])):
                where = f"{case.path.name}, {execution.cell_name(number, cell.source)}"
                exec(compile_cell(cell.source, where), namespace)
    for v in verdicts:
        if v["verdict"] != claims.NOT_RUN:
            for label, value in v["cases"].items():
                error = v["standard_error"].get(label)
                found = {"name": v["id"], "label": label, "value": value, "standard_error": error}
                yield {"kind": "claim", "verdict": v["verdict"]} | found


compile_cell = functools.cache(functools.partial(compile, mode="exec"))


# --- what drives the workers ---


def sweep(wanted: Sequence[Case], folder: Path, cluster: str = "local", shard: str = "1/1") -> dict[str, str]:
    """Compute the cases whose file is not in the folder, and write `results.csv` of all that are; returns the traceback
    of each case that failed, by its key.

    cluster: "local", a worker with one thread for each core, or each GPU, of this machine; or the address of a Dask
    scheduler, whose workers see the same files. shard: i/n, every n-th case from the i-th on. A worker that dies is
    replaced and what it computed is tried again. Raises StoreError if another process sweeps this shard now, and
    SchedulerLost if the scheduler dies; what is finished by then is kept.
    """
    mine = of_shard(wanted, shard)
    lock = FileLock(folder / f"lock-{shard.replace('/', '-of-')}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise store.StoreError(f"another process is at shard {shard} of {folder}: it goes on") from None
    with lock:
        failed = {}
        waiting = [case for case in mine if not (folder / f"{case.key}.json").exists()]
        bar = tqdm(total=len(mine), initial=len(mine) - len(waiting), unit="case", disable=None, mininterval=0.5)
        try:
            with bar:
                for key, failure in _done(waiting, folder, cluster) if waiting else ():
                    if failure:
                        failed[key] = failure
                        bar.set_postfix(failed=len(failed))
                    bar.update()
        finally:
            write_table(wanted, folder)
    return failed


def of_shard(wanted: Sequence[Case], shard: str) -> Sequence[Case]:
    """Every n-th case from the i-th on; shard: i/n. Raises ParameterError."""
    i, _, n = shard.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise presets.ParameterError(f"--shard {shard!r}: expected i/n with 1 ≤ i ≤ n")
    return wanted[int(i) - 1 :: int(n)]


def _done(waiting: Sequence[Case], folder: Path, cluster: str) -> Iterator[tuple[str, str | None]]:
    """Each case's key as soon as it is done, with its traceback if it failed."""
    from distributed import Client, as_completed

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(_local()) if cluster == "local" else cluster
        try:
            # nobody's default: what `alone` sets would be restored over what a default client sets when it is lost
            client = stack.enter_context(Client(address, set_as_default=False))
        except OSError as error:
            raise SchedulerLost(f"no scheduler answers at {address}: {error}") from None
        runs, known = {}, {}

        def submitted(experiment: Experiment):
            key = experiment.identity.key
            if key not in runs:
                first = [submitted(e) for e in experiment.builds_on]
                runs[key] = client.submit(compute, experiment, *first, key=f"run-{key}", pure=False)
            return runs[key]

        for case in waiting:
            first = [submitted(e) for _, e in case.experiments()]
            future = client.submit(case_of, case, folder.resolve(), *first, key=f"case-{case.key}", pure=False)
            known[future] = case.key
        for future in as_completed(list(known), loop=client.loop):
            failure = None
            if future.status == "error":
                error = future.exception()
                failure = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            elif future.status != "finished":
                raise SchedulerLost(
                    f"the scheduler {address} was lost; what is finished lies in {folder}: with a scheduler's new "
                    "address, or --cluster local, the same command goes on from there"
                )
            yield known.pop(future), failure
            future.release()


@contextlib.contextmanager
def _local():
    """A cluster on this machine."""
    from distributed import Nanny, Scheduler, SpecCluster

    options = {"nthreads": 1, "memory_limit": 0, "dashboard_address": None, "silence_logs": 50}
    workers = {i: {"cls": Nanny, "options": options | {"env": env}} for i, env in enumerate(environments())}
    web = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # a server there is in any case, at no fixed port
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1"} | web}
    with SpecCluster(workers, scheduler, silence_logs=50) as cluster:
        yield cluster


def environments() -> list[dict[str, str]]:
    """The variables of each worker: one for each GPU, which alone it sees, else one for each core."""
    threads = dict.fromkeys(THREADS, "1")
    gpus = range(torch.cuda.device_count() if store.default_device().type == "cuda" else 0)
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, gpus))).split(",")
        return [threads | {"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible[: len(gpus)]]
    return [threads] * len(os.sched_getaffinity(0))


def write_table(wanted: Sequence[Case], folder: Path) -> Path:
    """`results.csv`: one row for each number that a finished case found, with the case's parameters."""
    names = list(dict.fromkeys(name for case in wanted for name in case.given))
    text = io.StringIO()
    rows = csv.DictWriter(text, ["case", *names, *COLUMNS, "seconds"], restval="", lineterminator="\n")
    rows.writeheader()
    for case in wanted:
        path = folder / f"{case.key}.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            given = {name: _as_text(value) for name, value in case.given.items()}
            for row in found["rows"]:
                row = {name: _as_text(value) for name, value in row.items()}
                rows.writerow({"case": case.key, "seconds": f"{found['seconds']:.3f}"} | given | row)
    store.write_atomically(folder / "results.csv", text.getvalue().encode())
    return folder / "results.csv"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def plot(folder: Path, asked: str) -> Path:
    """A figure of a claim's or an observable's value against a parameter, `y:x` or `y:x:hue`, as SVG in the folder: the
    mean over cases and labels, and their range. Raises ParameterError if the table does not have them."""
    import pandas as pd

    from eoslib.chapter import figures

    found = pd.read_csv(folder / "results.csv", dtype=str, keep_default_na=False)
    y, x, *hue = asked.split(":")
    parameters = [c for c in found.columns if c not in ("case", *COLUMNS, "seconds")]
    if y not in set(found.name) or len(hue) > 1 or not {x, *hue} <= set(parameters):
        valid = f"y one of {', '.join(sorted(set(found.name)))}; x and hue of {', '.join(parameters)}"
        raise presets.ParameterError(f"--plot {asked!r}: expected y:x or y:x:hue with {valid}")
    found = found[found.name == y]
    across = found[x].str.strip("[]")
    numeric = pd.to_numeric(across, errors="coerce")
    found = found.assign(x=numeric if numeric.notna().all() else across)
    found = found.assign(y=pd.to_numeric(found.value.replace({"true": "1", "false": "0"}), errors="coerce"))
    caption = f"{y} against {x}" + (f", by {hue[0]}" if hue else "") + ": mean and range"
    path = folder / f"{asked.replace('/', '-').replace(':', '-')}.svg"
    with figures.panels(1, 1, name="sweep", caption=caption, alt=caption) as (ax,):
        groups = list(found.groupby(hue[0])) if hue else [("", found)]
        for colour, (label, group) in zip(itertools.cycle(figures.PALETTE), groups):
            values = group.groupby("x").y
            mean, low, high = values.mean(), values.min(), values.max()
            ax.plot(mean.index, mean, "o-", color=colour, label=label or None)
            ax.fill_between(mean.index, low, high, color=colour, alpha=0.2, linewidth=0)
        spread = numeric[numeric > 0]
        if len(spread) == len(numeric) and spread.max() >= 10 * spread.min():
            ax.set_xscale("log")
        ax.set(xlabel=x, ylabel=y)
        if hue:
            ax.legend(title=hue[0])
        figures.lay_out(ax.figure)
        store.write_atomically(path, figures.svg(ax.figure).encode())
    return path


def job(arguments: Sequence[str], shards: int) -> str:
    """A SLURM script that runs the sweep of these arguments as an array of so many jobs, one shard each."""
    command = shlex.join([sys.executable, "-m", "eoslib", "sweep", *arguments])
    return f"""#!/bin/bash
#SBATCH --job-name=eoslib-sweep
#SBATCH --array=1-{shards}
#SBATCH --cpus-per-task=1
#SBATCH --chdir={Path.cwd()}
{command} --shard "$SLURM_ARRAY_TASK_ID/{shards}"
"""
