"""The way of a number from the device to the host."""

from collections.abc import Mapping

import torch
from torch import Tensor


def numbers(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """The same with each tensor of one number as that number. Those on a device come over together: reading one alone
    waits until the device has done all that it was given."""
    away = [name for name, value in values.items() if isinstance(value, Tensor) and value.device.type != "cpu"]
    over = torch.stack([values[name].double() for name in away]).tolist() if away else []
    here = dict(values) | dict(zip(away, over, strict=True))
    return {name: value.item() if isinstance(value, Tensor) else value for name, value in here.items()}
