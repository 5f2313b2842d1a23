"""What the chapters publish as not reproduced, a second time: plain PyTorch, NumPy and SciPy, without the library."""

import numpy as np
import torch
from at_the_papers_scale import three_regimes
from scipy.linalg import hadamard
from scipy.optimize import brentq
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.datasets import load_digits
from torch import nn

# ------------------------------------------------------------------------------------------- Chen et al.


def motzkin(x, y):
    """f₃."""
    return x**4 * y**2 + x**2 * y**4 - 3 * x**2 * y**2 + 1


def test_beyond_root_3_the_points_on_the_axes_of_f3_are_minima():
    """f₃(x, y) − 1 = x²y²(x² + y² − 3), whose sign on a small disc about (x, 0) is that of x² − 3."""
    offsets = np.random.default_rng(0).uniform(-1e-3, 1e-3, (2, 1000))
    points = np.linspace(-2.5, 2.5, 1000)
    lower = np.array([(motzkin(x + offsets[0], offsets[1]) < 1 - 1e-13).any() for x in points])
    np.testing.assert_array_equal(lower, abs(points) < np.sqrt(3))
    assert 0.65 < lower.mean() < 0.72


def convergent_and_unstable(step_size, half=4.0, n=100, steps=300):
    """Of n × n starts, how many reach a minimiser (±1, ±1) of f₃, and how many after a rise of f₃."""
    x, y = np.meshgrid(*[np.linspace(-half, half, n) + 1e-4] * 2)
    risen, f = np.zeros(x.shape, bool), motzkin(x, y)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            x, y = (
                x - step_size * (4 * x**3 * y**2 + 2 * x * y**4 - 6 * x * y**2),
                y - step_size * (2 * x**4 * y + 4 * x**2 * y**3 - 6 * x**2 * y),
            )
            after = motzkin(x, y)
            risen |= ~(after <= f + 1e-13)
            f = after
        reached = (abs(abs(x) - 1) < 1e-3) & (abs(abs(y) - 1) < 1e-3)
    return reached.sum(), (reached & risen).sum()


def test_the_unstable_share_of_f3_falls_before_it_grows():
    counts = [convergent_and_unstable(fraction / 6) for fraction in (0.1, 0.6, 0.95)]
    shares = [unstable / convergent for convergent, unstable in counts]
    assert shares[0] > shares[1] + 0.02 and shares[2] > shares[1] + 0.02


# -------------------------------------------------------------------------------------------- Ahn et al.


def test_with_epsilon_in_the_denominator_the_sharpness_grows_like_its_power_of_minus_two_thirds():
    """−⟨w, ζ/(ε + ‖ζ‖)⟩ + γ‖ζ‖²/2 in the plane, w = (1, 0): the minimum lies on the first axis, where the Hessian is
    diagonal, in closed form."""
    decay, rows = 1e-3, []
    for epsilon in (1e-6, 1e-8):
        r = brentq(lambda r, e=epsilon: decay * r - e / (e + r) ** 2, 1e-9, 1e3, xtol=1e-15)
        along = 2 * epsilon / (epsilon + r) ** 3 + decay
        across = 1 / (r * (epsilon + r)) + decay  # the outputs fall as ζ turns
        rows.append(np.log([epsilon, r, max(along, across)]))
    change = np.diff(rows, axis=0)[0]
    np.testing.assert_allclose(change[1:] / change[0], [1 / 3, -2 / 3], atol=0.005)


