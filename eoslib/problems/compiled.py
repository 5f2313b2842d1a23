"""Plain functions, such as a landscape's gradient, made machine code by Numba, and loops of it on several threads."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import CellType, FunctionType

import torch


@functools.cache
def compiled(function: Callable) -> Callable:
    """A plain function compiled, together with the plain functions that it calls. Numba is imported here: a GPU does
    without it. Where all calls vanish into a loop over points (`forceinline`), it runs on vectors. Dividing by zero
    gives what IEEE 754 says, no exception."""
    import numba

    def known(value):
        return compiled(value) if isinstance(value, FunctionType) else value

    names = {k: known(v) for k, v in function.__globals__.items() if k in function.__code__.co_names}
    cells = tuple(CellType(known(cell.cell_contents)) for cell in function.__closure__ or ())
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    return numba.njit(forceinline=True, error_model="numpy")(copy)


def in_shares(advance: Callable[[slice], None], n: int, share: int) -> None:
    """Call a loop that holds no lock on each `share` of n points, on as many threads as PyTorch uses."""
    shares, threads = [slice(begin, begin + share) for begin in range(0, n, share)], torch.get_num_threads()
    if min(len(shares), threads) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(advance, shares))
    else:  # of many small calls a pool would take most of the time
        for part in shares:
            advance(part)
