"""The questions of assignment 1 and what a right answer to each is."""

import numpy as np
from grading import Mark, Question, differs, marked, marked_parts, misshapen
from guides import experiment

QUARTICS = 6  # cases; the first half of them are quadratics


def quartics(rng: np.random.Generator) -> dict:
    """Functions ½ θᵀPθ + κ/4 Σ θᵢ⁴ and points, (QUARTICS, …), with steps of up to twice the stable size."""
    factors = rng.standard_normal((QUARTICS, 5, 5))
    P = factors @ factors.transpose(0, 2, 1)
    largest = np.linalg.eigvalsh(P)[:, -1]
    return {
        "P": P,
        "kappa": np.where(np.arange(QUARTICS) < QUARTICS // 2, 0, largest),
        "theta": rng.standard_normal((QUARTICS, 5)),
        "step_size": rng.uniform(0.5, 4, QUARTICS) / largest,
        "v": rng.standard_normal((QUARTICS, 5)),
    }


def value(inputs, theta):
    P, kappa = inputs["P"], inputs["kappa"]
    return np.einsum("ci,cij,cj->c", theta, P, theta) / 2 + kappa / 4 * (theta**4).sum(1)


def gradient(inputs, theta):
    return np.einsum("cij,cj->ci", inputs["P"], theta) + inputs["kappa"][:, None] * theta**3


def on_quartics(outputs, expected) -> Mark:
    """Half of the mark for the quadratics, half for the others."""
    if fault := misshapen(outputs, "values", np.shape(expected)):
        return Mark(0.0, (fault,))
    half = QUARTICS // 2
    quadratic, other = (
        max(abs(outputs["values"][part] / expected[part] - 1)) < 1e-6 for part in (slice(half), slice(half, None))
    )
    return marked(
        None if quadratic else "wrong on quadratics", None if other else "wrong on functions that are no quadratics"
    )


def check_progress(inputs, outputs) -> Mark:
    theta, eta = inputs["theta"], inputs["step_size"]
    g = gradient(inputs, theta)
    change = value(inputs, theta - eta[:, None] * g) - value(inputs, theta)
    return on_quartics(outputs, change / (eta * (g**2).sum(1)))


def check_smoothness(inputs, outputs) -> Mark:
    theta, v = inputs["theta"], inputs["v"]
    change = gradient(inputs, theta) - gradient(inputs, theta - v)
    return on_quartics(outputs, (v * change).sum(1) / (v**2).sum(1))


def one_quartic(rng) -> dict:
    drawn = quartics(rng)
    # small enough a step that the quartic does not throw the iterates out
    return {
        "P": drawn["P"][-1], "kappa": float(drawn["kappa"][-1]), "theta": drawn["theta"][-1] / 4,
        "step_size": float(0.3 / drawn["kappa"][-1]), "steps": int(rng.integers(15, 25)),
    }  # fmt: skip


def check_descent(inputs, outputs) -> Mark:
    stacked = {"P": inputs["P"][None], "kappa": np.array([inputs["kappa"]])}
    eta, path = inputs["step_size"], [inputs["theta"][None]]
    for _ in range(inputs["steps"]):
        path.append(path[-1] - eta * gradient(stacked, path[-1]))
    f = np.array([value(stacked, theta)[0] for theta in path])
    g = np.array([gradient(stacked, theta)[0] for theta in path])
    square = (g[:-1] ** 2).sum(1)
    return marked(
        differs(outputs, "loss", f[:-1]),
        differs(outputs, "relative_progress", np.diff(f) / (eta * square)),
        differs(outputs, "directional_smoothness", (g[:-1] * (g[:-1] - g[1:])).sum(1) / (eta * square)),
    )


def spectra(rng) -> dict:
    """Four symmetric matrices (40, 40); the last two have their largest eigenvalue in modulus at the negative end."""
    matrices = []
    for lowest in (0.0, -0.5, -1.5, -3.0):
        eigenvalues = np.concatenate([[1.0, lowest], rng.uniform(max(lowest, -1), 0.7, 38)])
        axes = np.linalg.qr(rng.standard_normal((40, 40)))[0]
        matrices.append(rng.uniform(1, 50) * (axes * eigenvalues) @ axes.T)
    return {"H": np.array([(m + m.T) / 2 for m in matrices])}


def check_sharpness(inputs, outputs) -> Mark:
    largest = np.linalg.eigvalsh(inputs["H"])[:, -1]
    if fault := misshapen(outputs, "values", np.shape(largest)):
        return Mark(0.0, (fault,))
    right = abs(outputs["values"] / largest - 1) < 2e-3
    return marked(
        None if right[:2].all() else "wrong where the largest eigenvalue is also the largest in modulus",
        None if right[2:].all() else "wrong where the largest eigenvalue in modulus is negative",
    )


def courses(rng) -> dict:
    """Measured sharpnesses (5, 40) that reach 2/η: on the way, never, at once, exactly, among failed measurements."""
    steps = np.cumsum(rng.integers(1, 30, 40)) - 1
    step_size = rng.uniform(0.05, 0.5, 5)
    rising = np.linspace(0.2, 1.4, 40) + 0.15 * np.sin(np.arange(40) + rng.uniform(0, 6))
    rows = np.array([rising, 0.5 * rising, 2 + rising, np.minimum(np.linspace(0.3, 1.5, 40), 1), rising])
    sharpnesses = rows * (2 / step_size)[:, None]
    sharpnesses[3, rows[3] == 1] = 2 / step_size[3]  # reached exactly, never exceeded
    failed = rng.permutation(np.flatnonzero(rows[4] < 1))[:5]
    sharpnesses[4, failed] = np.nan
    return {"steps": steps, "sharpnesses": sharpnesses, "step_size": step_size}


def check_onset(inputs, outputs) -> Mark:
    expected = []
    for row, eta in zip(inputs["sharpnesses"], inputs["step_size"], strict=True):
        reached = inputs["steps"][row >= 2 / eta]
        expected.append(reached[0] if len(reached) else -1)
    if fault := misshapen(outputs, "steps", np.shape(expected)):
        return Mark(0.0, (fault,))
    cases = (
        "where the sharpness rises beyond 2/η", "where it never reaches 2/η", "where it begins above 2/η",
        "where it reaches 2/η exactly", "where measurements have failed",
    )  # fmt: skip
    right = outputs["steps"] == expected
    return marked_parts(right, cases)


QUESTIONS = [
    Question("q1", 2, quartics, check_progress),
    Question("q2", 2, quartics, check_smoothness),
    Question("q3", 3, one_quartic, check_descent),
    Question("q4", 3, spectra, check_sharpness),
    Question("q5", 2, courses, check_onset),
    Question(
        "written", 5,
        guide="(a) 2: the fundamental theorem of calculus along the step, 1; the definition of L with v = ητg, with "
        "its factors, 1. (b) 1: L nearly constant in τ, exact for quadratics. (c) 1: L averages to about 2/η. "
        "(d) 1: L is a weighted average of the eigenvalues over the gradient's components, so at most the "
        "largest. An answer to (d) that speaks of measurement error earns nothing.",
    ),
    experiment(
        "What one sees. Activation: with tanh and elu every run reaches 2/η, elu sooner; from then on relative "
        "progress is near 0 and the sharpness a few per cent above 2/η. With swish most runs stay below 2/η to the "
        "end: of these, what is asked from the onset on is nan, which says that the step size is too small for this "
        "network, not that the claims fail. With elu the identity of appendix C holds to about 1e-7 and not to "
        "rounding, since elu's second derivative jumps and the quadrature of the integral is less accurate there. "
        "Larger steps: at 2/2 both seeds converge, at 2/1.5 one of the two, at 2/1 neither; so the seeds have to be "
        "looked at, and the figure shows the first only. The network starts beyond 2/η then: what is asked from before "
        "the onset is nan, verdicts of diverging runs change with it, and several controls do not fail. Twice the "
        "loss: half the step sizes give the same trajectories, loss and sharpness doubled to the last bit, for 2 is a "
        "power of two. Where only those of experiments 2 and 3 are halved, the bracket of divergence is not reproduced "
        "and the control of corollary 1 does not fail (status 1), since they stay at other step sizes. How many "
        "eigenvalues exceed 2/η (one or two, in the median) rounding decides.",
    ),
]  # fmt: skip
