"""The arithmetic precision of the frozen language model, as named in recipes and commands."""

from __future__ import annotations

from typing import Literal

LanguagePrecision = Literal["float32", "bfloat16", "int8", "fp8"]
EIGHT_BITS = ("int8", "fp8")
# The least CUDA compute capability with tensor cores for a precision: Turing; Ada and Hopper.
LEAST_CAPABILITY = {"int8": (7, 5), "fp8": (8, 9)}

PRECISION_DESCRIPTION = (
    "arithmetic; bfloat16 on a GPU. int8 and fp8: bfloat16 with 8-bit products in the language model"
)


def activations(precision: str) -> str:
    """Return the name of the activations' dtype: bfloat16 with 8-bit products, else the precision."""
    return "bfloat16" if precision in EIGHT_BITS else precision


def why_not_on(precision: str, device: str) -> str:
    """Return why a device, by torch's name, does not support a precision, with a fix; empty if it does."""
    if precision not in LEAST_CAPABILITY or not device.startswith("cuda"):
        return ""
    import torch

    least, capability = LEAST_CAPABILITY[precision], torch.cuda.get_device_capability(device)
    if capability >= least:
        return ""
    required, actual = (".".join(map(str, version)) for version in (least, capability))
    name = torch.cuda.get_device_name(device)
    return (
        f"{precision} needs a GPU of compute capability {required}, and {device}, a {name}, has {actual}; choose "
        f"{'int8 or ' * (precision == 'fp8')}bfloat16 as precision"
    )
