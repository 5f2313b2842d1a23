"""The constructions of measure.certificates, and that their proofs hold when they should and fail when they should."""

import dataclasses
import math

import cells
import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from eoslib.measure.certificates import (
    certify,
    certify_directly,
    certify_lowest,
    certify_minimum,
    construct,
    largest_curvature,
    prove,
    single,
)
from eoslib.papers import basins
from eoslib.problems import landscapes

closed_curve, descent, openness_radius, share_kept, smallest_descent, _ = cells.functions(
    "forward_invariance", "closed_curve", "descent", "openness_radius", "share_kept", "smallest_descent", "way_into_u"
)

LARGEST = {"f1": 1, "f2": 1, "f3": 1 / 6, "f4": 10 / 19}  # step size, as the paper states it
FRACTIONS = [0.1, 0.5, 0.9, 0.99]


def construction(name, fraction=0.5, minimiser=0):
    landscape = landscapes.get(name)
    return construct(landscape, single(*landscape.minimisers[minimiser]), fraction * LARGEST[name])


def around_curve(name, fraction):
    largest, degree = {"circle": (2 / 8, 2), "rounded_square": (2 / 32, 4)}[name]
    landscape = landscapes.get(name)
    return construct(landscape, closed_curve(landscape, degree), fraction * largest)


def bowl(curvature_x=1.0, curvature_y=4.0):
    """½(ax² + by²), for which everything is known."""
    return dataclasses.replace(
        landscapes.get("f1"),
        name="bowl",
        value=lambda x, y: (curvature_x * x * x + curvature_y * y * y) / 2,
        gradient=lambda x, y: (curvature_x * x, curvature_y * y),
        hessian=lambda x, y: (curvature_x + 0 * x, 0 * x, curvature_y + 0 * y),
    )


# ------------------------------------------------------------------------------------------------- constructions


def test_construction_on_a_quadratic():
    """Curvature 4 everywhere: M is the middle of (4, 2/η), no radius is too large, and f* = ½ t′² on the flat side."""
    c = construct(bowl(), single(0, 0), 0.4)
    assert c.bound == pytest.approx(4.5)
    assert descent(c) == pytest.approx(1 - 0.4 * 4.5 / 2)
    assert 1.85 < c.outer < 2
    assert 0.9 * c.outer < c.radius < c.outer
    assert 0.9 * c.radius**2 / 2 < c.level < c.radius**2 / 2
    # (f(θ) − f(θ − αg)) / (α‖g‖²) = 1 − αλ/2 along an axis, smallest at α = η, λ = 4
    assert smallest_descent(c) == pytest.approx(1 - 0.4 * 4 / 2, rel=1e-2)


def test_largest_curvature_of_f1_on_a_ball():
    """On the x axis f_xx = 2 + 6x, on the y axis f_yy = 2 + 6y and f_xx = 2 + 2y; between them more."""
    g = largest_curvature(landscapes.get("f1"), single(0, 0), 0.1)
    hessian = landscapes.get("f1").hessian
    angles = np.linspace(0, 2 * math.pi, 10_000)
    brute = max(
        np.linalg.eigvalsh([[xx, xy], [xy, yy]])[1]
        for xx, xy, yy in zip(*hessian(0.1 * np.cos(angles), 0.1 * np.sin(angles)), strict=True)
    )
    assert g == pytest.approx(brute, rel=1e-3)
    assert g >= 2.6 - 1e-12


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_lemma_1_and_theorem_2_on_a_dense_sample(name, fraction):
    c = construction(name, fraction)
    assert descent(c) == pytest.approx((1 - fraction) / 2)
    assert largest_curvature(c.landscape, c.minima, c.outer) <= c.bound
    assert 0 < c.radius < c.outer
    assert smallest_descent(c) >= descent(c)
    assert share_kept(c) == 1


