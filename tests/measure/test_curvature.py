"""eoslib.measure.curvature against dense eigensolvers, and what a tracker must not miss."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import hessian

from eoslib.measure.curvature import (
    MAX_BASIS,
    Cycle,
    PreconditionedSharpness,
    SegmentSharpness,
    Sharpness,
    SharpnessTracker,
    Subspace,
    _Space,
    top_eigenpairs,
)
from eoslib.problems import networks
from eoslib.problems.objective import Objective, SupervisedObjective


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(eigenvalues, seed=0):
    """A dense symmetric matrix with these eigenvalues, and its eigenvectors as rows."""
    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    q = torch.linalg.qr(random(len(eigenvalues), len(eigenvalues), seed=seed)).Q
    return q @ torch.diag(eigenvalues) @ q.T, q.T


class Counted:
    """v ↦ Av, counting."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0

    def __call__(self, v):
        self.products += 1
        return self.matrix @ v


def check(matrix, spectrum, k, tolerance):
    """The pairs are the k largest, the residuals true, the vectors orthonormal."""
    expected = np.linalg.eigvalsh(matrix.numpy())[::-1][:k]
    scale = abs(expected[0])
    # |λ − λ̂| ≤ ‖residual‖ for symmetric matrices
    np.testing.assert_allclose(spectrum.values.numpy(), expected, rtol=0, atol=tolerance * scale + 1e-12)
    true = torch.stack([(matrix @ u - x * u).norm() for u, x in zip(spectrum.vectors, spectrum.values, strict=True)])
    torch.testing.assert_close(spectrum.residuals, true, rtol=1e-6, atol=1e-11 * max(scale, 1))
    assert (true <= tolerance * scale + 1e-11).all()
    gram = spectrum.vectors @ spectrum.vectors.T
    torch.testing.assert_close(gram, torch.eye(k, dtype=gram.dtype), rtol=0, atol=1e-9)
    assert spectrum.values.tolist() == sorted(spectrum.values.tolist(), reverse=True)
    assert spectrum.converged


# --- one search ------------------------------------------------------------------------------------------


@given(p=st.integers(5, 60), k=st.integers(1, 4), seed=st.integers(0, 2**31), shift=st.floats(-1, 1))
def test_indefinite_matrices(p, k, seed, shift):
    """Largest algebraically, not in size: the most negative eigenvalue may be the larger one."""
    a = random(p, p, seed=seed)
    matrix = (a + a.T) / 2 + shift * torch.eye(p, dtype=a.dtype)
    operator = Counted(matrix)
    spectrum = top_eigenpairs(operator, random(1, p, seed=seed + 1), k, tolerance=1e-8)
    check(matrix, spectrum, k, 1e-8)
    assert spectrum.products == operator.products


def test_the_most_negative_eigenvalue_is_not_taken_for_the_sharpness():
    matrix, _ = symmetric([-100, -50, 0, 1, 2, 3])
    assert top_eigenpairs(Counted(matrix), random(1, 6), tolerance=1e-9).values[0] == pytest.approx(3)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("gap", [0, 1e-9, 1e-4])
