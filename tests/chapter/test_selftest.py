"""`python -m eoslib selftest`: a fit machine passes, and each fault is found by the check that is named after it."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerator import DEVICE, Accelerator
from typer.testing import CliRunner

from eoslib import __main__ as cli
from eoslib.chapter import agreement, presets, selftest
from eoslib.chapter.experiments import Descent, ManyStarts, Map, Phases, Sizes, Stabilization
from eoslib.dynamics.trajectory import Trajectory
from eoslib.problems import objective

CPU = torch.device("cpu")


def check(name, device=CPU):
    """The result of the one check whose name begins so."""
    with pytest.MonkeyPatch.context() as patch:
        wanted = [(full, function) for full, function in selftest.checks(device) if full.startswith(name)]
        patch.setattr(selftest, "checks", lambda device: wanted)
        (result,) = selftest.run(device)
    return result


def test_a_fit_machine_passes():
    """The whole of it, in a process of its own that imports no part of the book."""
    code = (
        "import sys; sys.argv = ['eoslib', 'selftest', '--device', 'cpu', '--json']\n"
        "from eoslib.__main__ import main\n"
        "try:\n    main()\nfinally:\n    assert not {'papermill', 'sphinx'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=presets.LIBRARY.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)
    assert all(result["ok"] for result in results)
    assert sum(result["seconds"] for result in results) < 600
    names = [result["check"] for result in results]
    assert len(set(names)) == len(names)
    for kind in (Descent, ManyStarts, Map, Phases, Sizes, Stabilization):
        assert any(f": {kind.__name__}" in name for name in names)
    for chapter in presets.chapters():
        assert any(name.startswith(chapter) for name in names)


def test_a_fit_device_passes(monkeypatch):
    monkeypatch.setattr(selftest, "STEPS", 1)  # `test_accelerator.py` takes more
    with Accelerator() as accelerator:
        results = list(selftest.run(DEVICE))
        assert accelerator.transfers > len(results)
    assert [result for result in results if not result["ok"]] == []


@pytest.mark.parametrize("as_json", [True, False])
def test_a_failed_check_is_printed_and_is_the_exit_status(monkeypatch, as_json):
    def broken():
        raise AssertionError("expected 4, seen 5")

    monkeypatch.setattr(selftest, "checks", lambda device: [("sum", lambda: "4"), ("product", broken)])
    done = CliRunner().invoke(cli.app, ["selftest", *["--json"] * as_json])
    assert done.exit_code == 1
    if as_json:
        assert [(r["check"], r["ok"], r["seen"]) for r in json.loads(done.stdout)] == [
            ("sum", True, "4"), ("product", False, "expected 4, seen 5"),
        ]  # fmt: skip
    else:
        first, second = done.stdout.splitlines()
        assert first.startswith("ok") and first.endswith("sum: 4")
        assert second.startswith("FAILED") and second.endswith("product: expected 4, seen 5")


def test_an_absent_device_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, "-m", "eoslib", "selftest", "--device", "cuda"]
    done = subprocess.run(command, cwd=presets.LIBRARY.parent, capture_output=True, text=True)
    assert done.returncode == 1 and "PyTorch sees no GPU" in done.stderr and "Traceback" not in done.stderr


# --- faults ----------------------------------------------------------------------------------------------


def test_reduced_precision_is_found():
    class Reduced(Accelerator):
        """Whose matrix products keep 11 bits of each factor, as TF32 does."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.mm.default and all(x.device == DEVICE for x in args):
                for x in args:
                    x.memory.copy_((x.memory.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32))
            return super().__torch_dispatch__(func, types, args, kwargs)

    with Reduced():
        result = check("float32 matrix product", DEVICE)
    assert not result["ok"] and result["seen"].startswith("product: expected within 1e-05, seen ")
    assert 5e-5 < float(result["seen"].split()[-2]) < 5e-3


def test_a_device_without_double_precision_is_found():
    class Single(Accelerator):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = super().__torch_dispatch__(func, types, args, kwargs)
            if isinstance(result, torch.Tensor) and (result.device, result.dtype) == (DEVICE, torch.float64):
                raise TypeError("this device has no float64")
            return result

    with Single():
        result = check("float64", DEVICE)
        assert check("float32", DEVICE)["ok"]
    assert not result["ok"] and result["seen"] == "TypeError: this device has no float64"


def test_a_backward_pass_of_changing_bits_is_found(monkeypatch):
    gradient, calls = objective.Objective.gradient, []

    def changing(self, theta):
        calls.append(theta)
        return gradient(self, theta) * (1 + 1e-7 * len(calls))

    monkeypatch.setattr(objective.Objective, "gradient", changing)
    result = check("convolutions")
    assert not result["ok"] and "a second backward pass: expected within 0e+00" in result["seen"]


@pytest.mark.parametrize("method, order", [("hvp", 2), ("third", 3), ("fourth", 4)])
def test_a_wrong_derivative_is_found(monkeypatch, method, order):
    right, calls = getattr(objective.Expansion, method), []

    def wrong(self, *arguments):
        calls.append(arguments)
        return right(self, *arguments) * (1 + 1e-6 * len(calls))

    monkeypatch.setattr(objective.Expansion, method, wrong)
    result = check("derivatives: cnn")
    assert not result["ok"] and result["seen"].startswith(f"order {order}: expected within 1e-09, seen ")


def test_too_little_memory_is_found(monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("out of memory: 3 bytes are free")

    monkeypatch.setattr(torch, "ones", full)
    assert check("memory")["seen"] == "OutOfMemoryError: out of memory: 3 bytes are free"


@pytest.mark.parametrize("name", ["unstable_convergence exp1: Descent", "self_stabilization fig1: Descent"])
def test_a_step_that_goes_elsewhere_on_the_device_is_found(monkeypatch, name):
    step = Trajectory.step

    def wrong(self):
        step(self)
        if self.theta.device == DEVICE:
            self.theta = self.theta + 1e-2

    monkeypatch.setattr(Trajectory, "step", wrong)
    with Accelerator():
        result = check(name, DEVICE)
    assert not result["ok"] and "expected within 1e-04" in result["seen"]


def test_a_state_that_is_lost_on_its_way_is_found(monkeypatch):
    load = Trajectory.load

    def rounded(self, state):
        load(self, state | {"theta": state["theta"].half().float()})

    monkeypatch.setattr(Trajectory, "load", rounded)
    result = check("unstable_convergence adaptive: Descent, Adam")
    assert not result["ok"] and "expected within 1e-04" in result["seen"]


# --- agreement -------------------------------------------------------------------------------------------


def test_agreement_is_relative_to_the_largest_and_knows_what_is_not_finite():
    nan, inf = float("nan"), float("inf")
    assert agreement.error("x", [nan, inf, -inf, 1.0], [nan, inf, -inf, 1.0], 0.0) == 0
    assert agreement.error("x", [100.0, 0.001], [100.0, 0.0], 1e-4) == pytest.approx(1e-5)
    for seen in ([100.0, 0.1], [100.0, nan], [inf, 0.0]):
        with pytest.raises(AssertionError, match="x: expected within 1e-04"):
            agreement.error("x", seen, [100.0, 0.0], 1e-4)


def test_of_many_numbers_one_in_a_thousand_may_be_off():
    expected = np.ones(5000)
    for wrong, agree in ((5, True), (6, False)):
        with contextlib.nullcontext() if agree else pytest.raises(AssertionError, match="outcome"):
            agreement.error("outcome", np.where(np.arange(5000) < wrong, 0, expected), expected, 1e-9)
