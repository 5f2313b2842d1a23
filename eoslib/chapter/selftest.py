"""Is this machine fit? Checks of its device, then a few steps of each kind of experiment on it as on the CPU."""

import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from eoslib import store
from eoslib.chapter import agreement, presets
from eoslib.chapter.experiments import differing

STEPS = 3  # of each experiment


def run(device: torch.device) -> Iterator[dict]:
    """Each check when it is done: its name, whether all was as expected, what was seen, and the seconds it took."""
    for name, check in checks(device):
        start = time.monotonic()
        try:
            ok, seen = True, check()
        except Exception as error:  # whatever a device may come up with
            ok, seen = False, str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        yield {"check": name, "ok": ok, "seen": seen, "seconds": round(time.monotonic() - start, 2)}


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names, and functions that return what they saw or raise AssertionError: what was expected, what was seen."""
    paths = map(presets.chapter_path, presets.chapters())
    declared = [es for path in paths for es in presets.declared_experiments(path, presets.parameters(path)).values()]
    alone = [e for es in declared for e in es if not e.builds_on]  # what builds on runs would want them first
    listed = alone[::-1]  # so that of each kind the first is kept
    trained = {e.problem.network.architecture: e for e in listed if hasattr(e, "problem") and e.fingerprint}
    # a float32 sum of 512 products errs by 1e-6 of the largest; TF32, with 11 bits of each factor, by 4e-4
    yield "float32 matrix product", lambda: _product(device, torch.float32, 1e-5)
    yield "float64 matrix product", lambda: _product(device, torch.float64, 1e-13)
    yield "convolutions repeat their bits", lambda: _repeats(trained["resnet18"].process(device))
    for name, e in trained.items():  # in float64, so that nothing but a wrong derivative is as far off as 1e-9
        yield f"derivatives: {name}", lambda e=e: _derivatives(device, dataclasses.replace(e, precision="float64"))
    kinds = list({_kind(e): e for e in listed}.values())[::-1]
    yield "memory", lambda: f"{torch.ones(int(max(e.work()[1] for e in kinds)) // 4, device=device).nbytes:,} bytes"
    for e in kinds:
        yield f"{e.chapter} {e.experiment}: {', '.join(_parts(e))}", lambda e=e: _steps(device, e)


def _kind(e) -> tuple:
    """What tells experiments apart as computations."""
    return e.chapter, type(getattr(e, "problem", None)), *_parts(e), *map(type, getattr(e, "measurements", ()))


def _parts(e) -> list[str]:
    """The names of what it is composed of, and of what its batches do beside seeing all data."""
    named = [part.name for part in map(vars(e).get, ("rule", "schedule")) if part]
    batches = differing(e.batches) if hasattr(e, "batches") else {}
    return [type(e).__name__, *named, *(name.replace("_", " ") for name in batches if name != "is")]


def _product(device: torch.device, dtype: torch.dtype, within: float) -> str:
    a, b = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    product = (a.to(device) @ b.to(device)).cpu()
    return f"{agreement.error('product', product, a.double() @ b.double(), within):.0e} off"


def _repeats(process) -> str:
    theta = process.theta + 0.1  # away from the initialisation, where the last layer is zero
    first, second = (process.objective.gradient(theta).cpu() for _ in range(2))
    return f"{agreement.error('a second backward pass', second, first, 0.0):.0e} off"


def _derivatives(device: torch.device, experiment) -> str:
    """∇f, ∇²f v, ∇³f(v, v) and ∇⁴f(v, v, v), away from the initialisation."""
    seen = []
    for process in (experiment.process(device), experiment.process(torch.device("cpu"))):
        v = torch.linspace(-1, 1, len(process.theta), dtype=torch.float64).to(process.theta.device)
        point = process.objective.expand(process.theta + v / 10)
        seen.append([x.cpu() for x in (point.gradient, point.hvp(v), point.third(v), point.fourth(v))])
    errors = [agreement.error(f"order {i}", *pair, 1e-9) for i, pair in enumerate(zip(*seen, strict=True), 1)]
    return f"{max(errors):.0e} off"


def _steps(device: torch.device, experiment) -> str:
    """The device goes on from a state that the CPU left in a file: where there is an onset, from there, because what
    is unstable then has grown out of rounding errors. To 1e-4, as differences of losses lose three of float32's seven
    digits; in float64 to 1e-9, although eigenvectors are good to 1e-6 only, for both make the same products."""
    here, there = experiment.process(torch.device("cpu")), experiment.process(device)
    while hasattr(here, "onset") and not here.finished and (here.onset is None or here.t < here.onset):
        here.step()
    with tempfile.TemporaryDirectory() as x, mock.patch.dict(os.environ, EOSLIB_RUNS=x, EOSLIB_RECORDED=x):
        for process in (here, there):  # given no time the one saves its state and stops, and the other loads it
            store.carry_on(process, experiment.identity, budget=0, mix=True)
    rows = [list(itertools.islice(agreement.rows(process), STEPS)) for process in (there, here)]
    single = getattr(there, "theta", torch.ones(1).double()).dtype == torch.float32
    seen, expected = (store.trace_of(part, here.variables) for part in rows)
    errors = agreement.errors(seen, expected, here.variables, 1e-4 if single else 1e-9)
    worst = max(errors, key=errors.get)
    return f"{len(rows[0])} steps, {worst} {errors[worst]:.0e} off"
