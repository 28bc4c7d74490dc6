"""How exactly a device computes inside a block: TF32, bfloat16, or plain float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from pipeline.errors import ConfigError

Precision = Literal["fp32", "bf16"]


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ConfigError for bfloat16 on anything but CUDA."""
    if precision == "bf16" and device.type != "cuda":
        raise ConfigError(f"precision 'bf16' on '{device}': it needs CUDA. Use 'fp32'.")


@contextmanager
def inference_precision(device: torch.device, *, precision: Precision, allow_tf32: bool) -> Iterator[None]:
    """Inference mode; on CUDA with autocast for "bf16", and with TF32 switched as asked and back again after.

    On a CPU both are without effect: its float32 is exact, and bfloat16 there is not faster.
    """
    if device.type != "cuda":
        with torch.inference_mode():
            yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = allow_tf32
    try:
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
