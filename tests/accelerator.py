"""A pretend accelerator, on which device code is tested without a device.

Inside `with Accelerator() as device:` tensors may be created on, and moved to, `DEVICE`. They keep their numbers in
CPU memory and are computed by the CPU's own kernels, but they are strict as a GPU's are: what mixes them with a tensor
of the CPU raises RuntimeError, a number is read from them by a counted transfer only, and they have no NumPy view.
"""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
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
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a tensor of {DEVICE}, which exists only inside `with Accelerator()`")


class Accelerator(TorchDispatchMode):
    """While entered, there is a device. transfers: how often the host waited for it so far."""

    def __init__(self):
        super().__init__()
        self.transfers = 0

    def __enter__(self):
        # An exception in a device's own autograd thread would end the process: all happens in the caller's thread.
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
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = any(isinstance(x, DeviceTensor) for x in tensors)
        asked = kwargs.get("device")
        there = here if asked is None else torch.device(asked).type == DEVICE.type
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if name == "_to_copy":
            self.transfers += here and not there
        elif here:
            _refuse_others(name, func, args, tensors)
            self.transfers += name in WAITING or _selects(name, args)
        if there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: a generator of the CPU draws no numbers on {DEVICE}")
        result = func(*pytree.tree_map(_memory, args), **pytree.tree_map(_memory, kwargs))
        if name in RESHAPING_IN_PLACE and here:
            with torch._C._DisableTorchDispatch():  # the outside must take the shape of the inside
                args[0].as_strided_(args[0].memory.size(), args[0].memory.stride(), args[0].memory.storage_offset())
        if not there:
            return result
        given = {id(x.memory): x for x in tensors if isinstance(x, DeviceTensor)}  # an operation in place returns one
        return pytree.tree_map_only(Tensor, lambda x: given[id(x)] if id(x) in given else DeviceTensor(x), result)

    def _copy(self, target: Tensor, source: Tensor) -> Tensor:
        self.transfers += isinstance(source, DeviceTensor) and not isinstance(target, DeviceTensor)
        _memory(target).copy_(_memory(source))
        return target


def _memory(x):
    return x.memory if isinstance(x, DeviceTensor) else x


def _refuse_vectors_of_the_cpu(outputs, inputs, grad_outputs=None, *_, **__) -> None:
    """PyTorch looks whether a product's vector is on the device of the function, except of subclasses: there the
    process would end."""
    for output, vector in zip(pytree.tree_leaves(outputs), pytree.tree_leaves(grad_outputs), strict=False):
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
