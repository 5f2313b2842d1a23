"""eoslib.dynamics.rules: the optimisers and schedules of PyTorch to the bit, and plain gradient descent."""

import itertools
import json
import math

import pytest
import torch
from torch.optim import lr_scheduler

from eoslib.dynamics.rules import Rule, Schedule, stable_sharpness

ETA = 0.03
OPTIMISERS = [
    ("ASGD", {"t0": 3.0, "lambd": 1e-2, "alpha": 0.6}),
    ("Adadelta", {"rho": 0.8, "eps": 1e-4}),
    ("Adafactor", {"beta2_decay": -0.7, "d": 1.5}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("Adam", {"betas": [0.8, 0.95], "eps": 1e-6, "amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"betas": [0.8, 0.95], "weight_decay": 0.1}),
    ("Adamax", {"betas": [0.8, 0.95], "eps": 1e-6}),
    ("NAdam", {"momentum_decay": 0.01, "weight_decay": 0.1}),
    ("RAdam", {"betas": [0.8, 0.95]}),
    ("RMSprop", {"alpha": 0.9, "momentum": 0.7, "centered": True, "eps": 1e-5}),
    ("Rprop", {"etas": [0.4, 1.3], "step_sizes": [1e-5, 1.0]}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


def start(dtype=torch.float32):
    return torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def gradient_at(theta, t=0):
    """Of something uneven and not convex, other at each step, so that no average, sign or restart is idle."""
    return 3 * torch.sin(2 * theta + t) + 0.3 * theta


def moved(rule, steps=25, dtype=torch.float32, step_size=ETA):
    """θ after each step."""
    theta = start(dtype)
    live = rule.begin(theta, step_size)
    for t in range(steps):
        theta, _ = live.move(theta, gradient_at(theta, t), step_size)
        yield theta


# --- update maps -----------------------------------------------------------------------------------------


def test_gradient_descent_rounds_twice():
    theta, differs = start(), False
    for t, ours in enumerate(moved(Rule(), 25)):
        gradient = gradient_at(theta, t)
        once = (theta.double() - ETA * gradient.double()).float()
        theta = theta - ETA * gradient
        assert torch.equal(ours, theta)
        differs |= not torch.equal(theta, once)
    assert differs


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for name, given in OPTIMISERS for n, o in [(name, given), (name, {})]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_optimiser_moves_theta_as_in_a_plain_loop(name, options, dtype):
    leaf = start(dtype).requires_grad_()
    optimiser = getattr(torch.optim, name)([leaf], lr=ETA, **options)
    for t, ours in enumerate(moved(Rule(name=name, options=options), dtype=dtype)):
        leaf.grad = gradient_at(leaf.detach(), t)
        optimiser.step()
        assert torch.equal(ours, leaf)
    assert ours.dtype == dtype and not ours.requires_grad


def test_these_are_all_that_are_accepted():
    kinds = {k for k, v in vars(torch.optim).items() if isinstance(v, type) and issubclass(v, torch.optim.Optimizer)}

    def accepts(name):
        try:
            return bool(Rule(name=name).begin(start(), ETA))
        except ValueError:
            return False

    assert {name for name in kinds if accepts(name)} == {name for name, _ in OPTIMISERS}


def test_options_change_what_an_optimiser_does():
    for name, options in OPTIMISERS:
        with_options, without = (list(moved(Rule(name=name, options=o)))[-1] for o in (options, {}))
        assert not torch.equal(with_options, without), name


def test_heavy_ball_against_the_recursion_by_hand():
    beta, theta, velocity = 0.9, start(torch.float64), torch.zeros(50, dtype=torch.float64)
    for t, ours in enumerate(moved(Rule(name="SGD", options={"momentum": beta}), dtype=torch.float64)):
        velocity = beta * velocity + gradient_at(theta, t)
        theta = theta - ETA * velocity
        torch.testing.assert_close(ours, theta, rtol=1e-13, atol=1e-14)


def test_the_step_size_of_each_step_is_the_one_that_is_handed_over():
    theta = start(torch.float64)
    live = Rule(name="SGD").begin(theta, 1.0)
    for step_size in (0.1, 0.7, 0.0):
        after, _ = live.move(theta, gradient := gradient_at(theta), step_size)
        torch.testing.assert_close(theta - after, step_size * gradient, rtol=1e-12, atol=1e-15)
        theta = after


@pytest.mark.parametrize(("name", "options"), [("gd", {}), ("SGD", {"momentum": 0.9, "nesterov": True}), *OPTIMISERS])
@pytest.mark.parametrize("foreach", [False, True])
def test_theta_and_gradient_handed_over_are_left_alone(name, options, foreach):
    """With foreach, the default on a GPU, nesterov's momentum works inside the gradient that it is given."""
    if foreach and name == "gd":
        options = {}
    elif foreach:
        options = options | {"foreach": True}
    theta, path = start(), []
    live = Rule(name=name, options=options).begin(theta, ETA)
    for t in range(4):
        gradient = gradient_at(theta, t)
        before, kept = theta.clone(), gradient.clone()
        after, _ = live.move(theta, gradient, ETA)
        assert torch.equal(theta, before) and torch.equal(gradient, kept)
        assert not torch.equal(after, theta)
        path.append((after, after.clone()))
        theta = after
    assert all(torch.equal(after, then) for after, then in path)  # nor are those that it gave earlier


@pytest.mark.parametrize(("name", "options"), OPTIMISERS)
def test_a_restored_optimiser_continues_and_its_state_stays_as_it_was(name, options):
    theta = start()
    live = Rule(name=name, options=options).begin(theta, ETA)
    for t in range(5):
        theta, _ = live.move(theta, gradient_at(theta, t), ETA)
    state, then = live.state(), {key: x.clone() for key, x in live.state().items()}
    restored = Rule(name=name, options=options).begin(start(), ETA)
    restored.load({key: x.clone() for key, x in state.items()})
    other = theta
    for t in range(5, 12):
        theta, _ = live.move(theta, gradient_at(theta, t), ETA)
        other, _ = restored.move(other, gradient_at(other, t), ETA)
        assert torch.equal(theta, other)
    assert state.keys() == then.keys()
    assert all(torch.equal(state[key], then[key]) for key in then)
    fresh = Rule(name=name, options=options).begin(start(), ETA).move(other, gradient_at(other, 12), ETA)[0]
    assert not torch.equal(fresh, restored.move(other, gradient_at(other, 12), ETA)[0])  # the state does matter


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("Sgd", {}, r"unknown rule 'Sgd'; expected one of: gd, .*Adam.*SGD"),
        ("Optimizer", {}, "unknown rule 'Optimizer'"),
        ("lr_scheduler", {}, "unknown rule 'lr_scheduler'"),
        ("LBFGS", {}, "unknown rule 'LBFGS'"),  # wants a closure
        ("SparseAdam", {}, "unknown rule 'SparseAdam'"),  # sparse gradients
        ("Muon", {}, "unknown rule 'Muon'"),  # matrices
        ("gd", {"momentum": 0.9}, "gd takes no options, given momentum"),
        ("SGD", {"momentun": 0.9}, r"options of SGD: .*'momentun'; there are momentum, .*nesterov"),
        ("Adam", {"lr": 0.1}, r"options of Adam: .*'lr'"),
        ("SGD", {"momentum": -1}, "momentum value: -1"),
    ],
)
def test_a_rule_that_does_not_exist_or_does_not_fit_is_named(name, options, named):
    with pytest.raises(ValueError, match=named):
        Rule(name=name, options=options).begin(start(), ETA)


# --- the metric of adaptive methods ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Adam", {}),
        ("Adam", {"weight_decay": 0.5, "betas": [0.8, 0.9], "eps": 1e-2}),
        ("Adam", {"weight_decay": 0.5, "decoupled_weight_decay": True}),
        ("Adam", {"amsgrad": True, "betas": [0.5, 0.3]}),
        ("Adam", {"maximize": True, "weight_decay": 0.5}),
        ("AdamW", {"weight_decay": 0.5, "betas": [0.8, 0.9]}),
        ("RMSprop", {"alpha": 0.7}),
        ("RMSprop", {"alpha": 0.7, "weight_decay": 0.5, "eps": 1e-2}),
        ("RMSprop", {"alpha": 0.7, "centered": True}),
    ],
)
def test_the_metric_is_that_of_the_step_which_torch_takes(name, options):
    """v = ηP⁻¹m, with the m that PyTorch holds after the step."""
    theta = start(torch.float64)
    live = Rule(name=name, options=options).begin(theta, ETA)
    decoupled = name == "AdamW" or options.get("decoupled_weight_decay")
    decay, sign = options.get("weight_decay", 0), -1 if options.get("maximize") else 1
    for t in range(12):
        gradient = gradient_at(theta, t)
        metric = live.metric(theta, gradient)
        after, _ = live.move(theta, gradient, ETA)
        m = sign * gradient + (0 if decoupled else decay) * theta
        if name != "RMSprop":
            beta, count = options.get("betas", [0.9])[0], live.state()["step"].item()
            m = live.state()["exp_avg"] / (1 - beta**count)
        v = theta - after - (ETA * decay * theta if decoupled else 0)
        torch.testing.assert_close(v * metric, ETA * m, rtol=1e-9, atol=1e-13)
        theta = after


def test_the_metric_moves_nothing():
    theta = start()
    asked, plain = (Rule(name="Adam", options={"amsgrad": True}).begin(theta, ETA) for _ in range(2))
    a = b = theta
    for t in range(5):
        asked.metric(a, gradient_at(a, t + 7))
        a, b = asked.move(a, gradient_at(a, t), ETA)[0], plain.move(b, gradient_at(b, t), ETA)[0]
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["gd", "SGD", "Adagrad", "Rprop"])
def test_other_rules_are_euclidean(name):
    theta = start()
    assert Rule(name=name).begin(theta, ETA).metric(theta, gradient_at(theta)) is None