def test_a_nearly_degenerate_pair_on_top(gap, k):
    matrix, _ = symmetric([*np.linspace(-5, 5, 96), 10 - gap, 10, 9, 8])
    # k start vectors: a Krylov space of one holds one vector of each eigenspace
    check(matrix, top_eigenpairs(Counted(matrix), random(k, 100), k, tolerance=1e-6, max_products=1000), k, 1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_rank_deficient(k):
    """Most eigenvalues are 0 exactly, so that Krylov spaces close early."""
    matrix, _ = symmetric([0] * 37 + [1, 2, 5])
    check(matrix, top_eigenpairs(Counted(matrix), random(1, 40), k, tolerance=1e-9), k, 1e-9)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_all_eigenpairs(p):
    matrix, _ = symmetric(range(-1, p - 1))
    check(matrix, top_eigenpairs(Counted(matrix), random(1, p), k=p, tolerance=1e-12), p, 1e-10)


def test_the_zero_operator_has_sharpness_zero():
    spectrum = top_eigenpairs(Counted(torch.zeros(6, 6, dtype=torch.float64)), random(1, 6), k=2)
    assert spectrum.values.tolist() == [0, 0] and spectrum.converged


def test_restarts_do_not_lose_accuracy():
    """More products than the basis holds, on a spectrum without gaps."""
    matrix, _ = symmetric(np.linspace(-1, 1, 400))
    spectrum = top_eigenpairs(Counted(matrix), random(1, 400), tolerance=1e-7, max_products=2000)
    assert spectrum.products > 2 * MAX_BASIS
    check(matrix, spectrum, 1, 1e-7)


def test_a_basis_in_float32_stays_orthogonal_when_little_is_new():
    """Subtracting once leaves 1e-7 of the whole, which is much of a thousandth."""
    space = _Space(torch.linalg.qr(random(2000, 30)).Q.T.float())
    rows = space.rows[:30].clone()
    coordinates = space.extend(rows.sum(0) + 1e-3 * random(2000, seed=1).float() / 2000**0.5)
    q = space.rows[30]
    assert (rows @ q).abs().max() < 1e-6 and q.norm().item() == pytest.approx(1, abs=1e-6)
    assert coordinates == pytest.approx([1] * 30 + [1e-3], rel=0.05)
    assert len(space.extend(rows.sum(0))) == space.size == 31


def test_a_search_takes_over_the_memory_of_the_last_one_but_no_result_lies_there():
    matrix, _ = symmetric(np.linspace(-1, 1, 50) ** 3)
    first = top_eigenpairs(Counted(matrix), random(1, 50), k=2)
    room, vectors, inner = _Space.room.data_ptr(), first.vectors.clone(), []

    def searching(v):
        inner.append(top_eigenpairs(Counted(-matrix), random(1, 50)))  # while the memory is in use
        return matrix @ v

    second = top_eigenpairs(searching, random(1, 50), k=2)
    assert torch.equal(first.vectors, vectors) and torch.equal(second.vectors, vectors)
    assert _Space.room.data_ptr() == room
    assert all(found.values[0] == inner[0].values[0] for found in inner)
    narrower = top_eigenpairs(Counted(matrix[:40, :40]), random(1, 40))
    assert narrower.converged and _Space.room.data_ptr() != room


@pytest.mark.parametrize("seed", range(3))
def test_a_long_search_in_float32_finds_no_eigenvalue_that_is_not_there(seed):
    """A third of each image is new, so one subtraction seems enough; but what it leaves grows from row to row."""
    matrix, _ = symmetric(np.linspace(0.5, 1, 1000))
    spectrum = top_eigenpairs(Counted(matrix.float()), random(1, 1000, seed=seed).float(), tolerance=1e-3)
    assert spectrum.converged and spectrum.products > MAX_BASIS
    assert spectrum.values.item() == pytest.approx(1, abs=1e-3)
    gram = spectrum.basis.double() @ spectrum.basis.double().T
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=1e-4)


