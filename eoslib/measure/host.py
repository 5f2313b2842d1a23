"""The way of a number from the device to the host."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each tensor of one number as a float; what is no tensor stays.

    Those of one device come over together: reading one alone waits until the device has done all that it was given.
    """
    by_device: dict[torch.device, list[str]] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            by_device.setdefault(value.device, []).append(name)
    floats = {}
    for names in by_device.values():
        stacked = torch.stack([values[name].detach().double() for name in names])
        floats |= zip(names, stacked.tolist(), strict=True)
    return dict(values) | floats