BIG = 1e6  # an ε next to which √ν is nothing, so that P is a number
ENDURED = [
    ("SGD", {}, 1, 2),
    ("SGD", {"momentum": 0.9}, 1, 3.8),
    ("SGD", {"momentum": 0.9, "nesterov": True}, 1, 3.8 / 2.8),
    ("SGD", {"momentum": 0.8, "dampening": 0.5}, 1, 3.6 / 0.5),
    ("SGD", {"momentum": 0.5, "weight_decay": 1.0}, 1, 3 - 0.1),
    ("Adam", {"eps": BIG}, BIG, 38),
    ("AdamW", {"eps": BIG, "betas": (0.5, 0.99), "weight_decay": 0.0}, BIG, 6),
    ("RMSprop", {"eps": BIG}, BIG, 2),
    ("RMSprop", {"eps": BIG, "momentum": 0.5}, BIG, 3),
]


@pytest.mark.parametrize("name, options, p, times", ENDURED)
def test_an_optimiser_endures_just_so_much_curvature(name, options, p, times):
    """On a quadratic with 2 % less it comes to rest, with 2 % more it does not; times: of P/η."""
    eta, growth = 0.1, []
    for share in (0.98, 1.02):
        theta = torch.tensor([1e-60], dtype=torch.float64, requires_grad=True)
        optimiser = getattr(torch.optim, name)([theta], lr=eta, **options)
        endured = stable_sharpness(optimiser, optimiser.param_groups[0])
        assert endured == pytest.approx(times / eta)
        path = []
        for _ in range(200):
            theta.grad = share * p * endured * theta.detach()
            optimiser.step()
            path.append(abs(theta.item()))
        growth.append(path[-1] / path[99])  # by then averages have forgotten that they began at zero
    assert growth[0] < 0.1 and growth[1] > 10