def test_a_search_goes_on_with_the_rows_that_wait_where_its_residual_lies_in_none():
    """As a product that errs leaves it: e₁ and e₂ are closed under this one, which is not symmetric there."""
    matrix = torch.diag(torch.tensor([2.0, 1, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64))
    matrix[0, 1] = 1e-3
    matrix[[2, 4, 3, 5], [4, 2, 5, 3]] = 0.1  # whence two rows that wait
    spectrum = top_eigenpairs(Counted(matrix), torch.eye(7, dtype=torch.float64)[:4], tolerance=1e-6)
    assert spectrum.values[0].item() == pytest.approx(2, rel=1e-3)
    assert spectrum.vectors[0, 0].abs().item() == pytest.approx(1, abs=1e-3)


def test_a_search_cut_short_says_so():
    matrix, _ = symmetric(np.linspace(-1, 1, 400))
    operator = Counted(matrix)
    spectrum = top_eigenpairs(operator, random(1, 400), tolerance=1e-12, max_products=15)
    assert not spectrum.converged
    assert spectrum.products == operator.products == 15
    true = (matrix @ spectrum.vectors[0] - spectrum.values[0] * spectrum.vectors[0]).norm()
    torch.testing.assert_close(spectrum.residuals[0], true)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_warm_start_from_the_answer_costs_one_product_a_vector(k):
    matrix, _ = symmetric(np.linspace(-3, 7, 80) ** 3)
    cold = top_eigenpairs(Counted(matrix), random(1, 80), k, tolerance=1e-9)
    for start, eager, products in [(cold.vectors, None, k), (cold.basis, None, k + 1), (cold.basis, k, k)]:
        operator = Counted(matrix)
        warm = top_eigenpairs(operator, start, k, tolerance=1e-8, eager=eager)
        assert operator.products == warm.products == products < cold.products
        check(matrix, warm, k, 1e-8)


def test_start_vectors_held_back_are_used_when_the_eager_ones_do_not_suffice():
    matrix, vectors = symmetric([0, 1, 2, 3, 4, 10])
    operator = Counted(matrix)
    start = torch.stack([vectors[0] + vectors[5] / 9, vectors[5]])
    check(matrix, top_eigenpairs(operator, start, eager=1, tolerance=1e-9), 1, 1e-9)
    assert operator.products == 2


def test_dependent_start_vectors_cost_nothing():
    matrix, _ = symmetric([1, 2, 3, 4, 5])
    operator, v = Counted(matrix), random(5)
    spectrum = top_eigenpairs(operator, torch.stack([v, 2 * v, torch.zeros_like(v)]), tolerance=1e-10)
    check(matrix, spectrum, 1, 1e-10)
    assert operator.products <= 5


@pytest.mark.parametrize("k", [0, 6])
def test_an_impossible_number_of_pairs_is_refused(k):
    with pytest.raises(ValueError, match=f"k = {k} .* size 5"):
        top_eigenpairs(Counted(torch.eye(5)), torch.randn(1, 5), k)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("k", [1, 3])
def test_an_operator_that_is_not_finite_gives_nan(bad, k):
    spectrum = top_eigenpairs(lambda v: v * bad, random(1, 6), k)
    assert spectrum.values.isnan().all() and spectrum.values.shape == (k,)
    assert spectrum.residuals.isnan().all()
    assert not spectrum.converged


# --- on a network ----------------------------------------------------------------------------------------


def network_problem(dtype=torch.float64):
    network = networks.mlp(6, (8,), 4, "tanh", seed=0).to(dtype)
    inputs, labels = random(30, 6).to(dtype), torch.arange(30) % 4
    return SupervisedObjective(network, inputs, labels, "cross-entropy"), networks.flatten(network)


@pytest.mark.parametrize("k", [1, 3])
def test_scipy_agrees_on_the_hessian_of_a_network(k):
    objective, theta = network_problem()
    point = objective.expand(theta)
    spectrum = top_eigenpairs(point.hvp, random(1, len(theta)), k, tolerance=1e-8)
    operator = scipy.sparse.linalg.LinearOperator(
        (len(theta), len(theta)), matvec=lambda v: point.hvp(torch.from_numpy(v.ravel())).numpy(), dtype=np.float64
    )
    expected = scipy.sparse.linalg.eigsh(operator, k=k, which="LA", tol=1e-10)[0][::-1]
    np.testing.assert_allclose(spectrum.values.numpy(), expected, rtol=1e-6)


def test_float32_is_good_enough_for_a_plot():
    objective, theta = network_problem(torch.float32)
    spectrum = top_eigenpairs(objective.expand(theta).hvp, random(1, len(theta)).float())
    exact, at = network_problem()
    dense = hessian(lambda t: exact.forward(t)[0])(at)
    assert spectrum.values[0].item() == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-3)


# --- the tracker -----------------------------------------------------------------------------------------


def orthogonal_tracker(**options):
    """A tracker after one measurement, whose vectors are orthogonal to a direction that is about to rise."""
    tracker = SharpnessTracker(audit_every=5, **options)
    e = torch.eye(10, dtype=torch.float64)
    tracker.past, tracker.spares = [e[:1], e[:1]], [e[1:2], e[1:2]]
    tracker.measurements = 1
    return tracker


