"""Precision: the arithmetic selected by `amp` on a device, autocast, TF32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from model.backbone import Output

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Names in torch.cpu.get_capabilities of native arithmetic, on x86 and on ARM. Without it each
# operation is emulated.
CPU_ARITHMETIC = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def has_arithmetic(kind: str, device: torch.device) -> bool:
    """Return whether a device has native arithmetic of `kind` (bf16 or fp16)."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in CPU_ARITHMETIC[kind])
    if device.type == "cuda" and kind == "bf16":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def amp_kind(amp: str, device: torch.device) -> str:
    """Return off, bf16 or fp16: `auto` is bf16 if the device has native bf16, else off."""
    if amp == "auto":
        return "bf16" if has_arithmetic("bf16", device) else "off"
    return amp


def describe_amp(amp: str, device: torch.device) -> str:
    """Return the log line for `amp`: the kind used, and a warning if it is emulated.

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


def autocast(amp: str, device: torch.device) -> AbstractContextManager:
    """Return the context of `amp`: a null context, or autocast to bf16 or fp16."""
    kind = amp_kind(amp, device)
    return nullcontext() if kind == "off" else torch.autocast(device.type, DTYPES[kind])


def set_tf32(allowed: bool) -> None:
    """Allow TF32 in float32 matrix products and convolutions on GPUs, or not."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed  # torch's own default is True


class Joined(torch.autograd.Function):
    """Tensors as they are; as soon as one of them has a gradient all have, if of zeros.

    DistributedDataParallel waits for the gradients of all parameters, also of those whose outputs
    the loss does not use.
    """

    @staticmethod
    def forward(ctx, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients


class Float32Outputs(nn.Module):
    """A network under autocast whose `Output` is converted to float32.

    Autocast is inside of it, because the threads of DataParallel do not inherit its kind. Whichever
    outputs the loss uses, all parameters have gradients.
    """

    def __init__(self, model: nn.Module, amp: str) -> None:
        super().__init__()
        self.model, self.amp = model, amp

    def forward(self, clips: Tensor) -> Output:
        with autocast(self.amp, clips.device):
            logits, features, extra = self.model(clips, outputs=True)
        if not extra:
            return Output(logits.float(), features.float(), extra)
        tensors = (value.float() for value in (logits, features, *extra.values()))
        logits, features, *values = Joined.apply(*tensors)
        return Output(logits, features, dict(zip(extra, values)))
