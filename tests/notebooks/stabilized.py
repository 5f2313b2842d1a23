"""Damian et al., figure 4, in plain PyTorch, without the library: from the onset of instability on gradient descent,
the constrained trajectory θ†, gradient flow and both predictions of v = θ − θ†."""

import math
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.autograd import grad

FLOW_PARTS = 4  # Euler steps of the flow in time η


def as_function(network, x, criterion):
    """θ ↦ the loss of a network, in the precision of θ, and θ at the start; the biases start at zero."""
    shapes = {name: p.shape for name, p in network.named_parameters()}
    inputs = {dtype: x.to(dtype) for dtype in (torch.float32, torch.float64)}
    parts = [torch.zeros_like(p) if name.endswith("bias") else p for name, p in network.named_parameters()]

    def loss(theta):
        split = theta.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shape) for part, (name, shape) in zip(split, shapes.items(), strict=True)}
        return criterion(torch.func.functional_call(network, weights, inputs[theta.dtype]))

    return loss, torch.cat([part.detach().flatten() for part in parts])


class Near:
    """L about θ: its value and derivatives."""

    def __init__(self, loss, theta):
        self.theta = theta.detach().requires_grad_()
        value = loss(self.theta)
        (self.slope,) = grad(value, self.theta, create_graph=True)
        self.value, self.gradient = value.item(), self.slope.detach()

    def hessian(self, v):
        return grad(self.slope, self.theta, v, retain_graph=True)[0]

    def third(self, u):
        """∇³L(u, u)."""
        (product,) = grad(self.slope, self.theta, u, create_graph=True)
        return grad(product, self.theta, u, retain_graph=True)[0]

    def top(self, start, tolerance):
        """The largest eigenvalue S and its vector u, by Lanczos' method, to a residual of so many S."""
        basis, images = [start / start.norm()], []
        while True:
            images.append(self.hessian(basis[-1]))
            q, hq = torch.stack(basis), torch.stack(images)
            values, vectors = torch.linalg.eigh(q @ hq.T)
            u, product = vectors[:, -1] @ q, vectors[:, -1] @ hq
            if (product - values[-1] * u).norm() <= tolerance * values[-1] or len(basis) == 200:
                return values[-1].item(), u * torch.sign(u @ start)
            w = images[-1]
            for _ in range(2):
                w = w - (q @ w) @ q
            basis.append(w / w.norm())


def with_gradient(loss, theta):
    """L(θ) and ∇L(θ)."""
    theta = theta.detach().requires_grad_()
    value = loss(theta)
    return value.item(), grad(value, theta)[0]


def until_onset(loss, theta, eta, every):
    """The first t at which the sharpness midway between θ_t and θ_{t+1} is at least 2/η, that θ_t, and u there."""
    t, u = 0, torch.ones_like(theta)
    while True:
        path, midpoints = [theta], []
        for _ in range(every):
            g = with_gradient(loss, path[-1])[1]
            midpoints.append(path[-1] - eta / 2 * g)
            path.append(path[-1] - eta * g)
        if Near(loss, midpoints[-1]).top(u, 1e-3)[0] >= 2 / eta:
            for i, midpoint in enumerate(midpoints):
                sharpness, u = Near(loss, midpoint).top(u, 1e-3)
                if sharpness >= 2 / eta:
                    return t + i, path[i], u
        t, theta = t + every, path[-1]


