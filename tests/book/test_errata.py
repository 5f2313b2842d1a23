"""The numbers on the errata page."""

import math


def test_the_example_against_proposition_1():
    def f(x):
        y = 1000 * abs(x)  # ln cosh y = y - ln 2 + ln(1 + exp(-2y))
        return 50 * x * x if x <= 0 else 1e-4 * (y - math.log(2) + math.log1p(math.exp(-2 * y)))

    def gradient(x):
        return 100 * x if x <= 0 else 0.1 * math.tanh(1000 * x)

    def curvature(x):
        return 100.0 if x <= 0 else 100 * (1 - math.tanh(1000 * x) ** 2)

    step_size, epsilon, delta, first, count = 1, 0.5, 0.0099, 1, 30
    x = [-0.05]
    for _ in range(60):
        x.append(x[-1] - step_size * gradient(x[-1]))
    tail = x[first : first + count]
    assert math.isclose(x[1], 4.95) and round(f(x[0]), 3) == 0.125 and round(f(x[1]), 3) == 0.495
    assert sum(gradient(y) ** 2 for y in tail) / count >= delta
    assert 25.2 < f(x[0]) / (step_size * epsilon * delta) < 25.3 < count  # the printed condition holds
    assert max(map(curvature, x[first : first + count + 1])) == 0 < 2 / step_size * (1 - epsilon)  # and yet
    needed = math.ceil(f(x[1]) / (step_size * epsilon * delta))
    length = next(t for t, y in enumerate(x[1:]) if y <= 0)  # steps until the slope ends
    assert needed == 100 and length == 50


def test_the_update_of_example_4():
    # one eigenvector with eigenvalue 3 of P, f = theta' P theta
    eigenvalue, step_size, theta, h = 3.0, 0.05, 0.7, 1e-6
    gradient = (eigenvalue * (theta + h) ** 2 - eigenvalue * (theta - h) ** 2) / (2 * h)
    assert math.isclose(theta - step_size * gradient, (1 - 2 * step_size * eigenvalue) * theta, rel_tol=1e-8)
