"""The device that a model runs on: whether it is there, and moving a model to it."""

from __future__ import annotations

import torch
from torch import nn

from fp8scope.errors import BadInput, Missing, one_line


def check_device(device: str) -> None:
    """Raise BadInput for what is no device to torch, Missing for one that is not here."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"there is no device {device}", _usable_devices()) from error
    if wanted.type == "meta":
        raise BadInput("on the device meta there are no numbers", _usable_devices())
    try:
        torch.zeros(1, dtype=torch.float64, device=wanted)  # sums are kept in float64
    except (RuntimeError, AssertionError, TypeError) as error:
        raise Missing(
            f"cannot use device {device}: {one_line(error)}", _usable_devices()
        ) from error


def _usable_devices() -> str:
    found = torch.accelerator.current_accelerator(check_available=True)
    others: list[str] = []
    if found and found.type != "mps":  # has no float64
        others = [f"{found.type}:{i}" for i in range(torch.accelerator.device_count())]
    return f"this torch can use: {', '.join(['cpu', *others])}; give one with --device"


def to_device(model: nn.Module, device: str) -> nn.Module:
    """Move the model. Raises Missing where the device has no room for it."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise Missing(
            f"cannot move the model to {device}: {one_line(error)}", "use --device cpu"
        ) from error