def test_a_tracker_finds_at_the_next_audit_what_its_warm_start_cannot_see():
    """The spaces of a diagonal matrix that start at e₁, e₂ never leave them; λ = 9 belongs to e₈."""
    diagonal = torch.tensor([5.0, 4, 0, 0, 0, 0, 0, 9, 0, 0], dtype=torch.float64)
    tracker, like = orthogonal_tracker(), torch.zeros(10, dtype=torch.float64)
    seen = [tracker.track(lambda v: diagonal * v, like).values[0].item() for _ in range(5)]
    assert seen[:4] == pytest.approx([5] * 4)  # the trap
    assert seen[4] == pytest.approx(9, rel=3e-3)  # the audit, at measurement 5
    assert tracker.missed == 1
    for _ in range(4):  # and does not forget it
        assert tracker.track(lambda v: diagonal * v, like).values[0].item() == pytest.approx(9, rel=3e-3)
    assert tracker.missed == 1


def test_an_audit_that_finds_nothing_new_misses_nothing_and_is_paid_for():
    matrix, _ = symmetric(np.linspace(-1, 5, 30) ** 3)
    operator, like = Counted(matrix), torch.zeros(30, dtype=torch.float64)
    tracker = SharpnessTracker(audit_every=2)
    spent = [tracker.track(operator, like).products for _ in range(5)]
    assert sum(spent) == operator.products  # the cold searches too
    assert tracker.missed == 0
    assert max(spent[1], spent[3]) <= 2 < min(spent[0], spent[2], spent[4])


def test_a_tracker_follows_a_turning_matrix():
    a, b = symmetric(np.linspace(-1, 3, 40), seed=1)[0], symmetric(np.linspace(-1, 3, 40), seed=2)[0]
    tracker, like = SharpnessTracker(k=2, tolerance=1e-6, audit_every=1000), torch.zeros(40, dtype=torch.float64)
    for t in torch.linspace(0, 1, 30):
        matrix = (1 - t) * a + t * b
        check(matrix, tracker.track(Counted(matrix), like), 2, 1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_what_a_tracker_reports(k):
    objective, theta = network_problem()
    point = objective.expand(theta)
    values, vectors = torch.linalg.eigh(hessian(lambda t: objective.forward(t)[0])(theta))
    step_size = 2 / values[-2:].mean().item()  # the second eigenvalue is stable, the first is not
    row = SharpnessTracker(k=k, tolerance=1e-8).measure(point, step_size)
    assert row["sharpness"] == pytest.approx(values[-1].item(), rel=1e-7)
    assert row["sharpness_residual"] <= 1e-8
    alignment = abs(vectors[:, -1] @ point.gradient) / point.gradient.norm()
    assert row["alignment"] == pytest.approx(alignment.item(), rel=1e-5)
    assert row["products"] == objective.products
    assert ("eigenvalues" in row) == ("unstable_alignment" in row) == (k > 1)
    if k > 1:
        assert row["unstable_alignment"] == pytest.approx(alignment.item(), rel=1e-5)
        both = SharpnessTracker(k=k, tolerance=1e-8).measure(point, 2 / values[-2].item() * 1.0001)
        share = (vectors[:, -2:].T @ point.gradient).norm() / point.gradient.norm()
        assert both["unstable_alignment"] == pytest.approx(share.item(), rel=1e-5)
        assert row["eigenvalues"] == pytest.approx(values.flip(0)[:k].tolist(), rel=1e-7)


@pytest.mark.parametrize("kind", [Sharpness, PreconditionedSharpness])
def test_a_declaration_begins_a_tracker_of_its_own_with_its_settings(kind):
    objective, theta = network_problem()
    first, second = (kind(eigenvalues=2, tolerance=1e-8).begin(None, theta) for _ in range(2))
    row = first.measure(objective.expand(theta), 0.1)
    assert first.past and not second.past
    assert (first.k, first.tolerance) == (2, 1e-8)
    assert row.keys() == kind.variables.keys()
    name = next(iter(kind.variables))
    dense = hessian(lambda t: objective.forward(t)[0])(theta)
    assert row[name] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-7)


def test_a_restored_tracker_measures_the_same_bits():
    matrix, _ = symmetric(np.linspace(-1, 5, 30) ** 3)
    like = torch.zeros(30, dtype=torch.float64)
    ours = SharpnessTracker(k=2, audit_every=3)
    for _ in range(2):
        ours.track(Counted(matrix), like)
    restored = SharpnessTracker(k=2, audit_every=3)
    restored.load(ours.state())
    for shift in (0.1, 0.2, 0.3):  # the second is an audit, the third takes the spare
        moved = matrix + shift * torch.diag(torch.arange(30, dtype=torch.float64))
        a, b = ours.track(Counted(moved), like), restored.track(Counted(moved), like)
        assert torch.equal(a.values, b.values) and torch.equal(a.vectors, b.vectors) and a.products == b.products
    assert (ours.measurements, ours.missed) == (restored.measurements, restored.missed)


