"""Memory that is used again."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from components.backbones import scratch as module
from components.backbones.scratch import scratch


def test_a_name_is_the_same_memory_in_one_thread_until_more_is_needed() -> None:
    first = scratch("test", 4, 6)
    assert scratch("test", 5).data_ptr() == first.data_ptr()
    assert scratch("other", 5).data_ptr() != first.data_ptr()
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(scratch, "test", 5).result().data_ptr() != first.data_ptr()
    larger = scratch("test", 100)
    assert larger.shape == (100,)
    assert scratch("test", 4, 6).data_ptr() == larger.data_ptr()


def test_memory_that_inference_made_can_be_written_outside_of_it() -> None:
    with torch.inference_mode():
        scratch("made there", 3)
    scratch("made there", 3).fill_(1)


def test_what_only_a_large_batch_needs_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    kept = scratch("batch", 10)
    assert scratch("batch", 2, 6).data_ptr() != kept.data_ptr()
    assert scratch("batch", 10).data_ptr() == kept.data_ptr()
