"""A pretend accelerator, on which device code is tested without a device.

Inside `with Accelerator() as device:` tensors may be created on, and moved to, `DEVICE`. They keep their numbers in
CPU memory and are computed by the CPU's own kernels, but they are strict as a GPU's are: what mixes them with a tensor
of the CPU raises RuntimeError, a number is read from them by a counted transfer only, and they have no NumPy view.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")

DEVICE = torch.device("pretend:0")

# For a device without a kernel of its own PyTorch would write this one out in simpler ones, in other last bits than
# the CPU's. Named as the device's, it arrives below as one operation.
_kernels = torch.library.Library("aten", "IMPL")
_kernels.impl("silu_backward", lambda gradient, x: gradient, "PrivateUse1")

# The host waits for these although their result may stay on the device: how large it is, or whether the
# decomposition succeeded, must be known before anything can follow.
WAITING = {
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2", "bincount",
    "_linalg_eigh", "_linalg_svd", "_linalg_eigvals", "linalg_eig", "_linalg_check_errors",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
RESHAPING_IN_PLACE = {"unsqueeze_", "squeeze_", "t_", "transpose_", "swapdims_", "swapaxes_", "as_strided_"}


class DeviceTensor(Tensor):
    """A tensor of the pretend device. memory: the CPU tensor that holds its numbers."""

    @staticmethod
    def __new__(cls, memory: Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, memory.size(), strides=memory.stride(), storage_offset=memory.storage_offset(), dtype=memory.dtype,
            device=DEVICE, storage_size=memory.untyped_storage().nbytes(),
        )  # fmt: skip

    def __init__(self, memory: Tensor):
        self.memory = memory

    def __repr__(self, **_):
        return f"DeviceTensor({self.memory})"

    def tolist(self):
        """As of any tensor; PyTorch refuses it to subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.autograd.grad:
            _refuse_vectors_of_the_cpu(*args, **kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs or {})
        Accelerator.raise_refused()
        return result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a tensor of {DEVICE}, which exists only inside `with Accelerator()`")


class Accelerator(TorchDispatchMode):
    """While entered, there is a device. transfers: how often the host waited for it so far."""

    refused: RuntimeError | None = None  # in a backward pass, which it would end together with the process

    @classmethod
    def raise_refused(cls) -> None:
        """Raise what was refused in the backward pass that has just ended."""
        refused, cls.refused = cls.refused, None
        if refused:
            raise refused

    def __init__(self):
        super().__init__()
        self.transfers = 0

    def __enter__(self):
        # In the caller's thread, as on the CPU, and not in one of the device's.
        self._threads = torch.autograd.set_multithreading_enabled(False)
        self._threads.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._threads.__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        if name == "copy_":
            return self._copy(*args[:2])
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        here = any(isinstance(x, DeviceTensor) for x in tensors)
        asked = kwargs.get("device")
        there = here if asked is None else torch.device(asked).type == DEVICE.type
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if name == "_to_copy":
            self.transfers += here and not there
        elif here:
            try:
                _refuse_others(name, func, args, tensors)
            except RuntimeError as error:
                if torch._C._current_graph_task_id() == -1:
                    raise
                Accelerator.refused = error
            self.transfers += name in WAITING or _selects(name, args)
        if there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: a generator of the CPU draws no numbers on {DEVICE}")
        result = func(*_each(_memory, args), **{name: _each(_memory, value) for name, value in kwargs.items()})
        if name in RESHAPING_IN_PLACE and here:
            with torch._C._DisableTorchDispatch():  # the outside must take the shape of the inside
                args[0].as_strided_(args[0].memory.size(), args[0].memory.stride(), args[0].memory.storage_offset())
        if not there:
            return result
        given = {id(x.memory): x for x in tensors if isinstance(x, DeviceTensor)}  # an operation in place returns one

        def outside(x):
            if not isinstance(x, Tensor):
                return x
            return given[id(x)] if id(x) in given else DeviceTensor(x)

        return _each(outside, result)

    def _copy(self, target: Tensor, source: Tensor) -> Tensor:
        self.transfers += isinstance(source, DeviceTensor) and not isinstance(target, DeviceTensor)
        _memory(target).copy_(_memory(source))
        return target


def _memory(x):
    return x.memory if isinstance(x, DeviceTensor) else x


def _tensors(values: Iterable) -> Iterator[Tensor]:
    """Those among an operation's arguments, alone or in a list."""
    for x in values:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (list, tuple)):
            yield from _tensors(x)


def _each(of: Callable, x):
    """An operation's argument or result, or of a list what it holds, changed; PyTorch's own functions for that would
    take half of the device's time."""
    return type(x)([_each(of, y) for y in x]) if isinstance(x, (list, tuple)) else of(x)


def _refuse_vectors_of_the_cpu(outputs, inputs, grad_outputs=None, *_, **__) -> None:
    """PyTorch looks whether a product's vector is on the device of the function, except of subclasses: there the
    process would end."""
    for output, vector in zip(
        *([x] if isinstance(x, Tensor) else x or [] for x in (outputs, grad_outputs)), strict=False
    ):
        if isinstance(output, DeviceTensor) and isinstance(vector, Tensor) and not isinstance(vector, DeviceTensor):
            raise RuntimeError(f"grad: a vector of shape {tuple(vector.shape)} on the CPU met one on {DEVICE}")


def _refuse_others(name: str, func, args: tuple, tensors: list[Tensor]) -> None:
    """Raise if an operation on the device has an operand on the CPU that CUDA would not take there, either.

    It takes indices into a tensor of its own, and a single number where the operation goes number by number.
    """
    into_device = name in INDEXING and isinstance(args[0], DeviceTensor)
    indices = [id(x) for x in args[1]] if into_device else []
    numbers = torch.Tag.pointwise in func.tags or into_device
    for x in tensors:
        if not (isinstance(x, DeviceTensor) or id(x) in indices or (numbers and x.dim() == 0)):
            raise RuntimeError(f"{name}: a tensor of shape {tuple(x.shape)} on the CPU met one on {DEVICE}")


def _selects(name: str, args: tuple) -> bool:
    """Whether a mask on the device selects so many numbers that only the device knows."""
    if name not in INDEXING or ("put" in name and args[2].dim() == 0):
        return False
    return any(isinstance(x, DeviceTensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1])