def test_a_fresh_tracker_has_a_state_that_can_be_loaded():
    matrix, like = symmetric([1, 2, 3])[0], torch.zeros(3, dtype=torch.float64)
    tracker = SharpnessTracker()
    tracker.load(SharpnessTracker().state())
    assert tracker.track(Counted(matrix), like).values[0].item() == pytest.approx(3)


def test_a_tracker_survives_a_point_where_the_hessian_is_not_finite():
    matrix, _ = symmetric(np.linspace(-1, 5, 30))
    tracker, like = SharpnessTracker(audit_every=2), torch.zeros(30, dtype=torch.float64)
    tracker.track(Counted(matrix), like)
    for _ in range(2):
        assert tracker.track(lambda v: v * float("nan"), like).values.isnan().all()
    assert tracker.track(Counted(matrix), like).values[0].item() == pytest.approx(5, rel=3e-3)


def test_the_sharpness_along_a_step_against_dense_matrices():
    def f(theta):
        return torch.tanh(20 * theta[0] ** 2 + theta[1] ** 2)

    objective, step_size, theta = Objective(f), 2 / 39, torch.tensor([0.08, 0.3], dtype=torch.float64)
    segment = SegmentSharpness(points=4).begin(None, theta)
    segment.trackers = [SharpnessTracker(tolerance=1e-10) for _ in range(4)]
    point = objective.expand(theta)
    measured = segment.measure(point, step_size)["segment_sharpness"]
    along = [theta - tau * step_size * point.gradient for tau in (0, 1 / 3, 2 / 3, 1)]
    expected = [torch.linalg.eigvalsh(hessian(f)(there))[-1].item() for there in along]
    assert measured == pytest.approx(expected, rel=1e-6)
    restored = SegmentSharpness(points=4).begin(None, theta)
    restored.load(segment.state())
    for ours, theirs in zip(segment.trackers, restored.trackers, strict=True):
        assert ours.past and all(torch.equal(a, b) for a, b in zip(ours.past, theirs.past, strict=True))


@pytest.mark.parametrize("p", [1, 2])
def test_a_tracker_never_asks_for_more_directions_than_there_are(p):
    matrix, _ = symmetric(range(1, p + 1))
    tracker = SharpnessTracker(k=p)
    for _ in range(9):  # the spare is due at the fourth and the eighth
        assert tracker.track(Counted(matrix), random(p)).values[0].item() == pytest.approx(p)


# --- what is wanted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2])
def test_a_value_is_found_to_its_tolerance_with_fewer_products_than_a_vector(k):
    matrix, _ = symmetric([*np.linspace(-1, 4, 60), 4.6, 5])
    spent = {}
    for wanted in ("values", "vectors"):
        operator = Counted(matrix)
        spectrum = top_eigenpairs(operator, random(1, 62), k, 1e-3, wanted=wanted, beyond=0.9)
        errors = (spectrum.values - torch.tensor([5.0, 4.6])[:k]).abs()
        assert spectrum.converged and errors.max() <= 1e-3 * 5
        spent[wanted] = operator.products
    assert spent["values"] < spent["vectors"]


@pytest.mark.parametrize(("outside", "products"), [(0.1, 1), (0.999, 2)])
def test_what_a_residual_has_outside_of_a_subspace_meets_other_eigenvalues(outside, products):
    """Two close eigenvalues inside, small ones outside, weakly coupled: the value found inside errs by b²/(λ − c)."""
    matrix = torch.diag(torch.tensor([1.0, 0.99, *np.linspace(0, 0.1, 8)], dtype=torch.float64))
    matrix[0, 5] = matrix[5, 0] = 0.02
    counted, start = Counted(matrix), torch.eye(10, dtype=torch.float64)[:1]
    within = torch.zeros(1, dtype=torch.float64)
    found = top_eigenpairs(
        counted, start, 1, 1e-3, wanted="values", beyond=0.99, within=within, outside=outside
    )  # fmt: skip
    assert counted.products == products and found.converged
    assert found.values[0].item() == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=1e-3)


