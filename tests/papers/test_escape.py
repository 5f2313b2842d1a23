"""eoslib.papers.escape: constants against dense grids, proofs that can fail, and the phase diagram cell by cell."""

import math

import numpy as np
import pytest
import torch

from eoslib.dynamics.starts import Starts, uniform_points
from eoslib.measure import certificates
from eoslib.papers import escape
from eoslib.problems.landscapes import Piecewise, get
from tests.processes import carried, step_rows

REGIONS = [
    ("flat_and_sharp", 2.5, 2.2, 2.8), ("flat_and_sharp", 2.5, 2.0, 3.0), ("flat_and_sharp", 0.0, -9.0, 2.0),
    ("f_tm", 4.1, 3.7, 9.0), ("f_tm", 4.1, 3.108, 9.0), ("f_tm", 0.0, -9.0, 2.9),
]  # fmt: skip


@pytest.mark.parametrize(("name", "towards", "low", "high"), REGIONS)
def test_constants_are_those_of_a_dense_grid(name, towards, low, high):
    landscape, x = get(name), np.linspace(low, high, 2_000_002)[1:-1]
    x = x[abs(x - towards) > 1e-4]
    slope, curvature = landscape.derivative(1)(x), landscape.derivative(2)(x)
    mu, L = escape.one_point_convexity(landscape, towards, low, high), escape.smoothness(landscape, low, high)
    assert mu == pytest.approx((slope / (x - towards)).min(), rel=1e-3)
    assert pytest.approx(abs(curvature).max(), rel=1e-3) == L


def test_constants_of_the_paper():
    f_tm = get("f_tm")
    assert escape.smoothness(f_tm, -9, 2.9) == pytest.approx(2)
    assert escape.smoothness(f_tm, 3.7, 9) == pytest.approx(900)
    assert escape.one_point_convexity(f_tm, 4.1, 3.7, 9) == pytest.approx(900)
    assert escape.one_point_convexity(f_tm, 4.1, 3.108, 9) == pytest.approx(600 * 0.008 / 0.992)  # the paper has 4.5


def test_no_function_is_convex_towards_a_point_where_it_slopes(monkeypatch):
    """The proof of Proposition 3 says "towards 4" where the minimum is at 4.1."""
    monkeypatch.setattr(certificates, "MAX_BOXES", 2000)
    assert escape.one_point_convexity(get("f_tm"), 4.0, 3.108, 9) == -math.inf
    assert not escape.certify(get("f_tm"), 4.0, 3.108, 9, 1e-3, 901)["convex"].proved


def test_a_slope_that_jumps_is_not_smooth():
    assert escape.smoothness(get("returning"), -2, 2) == math.inf
    assert escape.smoothness(get("returning"), -0.9, 0.9) == pytest.approx(100)
    assert escape.jumps(get("returning"), 1)[1] == pytest.approx(-99)
    printed = Piecewise(  # appendix J's edge with 10⁴
        "printed", (), "", knots=(8.4, 8.40001), pieces=((0, (0, 0, 20)), (8.4, (1411.2, -1411.2e4)), (0, (0,)))
    )
    assert escape.jumps(printed, 0)[8.40001] == pytest.approx(-0.9 * 1411.2, rel=1e-6)


@pytest.mark.parametrize(("name", "towards", "low", "high"), REGIONS)
def test_constants_are_proved_and_larger_claims_are_not(name, towards, low, high, monkeypatch):
    landscape = get(name)
    mu, L = escape.one_point_convexity(landscape, towards, low, high), escape.smoothness(landscape, low, high)
    proofs = escape.certify(landscape, towards, low, high, mu - 1e-3 * abs(mu), 1.001 * L)
    assert proofs["smooth"].proved and proofs["convex"].proved
    monkeypatch.setattr(certificates, "MAX_BOXES", 2000)
    proofs = escape.certify(landscape, towards, low, high, mu + 0.05 * abs(mu), 0.95 * L)
    assert not proofs["smooth"].proved and not proofs["convex"].proved


