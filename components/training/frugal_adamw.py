"""AdamW in fewer bytes: moments of 8 bits, and bfloat16 weights that round stochastically.

K blocks, B numbers of a block.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.keyed_random import generator

BLOCK = 256  # numbers that share one scale
SCALE = "_scale"  # after the name of a moment, in the optimizer's state


class FrugalAdamW(torch.optim.Optimizer):
    """AdamW, computed in float32 for one parameter at a time, whatever its numbers are stored in.

    State of a parameter: `step`, `exp_avg` (the mean gradient) and `rms` (the root of its mean
    square). With `eight_bits`, matrices keep both as codes (see `pack`), with `exp_avg_scale` and
    `rms_scale`; vectors keep float32. A bfloat16 parameter is rounded by noise that depends only on
    the seed, the parameter's number and its step: the same on every rank and after a resume, and in
    any order of the parameters.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
        eight_bits: bool = False,
        seed: int = 0,
    ) -> None:
        """Make the optimizer. Raises: ValueError if a parameter is a shard (DTensor)."""
        whole = list(parameters)
        check_is_whole(whole)
        super().__init__(whole, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self.eps, self.eight_bits, self.seed = eps, eight_bits, seed
        self._numbers = {parameter: number for number, parameter in enumerate(whole)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad.float(), group)

    def _change(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        # A resumed state was put where the parameter is; reading a count from a GPU waits for it.
        state["step"] = state.get("step", torch.tensor(0.0)).cpu() + 1
        step = int(state["step"])
        rate, (beta1, beta2) = group["lr"], group["betas"]
        mean = self._read(parameter, "exp_avg").lerp_(gradient, 1 - beta1)
        rms = self._read(parameter, "rms")
        rms.square_().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2).sqrt_()
        changed = parameter.float() * (1 - rate * group["weight_decay"])
        denominator = (rms / (1 - beta2**step) ** 0.5).add_(self.eps)
        changed.addcdiv_(mean, denominator, value=-rate / (1 - beta1**step))
        self._write(parameter, "exp_avg", mean)
        self._write(parameter, "rms", rms)
        if parameter.dtype == torch.bfloat16:
            changed = round_stochastically(changed, self._noise(parameter, step))
        parameter.copy_(changed)

    def _is_packed(self, parameter: nn.Parameter) -> bool:
        return self.eight_bits and parameter.dim() > 1

    def _read(self, parameter: nn.Parameter, name: str) -> Tensor:
        """Return a moment in float32, zeros before the first step; it may be changed in place."""
        state = self.state[parameter]
        if name not in state:
            return torch.zeros_like(parameter, dtype=torch.float32)
        if self._is_packed(parameter):
            return unpack(state[name], state[name + SCALE], parameter.shape)
        moment: Tensor = state[name]
        return moment

    def _write(self, parameter: nn.Parameter, name: str, moment: Tensor) -> None:
        state = self.state[parameter]
        if self._is_packed(parameter):
            codes = torch.uint8 if name == "rms" else torch.int8
            state[name], state[name + SCALE] = pack(moment, codes)
        else:
            state[name] = moment

    def _noise(self, parameter: nn.Parameter, step: int) -> torch.Generator:
        name = f"parameter {self._numbers[parameter]}"
        drawn = generator(self.seed, name, step, "stochastic rounding").integers(2**63)
        return torch.Generator(parameter.device).manual_seed(int(drawn))


def check_is_whole(parameters: Iterable[nn.Parameter]) -> None:
    """Raise ValueError if a parameter is split over GPUs: a block must lie on one of them."""
    from torch.distributed.tensor import DTensor  # half a second, which few need

    if any(isinstance(parameter, DTensor) for parameter in parameters):
        raise ValueError(
            "algorithm = adamw-8bit and weights = bf16 need whole parameters, these are sharded: "
            "set optimization.algorithm to adamw and optimization.weights to float32, for the "
            "discriminator too"
        )


def pack(values: Tensor, codes: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return codes_KB of 8 bits and scale_K, in float32, of values of any shape.

    A block's largest magnitude is its scale, and codes are the roots of the shares in it: small
    numbers have finer steps. `int8` has codes for -127 to 127, of signed values. `uint8` has codes
    for 1 to 255: what a step is divided by must not become 0.
    """
    values_KB = F.pad(values.flatten(), (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scale_K1 = values_KB.abs().amax(dim=1, keepdim=True)
    share_KB = values_KB / scale_K1.clamp_min(torch.finfo(torch.float32).tiny)
    codes_KB = share_KB.abs().sqrt_().mul_(torch.iinfo(codes).max).round_()
    if codes == torch.uint8:
        codes_KB.clamp_min_(1)
    return codes_KB.copysign_(share_KB).to(codes), scale_K1.flatten()


def unpack(codes_KB: Tensor, scale_K: Tensor, shape: torch.Size) -> Tensor:
    """Return the values of `pack` in float32."""
    root_KB = codes_KB.float().div_(torch.iinfo(codes_KB.dtype).max)
    values_KB = root_KB.abs().mul_(root_KB).mul_(scale_K[:, None])
    return values_KB.flatten()[: shape.numel()].view(shape)


def round_stochastically(values: Tensor, noise: torch.Generator) -> Tensor:
    """Round float32 to one of the two bfloat16 beside it; the mean of many is the value itself.

    bfloat16 is the upper half of float32: random bits are added to the lower half, which is cut.
    """
    bits = torch.randint(
        1 << 16, values.shape, generator=noise, device=values.device, dtype=torch.int32
    )
    bits.add_(values.contiguous().view(torch.int32)).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).to(torch.bfloat16)
