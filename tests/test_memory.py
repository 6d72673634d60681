"""Memory that comes back is used again, and never while somebody reads it."""

from __future__ import annotations

import threading

import torch

from hvs_aug import CandidateViews
from hvs_aug._memory import Recycled


def test_memory_comes_back_when_the_last_tensor_is_gone() -> None:
    memory = Recycled(count=2, size=2**20)
    first = memory.empty(1000, torch.float32)
    place, part = first.data_ptr(), first[10:20]
    del first
    assert memory.empty(1000, torch.float32).data_ptr() != place  # part still shares it
    del part
    assert memory.empty(900, torch.float32).data_ptr() == place
    assert memory.empty(400, torch.float32).data_ptr() != place  # less than half


def test_no_more_is_kept_than_allowed() -> None:
    memory = Recycled(count=3, size=5000)
    for sizes in ((100,) * 6, (4000, 2000), (9000,)):
        held = [memory.empty(size, torch.uint8) for size in sizes]
        del held
        assert len(memory._free) <= 3 and sum(map(len, memory._free)) <= 5000
    assert memory.empty(0, torch.float32).shape == (0,)


def test_threads_share_nothing() -> None:
    memory = Recycled(count=4, size=2**20)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            mine = memory.empty(500, torch.int64).fill_(number)
            if not bool((mine == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_views_that_are_kept_do_not_change() -> None:
    views, images = CandidateViews.preset("simclr", 32), torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    (kept,), _ = views(images)
    view, before = kept[1, 2], kept[1, 2].clone()
    del kept
    for _ in range(10):
        views(images)
    assert torch.equal(view, before)