def test_lemma_1_holds_only_near_the_largest_step_size():
    bowls = get("two_bowls_2d")
    assert math.isnan(escape.far_enough(bowls, 2 / bowls.sharp)) and math.isnan(escape.far_enough(bowls, 1.01))
    assert escape.far_enough(bowls, 1.0) == pytest.approx(bowls.distance / (2 * bowls.radius))
    factors = [escape.far_enough(bowls, gamma) for gamma in (0.5, 0.9, 0.95, 1.0)]
    assert factors == sorted(factors) and factors[0] < 1 < factors[2]


BALLS = (((0.0,), 2.9), ((4.1,), 0.4))


def diagram(**changes):
    given = {"step_sizes": [0.001, 0.01, 0.45], "sigmas": [0.0, 5.0, 300.0], "runs": 40, "iterations": 200, "seed": 3}
    return escape.PhaseDiagram(get("f_tm"), ((3.7, 4.5),), balls=BALLS, **(given | changes))


def test_a_cell_of_the_phase_diagram_is_the_mean_of_its_runs():
    rows = [row["step"] for row in carried(diagram())]
    assert [row["eta"] for row in rows] == [0.001, 0.01, 0.45]
    eta, seed = 0.45, (3 << 16) + 2
    theta = uniform_points(((3.7, 4.5),), 120, seed)
    starts = Starts(get("f_tm"), theta, eta, 200, noise="uniform", sigma=np.repeat([0.0, 5.0, 300.0], 40), seed=seed)
    path = [theta[:, 0]]
    for t in range(1, 201):
        one = Starts(get("f_tm"), theta, eta, t, noise="uniform", sigma=starts.sigma, seed=seed)
        carried(one)
        path.append(one.theta[:, 0])
    path = np.array(path)[:, 40:80]  # of the middle size of the noise
    near, sharp = abs(path) < 2.9, abs(path - 4.1) < 0.4
    row = rows[2]
    assert row["ends_inside"][1].tolist() == [near[-1].mean(), sharp[-1].mean()]
    np.testing.assert_allclose(row["inside"][1], [near.mean(), sharp.mean()])
    first_out = [np.argmax(~sharp[:, i]) if not sharp[:, i].all() else 200 for i in range(40)]
    assert row["first_stay"][1, 1] == pytest.approx(np.mean(first_out))
    assert row["stay"][1].tolist() == [near[101:].all(0).mean(), sharp[101:].all(0).mean()] and row["stay"][1, 0] > 0
    assert row["enter"][1].tolist() == [near.any(0).mean(), 1]
    assert row["never_leave"][1, 1] == np.mean([sharp[:, i].all() for i in range(40)])
    kept = [path_in.any() and path_in[np.argmax(path_in) :].all() for path_in in near.T]
    assert row["never_leave"][1, 0] == np.mean(kept)


def test_another_seed_starts_elsewhere():
    """PyTorch uses 32 bits of a seed."""
    first, second = (step_rows(diagram(seed=s, step_sizes=[0.0025], sigmas=[0.0]))[0] for s in (0, 1))
    assert first["inside"][0, 1] != second["inside"][0, 1]


def test_bisection_finds_where_a_bowl_is_left():
    bowls = get("two_bowls_1d")
    box, ball = ((9.97, 10.23),), ((bowls.centre,), bowls.radius)
    found = escape.smallest_escaping(bowls, box, ball, 0.01, 0.5, starts=100)
    assert 1 < found / (2 / bowls.sharp) < 1.002
    with pytest.raises(ValueError, match="some starts must stay at"):
        escape.smallest_escaping(bowls, box, ball, 0.03, 0.5, starts=100)


def test_small_steps_stay_and_large_ones_leave_the_sharp_minimum():
    small, _, large = (row["step"] for row in carried(diagram()))
    assert small["ends_inside"][0].tolist() == [0, 1] and large["ends_inside"][1].tolist() == [1, 0]


def test_the_phase_diagram_resumes():
    whole, resumed = diagram(), diagram()
    whole.step()
    resumed.load(whole.state())
    for ours, theirs in zip(carried(whole), carried(resumed), strict=True):
        for name, values in ours["step"].items():
            np.testing.assert_array_equal(values, theirs["step"][name])
    assert whole.gradients == resumed.gradients == 3 * 120 * 200 and torch.get_num_threads() >= 1