@pytest.mark.parametrize("name", LARGEST)
def test_too_large_a_step_size_is_an_error(name):
    for fraction in (1, 1.01, 0, -0.5):
        with pytest.raises(ValueError, match="step_size must be positive and less than"):
            construction(name, fraction)


@pytest.mark.parametrize(("name", "count"), [("f3", 4), ("f4", 2)])
def test_minimisers_that_mirror_each_other_have_mirrored_constructions(name, count):
    first, *others = (construction(name, 0.5, m) for m in range(count))
    for other in others:
        assert (first.bound, first.outer, first.radius) == pytest.approx((other.bound, other.outer, other.radius))
        assert first.level == pytest.approx(other.level, rel=1e-6)
        assert all(proof.proved for proof in (certify(other) | certify_directly(other)).values())


@pytest.mark.parametrize("name", ["f1", "f4"])
def test_every_start_in_u_is_stable(name):
    c = construction(name)
    x, y = np.meshgrid(*(centre + np.linspace(-c.radius, c.radius, 64) for centre in c.minima.centre))
    inside = c.contains(x, y)
    found = basins.classify(c.landscape, c.step_size, x[inside], y[inside])
    assert inside.sum() > 100
    assert (found.outcome == basins.Outcome.STABLE).all()
    assert (found.minimiser == 0).all()


@pytest.mark.parametrize(("name", "degree"), [("circle", 2), ("rounded_square", 4)])
@given(r=st.floats(-0.9, 0.9), angle=st.floats(0, 2 * math.pi))
def test_points_around_a_curve_have_the_distance_asked_for(name, degree, r, angle):
    minima = closed_curve(landscapes.get(name), degree)
    x, y = minima.at(r, angle)
    assert minima.gap(x, y) == pytest.approx(r * r, abs=1e-12)
    assert max(abs(x), abs(y)) <= minima.size + abs(r) + 1e-12


# ------------------------------------------------------------------------------------------------- proofs


def box(*sides):
    return tuple(arb((low + high) / 2, (high - low) / 2) for low, high in sides)


@settings(deadline=None, max_examples=50)
@given(x=st.floats(-1, 1), y=st.floats(-2, 0.5), width=st.floats(0.05, 1))
def test_the_boxes_leave_no_point_out(x, y, width):
    """Every point of the start lies in one of the boxes on which the statement was proved."""
    leaves = []

    def margins(u, v):
        small = u.rad() < width and v.rad() < width
        if small:
            leaves.append((u, v))
        return [arb(1 if small else 0)]

    assert prove(box((-1, 1), (-2, 0.5)), lambda u, v: arb(1), margins).proved
    assert any(u.contains(x) and v.contains(y) for u, v in leaves)


def test_a_tight_inequality_is_proved_and_a_false_one_refuted():
    """x² + y² ≤ 1 on the disc of radius r, for r just below and just above 1."""
    for radius, proved in ((0.99, True), (1.01, False)):
        proof = prove(
            box((-2, 2), (-2, 2)),
            lambda x, y, radius=radius: radius * radius - x * x - y * y,
            lambda x, y: [1 - x * x - y * y],
        )
        assert proof.proved is proved
        assert proof.refuted is not proved
        if not proved:
            assert 1 < math.hypot(*(sum(side) / 2 for side in proof.obstacle)) < 1.01


def test_what_cannot_be_decided_is_neither_proved_nor_refuted():
    """x² > 0 fails at the origin only: the boxes shrink to it until the proof gives up."""
    proof = prove(box((-1, 1.5)), lambda x: arb(1), lambda x: [x * x])
    assert not proof.proved
    assert not proof.refuted
    assert proof.obstacle[0][0] <= 0 <= proof.obstacle[0][1]


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_certificates(name, fraction):
    c = construction(name, fraction)
    proofs = certify(c) | certify_directly(c)
    assert {statement for statement, proof in proofs.items() if not proof.proved} == set()
    assert all(proof.obstacle is None and 0 < proof.boxes < 20_000 for proof in proofs.values())


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_bound_below_the_true_curvature_is_refuted(name, fraction):
    c = construction(name, fraction)
    true = largest_curvature(c.landscape, c.minima, c.outer)
    above = min(1.02 * true, 0.999 * 2 / c.step_size)
    assert certify(dataclasses.replace(c, bound=above))["curvature"].proved
    assert certify(dataclasses.replace(c, bound=0.98 * true))["curvature"].refuted