def test_where_no_gap_is_known_a_residual_decides():
    """From one direction nothing is known of the others: (e₁ + e₂)/√2 has Rayleigh quotient 4.5 and residual ½."""
    diagonal = torch.tensor([5.0, 4, 0, 0], dtype=torch.float64)
    start = torch.tensor([[1.0, 1, 0, 0]], dtype=torch.float64)
    blind = top_eigenpairs(lambda v: diagonal * v, start, tolerance=0.1, wanted="values")
    assert blind.products == 2 and blind.values[0].item() == pytest.approx(5)
    told = top_eigenpairs(lambda v: diagonal * v, start, tolerance=0.1, wanted="values", beyond=0.0)
    assert told.products == 1 and told.values[0].item() == pytest.approx(4.5)  # it was told of a gap that is not there


@pytest.mark.parametrize("share", [1e-4, 0.3])
def test_rough_products_do_for_what_is_added_to_the_start(share):
    """Products that err by 1e-6, as in single precision: the residual is true far below that, for the start is
    multiplied exactly, and what was added only if it became a large part."""
    matrix, vectors = symmetric([*np.linspace(-1, 3, 78), 4.0, 5])
    noise = 1e-6 * symmetric(np.linspace(-5, 5, 80), seed=1)[0]
    exact, rough = Counted(matrix), Counted(matrix + noise)
    start = (vectors[-1] + share * random(80) / 80**0.5)[None]
    spectrum = top_eigenpairs(exact, start, tolerance=1e-6, rough=rough)
    check(matrix, spectrum, 1, 2e-6 if share > 0.1 else 1e-6)
    assert spectrum.products == exact.products + rough.products
    assert rough.products > 0 and exact.products == (1 if share < 0.1 else 2)


def test_a_product_that_is_no_rougher_is_not_made_twice():
    objective, theta = network_problem()
    point, start = objective.expand(theta), random(1, len(theta))
    spent = [top_eigenpairs(point.hvp, start, tolerance=1e-6, rough=rough).products for rough in (None, point.rough)]
    assert spent[0] == spent[1] > 3


def test_a_search_in_single_precision_comes_to_small_residuals():
    """Where p is large, sums in single precision err by more than 1e-6."""
    diagonal = torch.linspace(0, 1, 100_000, dtype=torch.float64) ** 3
    diagonal[[7, 70_000]] = torch.tensor([3.0, 2.5], dtype=torch.float64)
    single = diagonal.float()
    spectrum = top_eigenpairs(lambda v: single * v, random(1, 100_000).float(), tolerance=1e-6)
    u = spectrum.vectors[0].double()
    assert spectrum.converged and spectrum.products < 15
    assert ((diagonal * u - 3 * u).norm() / u.norm()).item() <= 4e-6


# --- where a tracker begins ------------------------------------------------------------------------------


def test_a_cycle_begins_at_the_same_place():
    past = [torch.full((1, 3), float(x)) for x in (1, 10, 2, 12, 4)]
    assert Cycle(1).start(past)[0, 0] == 4
    assert Cycle(2).start(past)[0, 0] == 12
    assert Cycle(2).start(past[:1])[0, 0] == 1
    # the steps at this place were 10 − 1 and 12 − 2: the next is 11
    assert Cycle(2, continued=True).start(past)[0, 0] == 4 + 11
    assert Cycle(2, continued=True).start(past[1:])[0, 0] == 4


def test_a_point_again_takes_the_place_of_the_last_one():
    """Two places of each step, one of them now and then in two points: the cycle stays in step."""
    base, turn, offset = (symmetric(np.linspace(-5, 5, 40), seed=i)[0] for i in range(3))

    def spent(known):
        tracker = SharpnessTracker(1, 1e-6, cycle=Cycle(2, continued=True), audit_every=None)
        products, again = [], []
        for step in range(30):
            first = base + 0.002 * step * turn
            for matrix in (first, first + 0.1 * offset):
                products.append(tracker.track(Counted(matrix), random(40)).products)
            if step % 3 == 2:
                matrix = Counted(first + 0.1001 * offset)
                again.append(tracker.track(matrix, random(40), again=known).products)
        assert len(tracker.past) == len(tracker.spares) == 5
        return np.mean(products[10:]), np.mean(again)

    told, untold = spent(True), spent(False)
    assert told[0] < 0.8 * untold[0] and told[1] < untold[1]


