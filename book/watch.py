# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Watching your own training
#
# Where is *your* network: below the edge of stability, at it, beyond? `eoslib.watch` takes the observables of this book along an ordinary
# training loop, of any network, loss and optimiser of PyTorch:
#
# ```python
# with eoslib.watch(model, loss_fn, (x, y), every=20) as w:
#     ...                       # your loop, as it is
# w.plot()
# ```
#
# It looks at every 20th step of the optimiser, on the examples `(x, y)`, and changes nothing: parameters, buffers, gradients and random
# numbers have the bits that they would have without. This page is such a loop, executed when the book was built, around a network that
# knows nothing of this library.

# %% tags=["parameters"]
n: int = 256
steps: int = 60
step_size: float = 0.3
batch_size: int = 128
every: int = 5
seed: int = 0

# %% [markdown]
# ## A residual network as one finds it
#
# With batch normalisation, operations in place and dropout, in the manner of torchvision; and 8 × 8 images of digits.

# %%
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy


class BasicBlock(nn.Module):
    def __init__(self, planes_in, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        conv = nn.Conv2d(planes_in, planes, 1, stride, bias=False)
        self.downsample = nn.Sequential(conv, nn.BatchNorm2d(planes))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.relu(out)


def resnet(num_classes=10):
    stages = BasicBlock(1, 8, 2), BasicBlock(8, 16, 2)
    head = nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, num_classes)
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), *head)


images, digits = load_digits(return_X_y=True)
x = torch.tensor(images[:n] / 16 - 0.3).float().view(-1, 1, 8, 8)
y = torch.tensor(digits[:n])

# %% [markdown]
# ## The loop, watched
#
# Three lines are new: the import, the `with`, the picture. On request there is more to see; here `BatchSharpness`, the curvature
# that minibatches see along their own gradients.

# %%
import eoslib
from eoslib.measure.stochastic_curvature import BatchSharpness


def train(model, optimiser):
    for _ in range(steps * batch_size // n):
        for chosen in torch.randperm(n).split(batch_size):
            optimiser.zero_grad()
            cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimiser.step()


torch.manual_seed(seed)
model = resnet()
optimiser = torch.optim.SGD(model.parameters(), lr=step_size)
also = [BatchSharpness(batch_size=batch_size, minibatches=4, every=every)]
with eoslib.watch(model, cross_entropy, (x, y), every=every, also=also) as w:
    train(model, optimiser)

# %% [markdown]
# ## What there is to see
#
# The sharpness rises at first, past the curvature that gradient descent with this step size endures (dashed), and then falls, as
# it does once cross-entropy has fitted its examples. After the first steps relative progress is far from the $-1$ of small steps: much of each step
# goes to and fro. Where the curve of the sharpness stays far below the dashed line, the classical theory applies, and a larger step size
# may well be faster; where it stays at the line, the step size decides about the curvature, not the other way round.

# %% tags=["hide-input"]
caption = f"A ResNet on {n} images of digits, minibatches of {batch_size}, at every {every} steps: loss on all images; sharpness, batch sharpness "
caption += "and directional smoothness, dashed the largest sharpness that the optimiser endures; relative progress."
w.plot(caption=caption, alt="Three panels against the step. The loss falls, the sharpness rises beyond the dashed line and falls back below it, relative progress stays between minus one and zero.")

# %% [markdown]
# What was measured is a labelled table, as that of each run of this book; `w.save("watched.nc")` keeps it.

# %%
observed = ["loss", "accuracy", "sharpness", "threshold", "batch_sharpness"]
w.trace[observed].to_pandas().reset_index().style.hide().format(precision=3)

# %% [markdown]
# ## It is the same training
#
# The same once more, unwatched: every parameter and every running statistic has the same bits.

# %%
torch.manual_seed(seed)
unwatched = resnet()
train(unwatched, torch.optim.SGD(unwatched.parameters(), lr=step_size))
after = unwatched.state_dict()
same = [torch.equal(tensor, after[name]) for name, tensor in model.state_dict().items()]
assert all(same)
print(f"{sum(same)} of {len(same)} tensors have the same bits")

# %% [markdown]
# ## What it takes, and other optimisers
#
# A look costs two gradients on the examples and the few products with the Hessian that the search for the largest eigenvalue needs; the
# last eigenvector is where the next search begins. `w.trace.attrs` counts them. So a few hundred to a few thousand examples do; of a `DataLoader`,
# say how many: `eoslib.watch(model, loss_fn, loader, examples=1000)`.
#
# The dashed line is the optimiser's own: $2/\eta$ of gradient descent, $2(1+\beta)/\eta$ with momentum $\beta$, $2(1+\beta)/((1+2\beta)\eta)$ with Nesterov's. Of Adam, AdamW and RMSprop
# the *preconditioned* sharpness $\lambda_{\max}(P^{-1/2}\nabla^2f\,P^{-1/2})$ is measured instead, which Adam with $\beta_1=0.9$ holds at $38/\eta$. A learning rate that a scheduler changes is followed.
#
# The loss is measured as a function of the parameters: dropout is off, and batch normalisation takes the statistics of all examples.
# A loss with an operation that PyTorch cannot differentiate twice is refused by a message that names the operation.

# %%
w.trace.attrs