@pytest.mark.parametrize("name", LARGEST)
def test_too_large_a_step_size_is_refuted(name):
    c = construction(name)
    too_large = dataclasses.replace(c, step_size=1.01 * LARGEST[name])
    assert certify(too_large)["curvature"].refuted  # ηM > 2
    assert not certify_directly(too_large)["core"].proved


@pytest.mark.parametrize("name", LARGEST)
def test_too_small_an_outer_ball_is_noticed(name):
    c = construction(name)
    assert not certify(dataclasses.replace(c, outer=0.99 * c.radius))["step"].proved


@pytest.mark.parametrize("name", LARGEST)
def test_a_level_above_the_least_value_on_the_sphere_is_noticed(name):
    c = construction(name)
    lowest = c.landscape.value(*c.minima.centre)
    for factor, proved in ((1, True), (1.1, False)):
        higher = dataclasses.replace(c, level=lowest + factor * (c.level - lowest))
        assert certify(higher)["level"].proved is proved


# (half-width, level above the minimum) of sets that gradient descent leaves
@pytest.mark.parametrize(("name", "radius", "height"), [("f1", 1, 1), ("f2", 1.2, 2), ("f3", 0.9, 3), ("f4", 1.5, 3)])
def test_a_set_that_is_left_is_refuted_directly(name, radius, height):
    c = construction(name, 0.9)
    larger = dataclasses.replace(c, radius=radius, level=c.landscape.value(*c.minima.centre) + height)
    assert share_kept(larger) < 1
    image = certify_directly(larger)["image"]
    assert image.refuted
    x, y = (np.array(sum(side) / 2) for side in image.obstacle)
    gx, gy = c.landscape.gradient(x, y)
    assert larger.contains(x, y)
    assert not larger.contains(x - c.step_size * gx, y - c.step_size * gy)


def test_another_stationary_point_is_noticed():
    """f₁ has a saddle at distance 0.57 from its minimum."""
    c = dataclasses.replace(construction("f1", 0.1), outer=0.58)
    assert not certify_directly(c)["alone"].proved


@pytest.mark.parametrize("name", ["circle", "rounded_square"])
def test_a_curve_of_minimisers(name):
    c = around_curve(name, 0.25)
    assert smallest_descent(c) >= descent(c)
    assert share_kept(c) == 1
    assert all(proof.proved for proof in certify(c).values())
    too_low = dataclasses.replace(c, bound=0.98 * largest_curvature(c.landscape, c.minima, c.outer))
    assert not certify(too_low)["curvature"].proved
    with pytest.raises(ValueError, match="step_size must be positive and less than"):
        around_curve(name, 1.01)


# ------------------------------------------------------------------------------------------------- minimisers


@pytest.mark.parametrize(("name", "sharpness"), [("f1", 2), ("f2", 2), ("f3", 12), ("f4", 3.8)])
def test_the_stated_minimisers_are_proved(name, sharpness):
    f = landscapes.get(name)
    for x, y in f.minimisers:
        assert certify_minimum(f, x, y, sharpness).proved
        assert not certify_minimum(f, x, y, sharpness + 1e-5).proved
        assert not certify_minimum(f, x + 1e-6, y, sharpness).proved


def test_a_saddle_and_a_flat_point_are_no_strict_minima():
    assert not certify_minimum(landscapes.get("f4"), 0.0, 0.0, 2.1).proved
    assert not certify_minimum(landscapes.get("f3"), 2.0, 0.0, 8.0).proved  # f is 1 all along the axis