def crossing(t, exchange):
    """Two eigenvalues that exchange their places on the way from t = 0 to 1, `exchange` between two measurements."""
    _, vectors = symmetric(range(30))
    s = min(max((t - 0.5) / exchange + 0.5, 0), 1)
    values = torch.tensor([*np.linspace(0, 4, 28), 6 - s, 5 + s], dtype=torch.float64)
    turn = torch.linalg.matrix_exp(0.1 * t * (random(30, 30) - random(30, 30).T))
    return turn @ (vectors.T @ torch.diag(values) @ vectors) @ turn.T


@pytest.mark.parametrize("exchange", [0.5, 1e-6])
@pytest.mark.parametrize("cycle", [Cycle(1), Cycle(2), Cycle(1, continued=True)])
@pytest.mark.parametrize("wanted", ["values", "vectors"])
def test_two_eigenvalues_change_places_unseen_between_measurements(wanted, cycle, exchange):
    tolerance = 1e-3 if wanted == "values" else 1e-6
    tracker = SharpnessTracker(tolerance=tolerance, wanted=wanted, cycle=cycle, audit_every=None)
    for i in range(25):
        matrix = crossing(i / 24, exchange)
        found = tracker.track(Counted(matrix), torch.zeros(30, dtype=torch.float64)).values[0].item()
        assert found == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=tolerance), i


