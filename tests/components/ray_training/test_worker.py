"""What a worker says of its end: what another try would not change ends the training by name."""

import errno
from collections.abc import Callable

import pytest
import torch
from safetensors import SafetensorError

from components.ray_training import attempt, worker
from components.ray_training.worker import LackError


def fill_a_disk_by_hand() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "checkpoint/state.json")


def fill_a_disk_with_tensors() -> None:
    # As safetensors says it on a file system that is full.
    raise SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )


def take_too_much_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee docs")


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (fill_a_disk_by_hand, r"a disk is full .*: free space where the checkpoints go"),
        (fill_a_disk_with_tensors, r"a disk is full .*: free space where the checkpoints go"),
        (take_too_much_memory, r"no memory left \(CUDA out of .*GiB\.\): .*bf16.*'hdrface plan'"),
    ],
)
def test_what_a_machine_lacks_is_told_with_what_to_do_and_tried_no_more(
    fail: Callable[[], None], told: str
) -> None:
    with pytest.raises(LackError, match=told) as raised, worker._mistakes_told():
        fail()
    end = attempt._about({0: RuntimeError("the other worker is gone"), 1: raised.value})
    assert end.how == "failed"
    assert end.said.startswith("worker 1: LackError:")
    assert fail.__name__ in end.said  # where


def test_another_error_stays_as_it_is_and_names_its_rank() -> None:
    error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output") as raised, worker._mistakes_told():
        raise error
    assert raised.value is error
    end = attempt._about({2: error})
    assert (end.how, end.said) == ("lost", "worker 2: [Errno 5] Input/output error")


def test_a_disk_that_is_full_while_a_checkpoint_is_stored_is_told_as_well() -> None:
    error = OSError(errno.ENOSPC, "Error writing bytes to file", "checkpoint/state.json")
    end = attempt._about({0: RuntimeError("the other worker is gone"), 1: error})
    assert end.how == "failed"
    assert end.said.startswith("worker 1: a disk is full")
    assert "free space where the checkpoints go" in end.said
