"""How the processes of a training share its networks: each has all of them, or each a shard.

`ddp`: every process has all weights; gradients are averaged after a step's last backward pass.
`fsdp`: every process has a part of each weight, its gradient and its moments (PyTorch's FSDP2). A
block's weights are gathered before it computes, and freed after. Its gradients are averaged after
every backward pass: to wait for the last one would keep whole gradients on every GPU.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from components.weights.precision import Precision, settle

Parallel = Literal["ddp", "fsdp"]


def replicated(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module with gradients averaged over all ranks, and the weights of rank 0."""
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        forward_sync_buffers=False,  # nothing here changes them
        gradient_as_bucket_view=True,
        # Not only for unused parameters: without it, DDP rearranges its buckets after the first
        # backward pass. Three or more ranks add in an order that depends on the place in a bucket,
        # so the first step after a resume would differ in the last bits.
        find_unused_parameters=True,
    )


@dataclass(frozen=True)
class Sharding:
    """Shards networks over all ranks, also over one. `torch.distributed` must be initialised.

    offload: keeps weights, gradients and moments in the host's memory; the optimizer runs there.
    """

    device: torch.device
    precision: Precision = "float32"
    offload: bool = False

    def shard(self, network: nn.Module, blocks: Iterable[nn.Module] = ()) -> None:
        """Shard a network, which must be called as a whole, with each block as a unit of its own.

        Every rank holds the same network. It is settled on the device unit by unit, so no GPU ever
        holds all of it.
        """
        # Always freed after the forward pass: whoever freezes weights finds the sharded ones.
        mesh = DeviceMesh.from_group(dist.group.WORLD, self.device.type)  # type: ignore[arg-type]
        for block in blocks:
            settle(block.modules(), self.precision, self.device)
            fully_shard(
                block,
                mesh=mesh,
                reshard_after_forward=True,
                mp_policy=self._gathered(),
                offload_policy=self._place(),
            )
        settle(unsharded(network), self.precision, self.device)
        sharded = fully_shard(
            network, mesh=mesh, reshard_after_forward=True, offload_policy=self._place()
        )
        # FSDP decides now in which type it averages gradients: while what trains is not frozen.
        sharded.unshard()
        sharded.reshard()

    def _gathered(self) -> MixedPrecisionPolicy:
        """Say in which type a block's weights are gathered; autocast would round them anyway."""
        if self.precision == "float32":
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )

    def _place(self) -> OffloadPolicy:
        if not self.offload:
            return OffloadPolicy()
        return CPUOffloadPolicy(pin_memory=self.device.type == "cuda")


def is_sharded(module: nn.Module) -> bool:
    """Return whether the module, or a part of it, is sharded."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def move_rest(module: nn.Module, device: torch.device) -> None:
    """Move what is not sharded; sharded parts are where they belong, perhaps in host memory."""
    if not is_sharded(module):
        module.to(device)
        return
    for part in unsharded(module):
        for parameter in part.parameters(recurse=False):
            parameter.data = parameter.data.to(device)
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))


def check_trained(module: nn.Module) -> None:
    """Raise ValueError if something trains outside the shards: no one would average its gradient.

    The module is one that is sharded.
    """
    outside = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not isinstance(parameter, DTensor)
    ]
    if outside:
        raise ValueError(
            f"parallel: fsdp shards the generator, the condition and the discriminator, but "
            f"{outside[0]} and {len(outside) - 1} more train outside of them: set parallel: ddp"
        )


def whole_tensors(module: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
    """Return a sharded module's tensors in host memory on rank 0, nothing on other ranks.

    All ranks must call it. `trained_only` leaves frozen parameters out.
    """
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only
    )
    found = get_model_state_dict(module, options=options)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def whole_number(value: Tensor, device: torch.device) -> Tensor:
    """Return a number that ranks may have parts of, such as a gradient's norm, on the device."""
    if isinstance(value, DTensor):
        # On the device first: offloaded parts are in host memory, where NCCL cannot add them.
        local = value.to_local().to(device)
        value = DTensor.from_local(local, value.device_mesh, value.placements, run_check=False)
        return value.full_tensor()
    return value.to(device)


def unsharded(module: nn.Module) -> Iterator[nn.Module]:
    """Return the module and those below it, but for what is sharded."""
    if isinstance(module, FSDPModule):
        return
    yield module
    for child in module.children():
        yield from unsharded(child)