def trained(activation, step_size, steps, every):
    """Full-batch gradient descent on 500 digits with the mean squared error: relative progress and directional
    smoothness of each step; of every few the largest eigenvalue of the Hessian, how the gradient aligns with its
    vector, and the share of its square in the span of those of the five largest that are at least 2/η."""
    images, digits = load_digits(return_X_y=True)
    images = (images - images.mean(0)) / images.std(0).clip(1e-9)
    x, y = torch.tensor(images[:500]), nn.functional.one_hot(torch.tensor(digits[:500]), 10)
    torch.manual_seed(0)
    layers = nn.Linear(64, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 10)
    network = nn.Sequential(*layers).double()
    parameters = list(network.parameters())

    def gradient(create_graph=False):
        loss = ((network(x) - y) ** 2).sum(1).mean() / 2
        return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=create_graph)])

    def top_eigenpairs():
        _, g = gradient(create_graph=True)

        def product(v):
            hv = torch.autograd.grad(g @ torch.tensor(v).flatten(), parameters, retain_graph=True)
            return torch.cat([h.flatten() for h in hv]).numpy()

        values, vectors = eigsh(LinearOperator((len(g), len(g)), product, dtype=float), 5, which="LA", tol=1e-4)
        cosines = vectors.T @ g.detach().numpy() / g.norm().item()  # the largest eigenvalue comes last
        return values[-1], abs(cosines[-1]), (cosines[values >= 2 / step_size] ** 2).sum()

    progress, smoothness, tops = [], [], []
    loss, g = gradient()
    for t in range(steps):
        if t % every == 0:
            tops.append((t, *top_eigenpairs()))
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(parameters).detach() - step_size * g, parameters)
        after, g_after = gradient()
        progress.append(((after - loss) / (step_size * g @ g)).item())
        smoothness.append((g @ (g - g_after) / (step_size * g @ g)).item())
        loss, g = after, g_after
    return np.array(progress), np.array(smoothness), np.array(tops)


def test_the_gradient_is_not_parallel_to_the_top_eigenvector_and_the_sharpness_is_not_always_above():
    step_size = 2 / 4
    _, _, tops = trained(nn.Tanh, step_size, 600, 20)
    unstable = tops[np.argmax(tops[:, 1] >= 2 / step_size) :]
    assert len(unstable) > 15
    assert np.median(unstable[:, 2]) < 0.9
    assert (unstable[:, 1] >= 2 / step_size).mean() < 1
    assert np.median(unstable[:, 3]) < 0.5


def test_relation_5_leaves_more_for_relu_than_for_tanh():
    """On digits here, on generated data in the chapter."""
    left = {}
    for activation in (nn.Tanh, nn.ReLU):
        progress, smoothness, tops = trained(activation, 2 / 6, 500, 50)
        onset = int(tops[np.argmax(tops[:, 1] >= 6), 0])
        difference = progress - (-1 + smoothness / 6)
        left[activation] = (difference[onset:] ** 2).mean() / progress[onset:].var()
    assert left[nn.Tanh] < 0.1 < left[nn.ReLU]


def generated(n=1000):
    """Inputs whose covariance falls as a power of the index, standardised, and labels that depend on all directions."""
    rng = np.random.default_rng(0)
    teacher, z = rng.standard_normal((10, 128)), rng.standard_normal((10_000, 128))
    x = (z * np.arange(1, 129) ** -0.75) @ hadamard(128)
    x = (x - x.mean(0)) / x.std(0)
    return torch.tensor(x[:n]), torch.tensor((z[:n] @ teacher.T).argmax(1))


def small_network(activation):
    """Its θ at the start, f(θ, x, y), and the same with ∇f."""
    torch.manual_seed(0)
    layers = nn.Linear(128, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 10)
    network = nn.Sequential(*layers).double()
    parameters = list(network.parameters())

    def loss(theta, x, y):
        nn.utils.vector_to_parameters(theta, parameters)
        return nn.functional.cross_entropy(network(x), y)

    def with_gradient(theta, x, y):
        f = loss(theta, x, y)
        return f.item(), torch.cat([g.flatten() for g in torch.autograd.grad(f, parameters)])

    return nn.utils.parameters_to_vector(parameters).detach(), torch.no_grad()(loss), with_gradient