@pytest.mark.parametrize("name", ["Adagrad", "NAdam", "Rprop"])
def test_of_other_optimisers_no_such_curvature_is_known(name):
    optimiser = getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)])
    assert math.isnan(stable_sharpness(optimiser, optimiser.param_groups[0]))


# --- schedules -------------------------------------------------------------------------------------------

SCHEDULES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 5, 6], "gamma": 0.3}),
    ("CosineAnnealingLR", {"T_max": 9, "eta_min": 0.001}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.001}),
    ("OneCycleLR", {"max_lr": 0.2, "total_steps": 31, "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 0.2, "total_steps": 31, "cycle_momentum": False, "three_phase": True}),
    ("LinearLR", {"start_factor": 0.1, "total_iters": 7}),
    ("ConstantLR", {"factor": 0.2, "total_iters": 4}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("PolynomialLR", {"total_iters": 12, "power": 2.0}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False}),
    (
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "mode": "exp_range", "gamma": 0.9, "cycle_momentum": False},
    ),
]
EPOCH = 3


def lengths(live, steps=30, begin=0):
    for t in range(begin, steps):
        yield live.step_size
        live.advance((t + 1) % EPOCH == 0)


def torchs_own(name, options, advances, steps=30):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=ETA)
    scheduler = getattr(lr_scheduler, name)(optimiser, **options)
    for t in range(steps):
        yield optimiser.param_groups[0]["lr"]
        optimiser.step()
        if advances == "step" or (t + 1) % EPOCH == 0:
            scheduler.step()


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
@pytest.mark.parametrize("advances", ["step", "epoch"])
def test_a_schedule_gives_the_step_sizes_of_torch_by_step_and_by_epoch(name, options, advances):
    ours = list(lengths(Schedule(name=name, options=options, advances=advances).begin(ETA)))
    assert ours == list(torchs_own(name, options, advances))
    assert len(set(ours)) > 1
    if advances == "epoch":
        assert all(len(set(ours[t : t + EPOCH])) == 1 for t in range(0, 30, EPOCH))


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
@pytest.mark.parametrize("advances", ["step", "epoch"])
@pytest.mark.parametrize("k", [0, 1, 5, 8, 20])
def test_a_schedule_that_is_restored_through_json_continues_the_same_sequence(name, options, advances, k):
    declared = Schedule(name=name, options=options, advances=advances)
    live, restored = declared.begin(ETA), declared.begin(ETA)
    for _ in itertools.islice(lengths(live), k):
        pass
    live = declared.begin(ETA)
    for t in range(k):
        live.advance((t + 1) % EPOCH == 0)
    restored.load(json.loads(json.dumps(live.state())))
    assert list(lengths(restored, begin=k)) == list(torchs_own(name, options, advances))[k:]


