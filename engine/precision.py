"""Which arithmetic `amp` gives on a device: float32, bf16 or fp16."""

from __future__ import annotations

import torch

# What torch.cpu.get_capabilities calls a processor's own arithmetic, on x86 and on ARM. Without it
# the numbers are taken apart and put together for each operation.
CPU_ARITHMETIC = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def has_arithmetic(kind: str, device: torch.device) -> bool:
    """Return whether a device computes in `kind` (bf16 or fp16) itself."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in CPU_ARITHMETIC[kind])
    if device.type == "cuda" and kind == "bf16":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def amp_kind(amp: str, device: torch.device) -> str:
    """Return off, bf16 or fp16: `auto` is bf16 where the device computes in it, else off."""
    if amp == "auto":
        return "bf16" if has_arithmetic("bf16", device) else "off"
    return amp


def describe_amp(amp: str, device: torch.device) -> str:
    """Return what the log says of `amp`: the kind used, and a warning where it does not pay.

    (On two cores with AVX2 only, a step of ST-GCN++ took 32.8 s in bf16 and 2.4 s in float32.)
    """
    kind = amp_kind(amp, device)
    if amp == "auto":
        return f"amp {kind} (auto)"
    if kind != "off" and not has_arithmetic(kind, device):
        what = "processor" if device.type == "cpu" else "GPU"
        return (
            f"amp {kind}: this {what} has no {kind} arithmetic, so a step can take ten times as "
            "long as in float32; use --amp off, or --amp auto"
        )
    return f"amp {kind}"