def test_of_sgd_on_small_data_most_minibatches_decrease_the_loss_and_so_does_their_mean():
    """All whole minibatches of a fresh partition are seen at the beginning of every fourth epoch."""
    x, y = generated()
    theta, loss, with_gradient = small_network(nn.ReLU)
    step_size, generator, progress, decreases = 2 / 15, torch.Generator().manual_seed(0), [], []
    for epoch in range(40):
        if epoch % 4 == 0:
            f, gradient = with_gradient(theta, x, y)
            parts = torch.randperm(1000, generator=generator).split(32)[:-1]
            steps = [step_size * with_gradient(theta, x[part], y[part])[1] for part in parts]
            changes = np.array([loss(theta - v, x, y).item() - f for v in steps])
            progress.append(changes.mean() / (step_size * gradient @ gradient).item())
            decreases.append((changes < 0).mean())
        for part in torch.randperm(1000, generator=generator).split(32):
            theta = theta - step_size * with_gradient(theta, x[part], y[part])[1]
    progress = np.array(progress)
    assert progress.mean() < -2 * progress.std(ddof=1) / len(progress) ** 0.5
    assert (progress > 0).mean() < 0.5
    assert np.mean(decreases) > 0.7


def test_relation_5_leaves_a_tenth_of_the_variance_for_rmsprop():
    """In the metric of its preconditioner."""
    x, y = generated()
    theta, _, with_gradient = small_network(nn.Tanh)
    step_size, square, rows = 1e-3, torch.zeros_like(theta), []
    f, g = with_gradient(theta, x, y)
    for _ in range(225):
        square = 0.99 * square + 0.01 * g**2
        v = step_size * g / (square.sqrt() + 1e-7)
        theta = theta - v
        after, g_after = with_gradient(theta, x, y)
        rows.append([(after - f) / (g @ v).item(), (v @ (g - g_after) / (g @ v)).item()])  # RP, and η L
        f, g = after, g_after
    progress, smoothness = np.array(rows[75:]).T
    left = ((progress + 1 - smoothness / 2) ** 2).mean() / progress.var()
    assert 0.09 < left < 0.12


# --------------------------------------------------------------------------------------- Mohtashami et al.


def test_theorem_2_is_exceeded_by_a_step_that_shrinks_a_set_into_another():
    """min(x²/2, 50 (x − 10)² + ½), which is the second bowl in X; W = 10 X; γ = 0.9, where L = μ⋆ = 1 outside of X."""
    low, high = np.roots((49.5, -1000, 5000.5))[::-1]
    x = np.random.default_rng(0).uniform(10 * low, 10 * high, 10_000)
    meets = np.zeros(len(x), bool)
    for _ in range(100):
        inside = (low < x) & (x < high)
        meets |= inside
        x = x - 0.9 * np.where(inside, 100 * (x - 10), x)
    bound = 2 * (10 * high / low) ** (-1 / np.log2(0.1)) * (high - low) / (10 * (high - low))
    assert bound < 0.5 < meets.mean() == 1


def test_theorem_4_does_not_keep_sgd_where_it_is():
    """f_tm is 450 (x − 4.1)² in M†, 0.4 to both sides of 4.1; γ = 1/1800, and the smallest σ of the theorem."""
    rng = np.random.default_rng(0)
    x, left = rng.uniform(-0.4, 0.4, 1000), np.zeros(1000, bool)
    for t in range(1000):
        x = x - (900 * x + 12 * 5400**0.5 * rng.uniform(-1, 1, 1000)) / 1800
        left |= abs(x) > 0.4
        if t == 0:
            assert left.mean() < 0.5
    assert left.all()


def test_the_wells_of_appendix_k_are_deeper_than_its_global_minimum():
    bump = (1.5 - 1) * (2 - 1.5)
    assert 2 * 1.5**2 - 200 * bump**2 == -8


def test_on_digits_small_steps_with_and_without_repeats_are_no_worse_than_large_ones():
    """192 of them, and 500 to test, on a network of one stage."""
    images, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32), torch.tensor(digits)
    x = ((x - x[:192].mean()) / x[:192].std()).unflatten(1, (1, 8, 8))
    large, small, repeats = three_regimes(
        (x[:192], y[:192]), (x[192:692], y[192:692]), [8], nn.Tanh, 0, batch_size=16, large=0.3, k=2, epochs=25, once=1
    )
    assert large < min(small, repeats) + 0.01