def test_these_are_all_schedules_that_are_accepted():
    kinds = {
        k for k, v in vars(lr_scheduler).items() if isinstance(v, type) and issubclass(v, lr_scheduler.LRScheduler)
    }

    def named(name):
        try:
            Schedule(name=name).begin(ETA)
        except ValueError as error:
            return "unknown schedule" not in str(error)
        return True

    assert {name for name in kinds if named(name)} == {name for name, _ in SCHEDULES}


def test_a_constant_step_size_stays():
    live = Schedule().begin(ETA)
    assert live.constant
    live.see(1e9)
    assert set(lengths(live)) == {ETA}


def test_the_inverse_sharpness_as_last_seen_bounded_by_the_step_size_given():
    live = Schedule(name="inverse-sharpness").begin(0.5)
    seen = [None, 1.0, 4.0, None, 8.0, -3.0, None, 100.0]
    given = []
    for sharpness in seen:
        live.see(sharpness)
        given.append(live.step_size)
        live.advance(True)
    assert given == [0.5, 0.5, 0.25, 0.25, 0.125, 0.5, 0.5, 0.01]
    restored = Schedule(name="inverse-sharpness").begin(0.5)
    restored.load(json.loads(json.dumps(live.state())))
    restored.see(None)
    assert restored.step_size == 0.01


@pytest.mark.parametrize(
    ("name", "options", "advances", "named"),
    [
        ("Cosine", {}, "step", r"unknown schedule 'Cosine'; expected one of: constant, inverse-sharpness, .*StepLR"),
        ("LambdaLR", {"lr_lambda": 1}, "step", "unknown schedule 'LambdaLR'"),
        ("MultiplicativeLR", {"lr_lambda": 1}, "step", "unknown schedule 'MultiplicativeLR'"),
        ("SequentialLR", {}, "step", "unknown schedule 'SequentialLR'"),
        ("ChainedScheduler", {}, "step", "unknown schedule 'ChainedScheduler'"),
        ("ReduceLROnPlateau", {}, "step", "unknown schedule 'ReduceLROnPlateau'"),
        ("LRScheduler", {}, "step", "unknown schedule 'LRScheduler'"),
        ("StepLR", {"step_size": 3, "gama": 1}, "step", "options of StepLR: .*'gama'"),
        ("StepLR", {}, "step", "options of StepLR: .*'step_size'"),
        ("StepLR", {"step_size": 3, "last_epoch": 2}, "step", "options of StepLR: .*initial_lr"),
        ("OneCycleLR", {"max_lr": 1, "cycle_momentum": False}, "step", "options of OneCycleLR: .*total_steps"),
        ("OneCycleLR", {"max_lr": 1, "total_steps": 9}, "step", "OneCycleLR .*cycle_momentum=False"),
        ("CyclicLR", {"base_lr": 1, "max_lr": 2, "cycle_momentum": True}, "step", "CyclicLR .*cycle_momentum=False"),
        ("constant", {"gamma": 1}, "step", "constant takes no options, given gamma"),
        ("inverse-sharpness", {"gamma": 1}, "step", "inverse-sharpness takes no options, given gamma"),
        ("StepLR", {"step_size": 3}, "week", "every step or epoch, not 'week'"),
        ("constant", {}, "week", "every step or epoch, not 'week'"),
    ],
)
def test_a_schedule_that_does_not_exist_or_does_not_fit_is_named(name, options, advances, named):
    with pytest.raises(ValueError, match=named):
        Schedule(name=name, options=options, advances=advances).begin(ETA)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_spent_gradient_gives_theta_its_memory_and_the_same_bits(dtype):
    generator = torch.Generator().manual_seed(0)
    theta, gradient = (torch.randn(10_007, generator=generator, dtype=dtype) for _ in range(2))
    expected, place = theta - 0.3 * gradient, gradient.data_ptr()
    after, v = Rule().begin(theta, 0.3).move(theta, gradient, 0.3, spent=True)
    assert torch.equal(after, expected) and after.data_ptr() == place and v is None
    assert not torch.equal(torch.sub(theta, gradient, alpha=0.3), expected)  # one rounding would be other bits