class Stable:
    """θ† = the projection of θ to S ≤ 2/η and ∇L·u = 0 after lemma 13, and what the predictions need of L there. The
    searches and third derivatives are made in the precision `rough`."""

    def __init__(self, loss, theta, eta, u, rough, tolerance):
        lengths = []
        for repetition in range(4):
            self.value, g = with_gradient(loss, theta)
            self.near = Near(loss, theta.to(rough))
            self.sharpness, u = self.near.top(u, tolerance)
            normal = self.near.third(u)
            slope = normal @ u
            across = (normal - slope * u).double()  # ∇S⊥
            v = u.double()
            step = -max(0, self.sharpness - 2 / eta) * across / (across @ across) - v * (v @ g) / self.sharpness
            lengths.append(step.norm())
            if repetition == 3 or (repetition and lengths[-1] <= 1e-2 * lengths[0]):
                break
            theta = theta + step
        self.theta, self.gradient, self.u, self.across, self.slope = theta, g, v, across, slope.item()
        self.alpha, self.beta = -(g @ across).item(), (across @ across).item()
        self.delta_square = 2 * max(self.alpha, 0) / self.beta

    def hessian(self, v):
        return self.near.hessian(v.to(self.near.theta.dtype)).double()


def predicted(loss, stable, v, eta, generalised):
    """x, y, loss, sharpness and distance that v predicts, and the next v (section 5.2; appendix F.1)."""
    x, y, u = stable.u @ v, stable.across @ v, stable.u
    if generalised:
        there = Near(loss, (stable.theta + x * u).to(stable.near.theta.dtype))
        along = there.hessian(u.to(there.theta.dtype)).double() @ u
        value, sharpness = there.value, y + along
        linear = stable.hessian(v - x * u) + u * (u @ there.gradient.double())
    else:
        value, sharpness = stable.value + x**2 / eta, 2 / eta + y + stable.slope * x
        linear = stable.hessian(v)
    row = {"x": x, "y": y, "loss": value, "sharpness": sharpness, "distance": v.norm()}
    after = v - eta * ((x**2 - stable.delta_square) / 2 * stable.across + linear + x * y * u)
    return {name: float(number) for name, number in row.items()}, after


def follow(loss, theta, eta, tracked, every, predict_from=0.0, rough=torch.float64, tolerance=1e-6, sharpness=True):
    """The step of the onset, and of each tracked step the quantities of figure 4 as (tracked,) by their names.

    predict_from: the predictions start at |x| ≥ predict_from · δ; never if it is infinite. sharpness: whether that of
    gradient descent is wanted.
    """
    onset, theta, u = until_onset(loss, theta, eta, every)
    theta, u, top, rows, guesses = theta.double(), u.to(rough), u.to(rough), [], {}
    stable, flow = Stable(loss, theta, eta, u, rough, tolerance), theta
    for _ in range(tracked):
        value, g = with_gradient(loss, theta)
        v = theta - stable.theta
        x, delta = (stable.u @ v).item(), math.sqrt(stable.delta_square)
        row = {"loss": value, "constrained_loss": stable.value, "constrained_sharpness": stable.sharpness}
        row |= {"distance": v.norm(), "flow_distance": (flow - stable.theta).norm()}
        row |= {"x": x, "y": stable.across @ v, "delta": delta, "epsilon": eta * math.sqrt(max(stable.alpha, 0))}
        if sharpness:
            row["sharpness"], top = Near(loss, theta.to(rough)).top(top, 3e-4)
        if not guesses and abs(x) >= predict_from * delta:
            guesses = {"predicted": v, "generalised": v}
        for kind, guess in guesses.items():
            row[f"{kind}_loss_there"] = loss((stable.theta + guess).to(rough)).item()
            row[f"{kind}_error"] = (guess - v).norm()
            quantities, guesses[kind] = predicted(loss, stable, guess, eta, kind == "generalised")
            row |= {f"{kind}_{name}": number for name, number in quantities.items()}
        rows.append({name: float(number) for name, number in row.items()})
        theta = theta - eta * g
        for _ in range(FLOW_PARTS):
            flow = flow - eta / FLOW_PARTS * with_gradient(loss, flow.to(rough))[1].double()
        stable = Stable(loss, stable.theta - eta * stable.gradient, eta, stable.u.to(rough), rough, tolerance)
    return onset, {name: np.array([row.get(name, np.nan) for row in rows]) for name in rows[-1]}


