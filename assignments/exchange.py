"""How the two sides talk: dicts of numbers, strings and arrays of numbers, as a bounded JSON head and raw numbers.

The grader reads what untrusted code wrote, so nothing here is evaluated or unpickled, no size is believed before it is
compared with the bytes that are there, and no array is larger than those.
"""

import contextlib
import json
import math
import signal
from collections.abc import Iterator

import numpy as np

LIMIT = 16 * 2**20  # bytes that one submission may answer with, and that one of its files may have


class OutOfTime(BaseException):
    """Not an Exception, so that an `except Exception` in a loop does not swallow it."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Stop Python code that computes for longer, with `OutOfTime`; how busy the machine is does not matter."""

    def stop(*_):
        raise OutOfTime(f"computed for more than {seconds:g} seconds")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def pack(values: dict) -> bytes:
    """One message. A TypeError or a ValueError names the value that cannot be sent."""
    head, arrays = {}, []
    for name, value in values.items():
        if isinstance(value, str | bool | int | float):
            head[name] = value
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"{name} should be a number, a string or an array of numbers, not {type(value).__name__}")
        head[name] = {"dtype": array.dtype.str, "shape": array.shape}
        arrays.append(array)
    text = json.dumps(head).encode()
    size = sum(array.nbytes for array in arrays)
    if size > LIMIT or len(text) > LIMIT:
        raise ValueError(f"an answer of {max(size, len(text)):,} bytes is too large")
    return b"".join([len(text).to_bytes(8), size.to_bytes(8), text, *(array.tobytes() for array in arrays)])


def unpack(content: bytes) -> Iterator[dict]:
    """The messages, in order, up to one that is cut short; a ValueError where one is not what `pack` writes."""
    at = 0
    while at + 16 <= len(content):
        text, size = (int.from_bytes(content[at + i : at + i + 8]) for i in (0, 8))
        start, at = at + 16, at + 16 + text + size
        if at > len(content):
            return
        yield _message(content[start : start + text], content[start + text : at])


def _message(text: bytes, numbers: bytes) -> dict:
    try:
        head = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(head, dict):
        raise ValueError("not a dict")
    values, at = {}, 0
    for name, value in head.items():
        if isinstance(value, dict):
            dtype, shape = _declared(value)
            size = math.prod(shape) * dtype.itemsize
            if size > len(numbers) - at:
                raise ValueError(f"{name} is said to have {size} bytes, and has {len(numbers) - at}")
            array = np.frombuffer(numbers[at : at + size], dtype).reshape(shape)
            value, at = (array if shape else array.item()), at + size
        elif not isinstance(value, str | bool | int | float):
            raise ValueError(f"{name} is {value!r:.50}")
        values[name] = value
    return values


def _declared(value: dict) -> tuple[np.dtype, tuple[int, ...]]:
    match value:
        case {"dtype": str(code), "shape": list(shape)} if (
            len(code) <= 4 and len(shape) <= 32 and all(type(n) is int and 0 <= n <= LIMIT for n in shape)
        ):
            with contextlib.suppress(TypeError):
                dtype = np.dtype(code)
                if dtype.kind in "biufc":
                    return dtype, tuple(shape)
    raise ValueError(f"no array of numbers: {value!r:.50}")
