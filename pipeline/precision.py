"""What the frozen language model computes in; the words of recipes and commands for it."""

from __future__ import annotations

from typing import Literal

LanguagePrecision = Literal["float32", "bfloat16", "int8", "fp8"]
EIGHT_BITS = ("int8", "fp8")
# By precision, the least CUDA compute capability whose tensor cores multiply such numbers: Turing; Ada and Hopper.
LEAST_CAPABILITY = {"int8": (7, 5), "fp8": (8, 9)}

PRECISION_DESCRIPTION = (
    "arithmetic; bfloat16 on a GPU. int8 and fp8: bfloat16 with 8-bit products in the language model"
)


def activations(precision: str) -> str:
    """Return the dtype's name of what is computed around the products: bfloat16 where these have 8 bits."""
    return "bfloat16" if precision in EIGHT_BITS else precision


def why_not_on(precision: str, device: str) -> str:
    """Return why a device, as torch names it, cannot compute in a precision, with the way out; empty: it can."""
    if precision not in LEAST_CAPABILITY or not device.startswith("cuda"):
        return ""
    import torch

    least, capability = LEAST_CAPABILITY[precision], torch.cuda.get_device_capability(device)
    if capability >= least:
        return ""
    wanted, here = (".".join(map(str, each)) for each in (least, capability))
    name = torch.cuda.get_device_name(device)
    return (
        f"{precision} needs a GPU of compute capability {wanted}, and {device}, a {name}, has {here}; choose "
        f"{'int8 or ' * (precision == 'fp8')}bfloat16 as precision"
    )