def test_the_lowest_points_of_a_square():
    assert all(certify_lowest(landscapes.get(name), 2.5).proved for name in ("f2", "f3", "f4"))
    lower = certify_lowest(landscapes.get("f1"), 2.5)  # f₁ has no lower bound
    assert lower.refuted
    x, y = (sum(side) / 2 for side in lower.obstacle)
    assert landscapes.get("f1").value(x, y) < 0
    missed = dataclasses.replace(landscapes.get("f3"), minimisers=landscapes.get("f3").minimisers[:3])
    assert not certify_lowest(missed, 2.5).proved


def test_with_too_large_a_step_nothing_contracts():
    """At 1.1 · 2/λ_max the minimiser itself repels; the other facts may still be proved."""
    c = construction("f1")
    assert not certify_directly(dataclasses.replace(c, step_size=1.1))["core"].proved


# ------------------------------------------------------------------------------------------------- Theorem 3


def test_radius_by_the_proof_on_a_quadratic():
    """For ½(x² + 4y²) curvature is 4, and on unit discs around the iterates ‖∇f‖ is at most √(16 + …)."""
    eta, c = 0.4, construct(bowl(), single(0, 0), 0.4)
    start = (4.0, 0.0)  # x shrinks by 0.6 a step; U's boundary on the x axis is at √(2 f*)
    edge = math.sqrt(2 * c.level)
    steps = math.ceil(math.log(edge / 4) / math.log(0.6))
    path = 4 * 0.6 ** np.arange(steps + 1)
    K, log_radius = openness_radius(c, *start, stable=True)
    assert steps == K
    drop = (path[-2] ** 2 - path[-1] ** 2) / 2
    # max of (4 + cos φ)² + 16 sin² φ over φ: at cos φ = 4/15
    steepest = math.sqrt((4 + 4 / 15) ** 2 + 16 * (1 - (4 / 15) ** 2))
    inner = edge - path[-1]  # to the tip of the ellipse; the sides are farther or nearer
    expected = min(1, drop / (2 * steepest))
    assert 10**log_radius * (1 + eta * 4) ** K <= expected * 1.001
    assert 10**log_radius * (1 + eta * 4) ** K >= 0.98 * min(expected, inner, math.sqrt(c.level / 2) - path[-1])


def test_in_u_the_radius_is_the_distance_to_its_boundary():
    c = construct(bowl(1, 1), single(0, 0), 0.4)  # U is a disc
    edge = min(c.radius, math.sqrt(2 * c.level))
    for x in (0.0, 0.5):
        K, log_radius = openness_radius(c, x, 0.0, stable=True)
        assert K == 0
        assert 10**log_radius == pytest.approx(min(1, edge - x), rel=0.02)


@pytest.mark.parametrize("name", ["f1", "f4"])
def test_the_ball_of_theorem_3_is_stable(name):
    c = construction(name, 0.9)
    x, y = (centre + 2 * c.radius for centre in c.minima.centre)
    start = basins.classify(c.landscape, c.step_size, np.array([x]), np.array([y]))
    assert start.outcome[0] == basins.Outcome.STABLE
    K, log_radius = openness_radius(c, x, y, stable=True)
    assert K > 0
    assert log_radius <= openness_radius(c, x, y, stable=False)[1]
    angle = np.linspace(0, 2 * math.pi, 64)
    ring = basins.classify(
        c.landscape, c.step_size, x + 10**log_radius * np.cos(angle), y + 10**log_radius * np.sin(angle)
    )
    assert (ring.outcome == basins.Outcome.STABLE).all()


def test_a_start_that_never_reaches_u_is_an_error():
    c = construction("f4")
    with pytest.raises(ValueError, match="does not reach U"):
        openness_radius(c, 0.0, 0.0, stable=True)  # the saddle