def test_a_degenerate_top_is_found_and_does_not_stall():
    """White inputs and random labels: the ten largest eigenvalues are equal but for some per cent."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(400, 30, generator=generator), torch.randint(10, (400,), generator=generator)
    network = networks.mlp(30, (16,), 10, "tanh", seed=0)
    objective = SupervisedObjective(network.double(), inputs.double(), labels, "cross-entropy")
    theta, spent = networks.flatten(network), []
    tracker = SharpnessTracker(tolerance=1e-3, wanted="values")
    for _ in range(12):
        point = objective.expand(theta)
        values = torch.linalg.eigvalsh(hessian(lambda t: objective.forward(t)[0])(theta)).flip(0)
        spectrum = tracker.at(point)
        assert values[9] > 0.5 * values[0] and values[1] > 0.85 * values[0]
        assert spectrum.converged and spectrum.values[0].item() == pytest.approx(values[0].item(), rel=1e-3)
        spent.append(spectrum.products)
        theta = theta - 0.5 * point.gradient
    assert np.median(spent) <= 8 and max(spent) <= 40


# --- in the subspace of the inputs' principal directions -------------------------------------------------


@pytest.fixture
def few_directions(monkeypatch):
    monkeypatch.setattr("eoslib.measure.curvature.PRINCIPAL", 3)


def supervised(d, hidden=(5,), activation="tanh", n=12):
    """A small network on random data of three classes."""
    labels = torch.randint(3, (n,), generator=torch.Generator().manual_seed(0))
    network = networks.mlp(d, hidden, 3, activation, seed=0).double()
    return SupervisedObjective(network, random(n, d), labels, "cross-entropy"), networks.flatten(network)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_a_subspace_has_the_gradient_and_the_products_of_its_coordinates(few_directions, hidden, activation):
    """∇ = Eᵀ∇f and products EᵀHE, where the rows of Eᵀ are the lifted unit vectors."""
    objective, theta = supervised(30, hidden, activation)
    point = objective.expand(theta)
    inside = Subspace.of(point)
    torch.testing.assert_close(inside.value, point.value, rtol=1e-13, atol=0)
    unit = torch.eye(len(inside.gradient), dtype=theta.dtype)
    lifted = inside.lift(unit)  # (q, p)
    torch.testing.assert_close(lifted @ lifted.T, unit, rtol=0, atol=1e-13)
    torch.testing.assert_close(inside.gradient, lifted @ point.gradient, rtol=1e-11, atol=1e-14)
    products = torch.stack([inside.hvp(e) for e in unit])
    expected = lifted @ torch.stack([point.hvp(row) for row in lifted]).T
    torch.testing.assert_close(products, expected, rtol=1e-10, atol=1e-13)


def test_a_subspace_has_the_same_bits_whether_or_not_the_first_layer_was_seen(few_directions):
    """A run that goes on has not seen it. What was seen at another θ, or before θ changed, or on other inputs is not
    taken."""
    objective, theta = supervised(30, (5, 4), n=50)
    unseen = Subspace.of(objective.expand(theta))
    seen = Subspace.of(objective.expand(theta))
    assert torch.equal(seen.gradient, unseen.gradient)
    point = objective.expand(theta)
    for other in (lambda: objective.value(2 * theta), lambda: objective.batch(torch.arange(9)).value(theta)):
        other()
        assert torch.equal(Subspace.of(point).gradient, unseen.gradient)
    moved = theta.clone()
    objective.value(moved)
    moved *= 2  # what was seen there holds no longer
    assert torch.equal(Subspace(objective, moved).gradient, Subspace.of(objective.expand(moved)).gradient)


def test_the_directions_kept_are_the_leading_ones(few_directions):
    objective, theta = supervised(30, n=50)
    objective.inputs = objective.inputs * torch.tensor([9.0, 8.0, 7.0] + 27 * [0.01], dtype=torch.float64)
    inside, leading = Subspace.of(objective.expand(theta)), torch.eye(30, dtype=torch.float64)[:3]
    first = inside.lift(torch.eye(len(inside.gradient), dtype=torch.float64))[:3, :30]  # of the first hidden unit
    torch.testing.assert_close(leading @ first.T @ first, leading, rtol=0, atol=1e-3)


def test_there_is_no_subspace_where_it_saves_nothing(few_directions):
    for narrow in (supervised(29), supervised(30, activation="linear")):
        assert Subspace.of(narrow[0].expand(narrow[1])) is None
    assert Subspace.of(Objective(torch.sum).expand(torch.zeros(3))) is None


def descent_on_inputs(scales, monkeypatch):
    """Points along gradient descent of a small network whose inputs have these standard deviations."""
    monkeypatch.setattr("eoslib.measure.curvature.PRINCIPAL", 4)
    labels = torch.randint(3, (200,), generator=torch.Generator().manual_seed(1))
    inputs = random(200, len(scales)) * torch.as_tensor(scales, dtype=torch.float64)
    network = networks.mlp(len(scales), (6,), 3, "tanh", seed=0).double()
    objective, theta = SupervisedObjective(network, inputs, labels, "cross-entropy"), networks.flatten(network)
    for _ in range(8):
        point = objective.expand(theta)
        yield point, torch.linalg.eigvalsh(hessian(lambda t: objective.forward(t)[0])(theta))[-1].item()
        theta = theta - 0.3 * point.gradient


def test_a_search_in_the_subspace_spares_products(monkeypatch):
    tracker = SharpnessTracker()
    for point, expected in descent_on_inputs(1.5 / np.arange(1, 61) ** 1.0, monkeypatch):
        row = tracker.measure(point, 0.3)
        assert row["sharpness"] == pytest.approx(expected, rel=1e-4)
        assert row["sharpness_residual"] <= 3e-3
        assert row["products"] <= 3


def test_a_value_found_in_the_subspace_is_often_right_after_one_product(monkeypatch):
    tracker, spent = SharpnessTracker(tolerance=1e-3, wanted="values"), []
    for point, expected in descent_on_inputs(1.5 / np.arange(1, 61) ** 1.4, monkeypatch):
        spectrum = tracker.at(point)
        assert spectrum.converged and spectrum.values[0].item() == pytest.approx(expected, rel=1e-3)
        spent.append(spectrum.products)
    assert spent == [2, 1, 1, 1, 1, 2, 1, 1]  # now and then the curvature outside is found anew


def test_where_the_subspace_holds_little_the_search_goes_on_outside(monkeypatch):
    tracker = SharpnessTracker(k=2, tolerance=1e-5)
    for point, expected in descent_on_inputs(np.ones(60), monkeypatch):
        assert Subspace.of(point) is not None
        spectrum = tracker.at(point)
        assert spectrum.converged
        assert spectrum.values[0].item() == pytest.approx(expected, rel=1e-6)