def project_two(loss, theta, eta, start, tolerance):
    """The projection of θ to λ₁, λ₂ ≤ 2/η and ∇L·u₁ = ∇L·u₂ = 0 (section 8.2), and u₁ + u₂ there: three steps, each the
    shortest that makes the matrix of uᵢ·∇²L uⱼ diagonal, with 2/η for what is above it."""
    for _ in range(3):
        near = Near(loss, theta)
        hessian = LinearOperator((len(theta),) * 2, lambda v: near.hessian(torch.tensor(v).flatten()).numpy())  # noqa: B023
        values, vectors = eigsh(hessian, 2, which="LA", v0=start, tol=tolerance)
        start, values, u = vectors.sum(1), torch.tensor(values), torch.tensor(vectors.T)
        theta = theta - (u @ near.gradient / values) @ u
        above = [i for i in range(2) if values[i] > 2 / eta]
        if above:
            single = [near.third(u[i]) for i in above]
            mixed = [(near.third(u.sum(0)) - sum(single)) / 2] if len(above) == 2 else []
            normals = torch.stack(single + mixed)
            normals = normals - (normals @ u.T) @ u
            wanted = torch.cat([2 / eta - values[above], torch.zeros(len(mixed))])
            theta = theta + torch.linalg.lstsq(normals, wanted[:, None], driver="gelsd").solution[:, 0]
    return theta, start


def distance_over_flows(loss, theta, eta, tracked, every, tolerance=1e-9):
    """Mean ‖θ − θ†‖ over that of gradient flow in the last quarter of the steps, two eigenvalues constrained."""
    _, theta, u = until_onset(loss, theta, eta, every)
    theta = flow = theta.double()
    constrained, start = project_two(loss, theta, eta, u.double().numpy(), tolerance)
    distances = []
    for _ in range(tracked):
        distances.append([(at - constrained).norm().item() for at in (theta, flow)])
        theta = theta - eta * with_gradient(loss, theta)[1]
        for _ in range(FLOW_PARTS):
            flow = flow - eta / FLOW_PARTS * with_gradient(loss, flow)[1]
        ahead = constrained - eta * with_gradient(loss, constrained)[1]
        constrained, start = project_two(loss, ahead, eta, start, tolerance)
    descent, of_flow = np.mean(distances[-tracked // 4 :], 0)
    return descent / of_flow


def smooth(values):
    """Two-step averages."""
    return (values[1:] + values[:-1]) / 2


def from_prediction(rows):
    """The steps for which there is a prediction."""
    begin = int(np.isfinite(rows["predicted_x"]).argmax())
    return {name: values[begin:] for name, values in rows.items()}


def first_cycle(rows):
    """Of these, those until y is positive again, after |x| > δ and y < 0."""
    blown_up = np.logical_or.accumulate(abs(rows["x"]) > rows["delta"])
    fallen = np.logical_or.accumulate(blown_up & (rows["y"] < 0)) & (rows["y"] > 0)
    return {name: values[: fallen.argmax()] if fallen.any() else values for name, values in rows.items()}


def error(rows, kind, quantity):
    """Mean |predicted − true| over the mean size of what is to be predicted: the fluctuation around θ† of two-step
    averages of loss or sharpness; distance, |x| or y."""
    true, guess = rows[quantity], rows[f"{kind}_{quantity}"]
    if quantity in ("loss", "sharpness"):
        true, guess = (smooth(values - rows[f"constrained_{quantity}"]) for values in (true, guess))
    if quantity == "x":
        true, guess = abs(true), abs(guess)
    return np.nan_to_num(abs(guess - true), nan=np.inf).mean() / abs(true).mean()


def error_there(rows, kind):
    """The same of the loss that θ† + v̂ itself has, step by step."""
    fluctuation = abs(rows["loss"] - rows["constrained_loss"]).mean()
    return np.nan_to_num(abs(rows[f"{kind}_loss_there"] - rows["loss"]), nan=np.inf).mean() / fluctuation


def mse_binary(signs):
    return lambda outputs: ((outputs[:, 0] - signs.to(outputs)) ** 2).mean()


def fully_connected(widths, activation):
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])
