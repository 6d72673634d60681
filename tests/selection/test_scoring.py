"""The scoring forward: which modules it finds, how it groups, what it refuses, and that it leaves other processes alone."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from hvs_aug._check import HVSError
from hvs_aug.selection.scoring import find_modules, forward_slots, map_output, untraced

from .models import Counted, SmallResNet

CPU = torch.device("cpu")
GLOBAL_ENCODER = nn.Linear(2, 2)


def encode_globally(inputs: Tensor) -> Tensor:
    return GLOBAL_ENCODER(inputs)


def decorated(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)

    return inner


class Trainer:
    """Not a module itself."""

    def __init__(self) -> None:
        self.parts = {"encoder": nn.Linear(2, 2), "heads": [nn.Linear(2, 2)]}
        self.other = "nothing"

    def encode(self, inputs: Tensor) -> Tensor:
        return self.parts["heads"][0](self.parts["encoder"](inputs))

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.encode(inputs)


def test_find_modules_in_every_kind_of_callable() -> None:
    module, head, trainer = nn.Linear(2, 2), nn.Linear(2, 2), Trainer()
    inside = {trainer.parts["encoder"], trainer.parts["heads"][0]}
    found = {
        "module": (module, {module}),
        "bound method": (module.forward, {module}),
        "closure": (lambda inputs: head(module(inputs)), {module, head}),
        "default": (lambda inputs, network=module: network(inputs), {module}),
        "partial": (functools.partial(torch.nn.functional.linear, weight=module), {module}),
        "partial of a closure": (functools.partial(lambda network, inputs: head(network(inputs)), module), {module, head}),
        "global": (encode_globally, {GLOBAL_ENCODER}),
        "through a global function": (lambda inputs: encode_globally(inputs), {GLOBAL_ENCODER}),
        "nested function": (lambda inputs: (lambda: module(inputs))(), {module}),
        "decorated": (decorated(encode_globally), {GLOBAL_ENCODER}),
        "no_grad": (torch.no_grad()(encode_globally), {GLOBAL_ENCODER}),
        "compiled": (torch.compile(lambda inputs: head(inputs), backend="eager"), {head}),
        "containers": ((lambda networks: lambda inputs: networks)([{"a": module}, (head,)]), {module, head}),
        "object": (trainer, inside),
        "method of an object": (trainer.encode, inside),
        "closure over an object": (lambda inputs: trainer.encode(inputs), inside),
        "nothing": (torch.flatten, set()),
    }
    for name, (function, expected) in found.items():
        assert set(find_modules(function)) == expected, name


def test_find_modules_of_several_callables_keeps_each_once() -> None:
    module = nn.Linear(2, 2)
    assert find_modules(module, lambda inputs: module(inputs)) == (module,)


def test_one_forward_per_resolution_view_major() -> None:
    model = Counted(nn.Flatten())
    views = [torch.rand(2, 3, 1, 8, 8), torch.rand(4, 3, 1, 4, 4), torch.rand(1, 3, 1, 8, 8)]
    outputs = forward_slots(model, views)
    assert model.calls == [(9, 1, 8, 8), (12, 1, 4, 4)]
    for view, output in zip(views, outputs, strict=True):
        torch.testing.assert_close(output, view.flatten(2), rtol=0, atol=0)


def test_outputs_are_split_without_copying() -> None:
    kept = []
    views = [torch.rand(2, 3, 1, 4, 4), torch.rand(1, 3, 1, 4, 4)]
    outputs = forward_slots(lambda pixels: kept.append(pixels.flatten(1) * 2) or kept[0], views)
    assert outputs[0].data_ptr() == kept[0].data_ptr()
    assert outputs[1].untyped_storage().data_ptr() == kept[0].untyped_storage().data_ptr()


def test_slots_left_out_and_arguments() -> None:
    seen = []

    def model(pixels: Tensor, *arguments: Tensor) -> Tensor:
        seen.append([tuple(value.shape) for value in (pixels, *arguments)])
        return pixels.flatten(1)

    views = [torch.rand(2, 3, 1, 8, 8), None, torch.rand(4, 3, 1, 8, 8)]
    outputs = forward_slots(model, views, [(torch.zeros(2, 3, 5),), (), ()])
    assert seen == [[(6, 1, 8, 8), (6, 5)], [(12, 1, 8, 8)]]
    assert outputs[1] is None


@pytest.mark.parametrize("chunk", [1, 4, 5, 11, 12, 100])
def test_chunks_are_equal_parts_and_change_no_output(chunk: int) -> None:
    model = Counted(nn.Flatten())
    views = [torch.rand(4, 3, 1, 4, 4)]
    (output,) = forward_slots(model, views, chunk=chunk)
    torch.testing.assert_close(output, views[0].flatten(2), rtol=0, atol=0)
    counts = [shape[0] for shape in model.calls]
    assert sum(counts) == 12
    assert max(counts) <= chunk
    assert max(counts) - min(counts) <= 1


def test_structures_of_output() -> None:
    views = [torch.rand(2, 3, 1, 4, 4)]
    for chunk in (None, 4):
        (pair,) = forward_slots(lambda pixels: [pixels.flatten(1), pixels], views, chunk=chunk)
        assert isinstance(pair, tuple)
        assert [tuple(value.shape) for value in pair] == [(2, 3, 16), (2, 3, 1, 4, 4)]
        (named,) = forward_slots(lambda pixels: {"z": pixels.flatten(1)}, views, chunk=chunk)
        assert named["z"].shape == (2, 3, 16)
    doubled = map_output(lambda value: 2 * value, {"z": torch.ones(1)})
    assert doubled["z"].item() == 2


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda pixels: pixels.flatten(1)[:-1], "first axis is the 6 images of the call, got a float32 tensor of shape (5, 16)"),
        (lambda pixels: pixels.mean(), "first axis is the 6 images"),
        (lambda pixels: pixels.flatten(1).argmax(1), "floating-point outputs, got a int64 tensor"),
        (lambda pixels: "loss", "a tensor, or a tuple or dict of tensors, got str"),
        (lambda pixels: (pixels, None), "a tensor, or a tuple or dict of tensors, got NoneType"),
        (lambda pixels: (), "at least one tensor"),
        (lambda pixels: pixels.flatten(1).to("meta"), "outputs on cpu, where the images are"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(model, words: str) -> None:
    with pytest.raises(HVSError) as error:
        forward_slots(model, [torch.rand(2, 3, 1, 4, 4)])
    assert str(error.value).startswith("HardPairSampler(model): expected ")
    assert words in str(error.value)


def test_channels_last() -> None:
    seen = []
    views = [torch.rand(2, 3, 3, 8, 8)]
    forward_slots(lambda pixels: seen.append(pixels.is_contiguous(memory_format=torch.channels_last)) or pixels, views)
    forward_slots(
        lambda pixels: seen.append(pixels.is_contiguous(memory_format=torch.channels_last)) or pixels, views, channels_last=True
    )
    assert seen == [False, True]


def test_autocast_follows_the_caller_or_the_argument() -> None:
    module = nn.Linear(4, 4)
    inputs = torch.rand(2, 4)

    def dtype(argument: torch.dtype | None) -> torch.dtype:
        with untraced([module], CPU, autocast=argument):
            return module(inputs).dtype

    assert dtype(None) == torch.float32
    assert dtype(torch.bfloat16) == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dtype(None) == torch.bfloat16
        assert dtype(torch.float32) == torch.float32
        assert module(inputs).dtype == torch.bfloat16


def test_scoring_in_autocast_leaves_no_gradientless_weight_in_its_cache() -> None:
    """Where PyTorch caches a weight that is cast under no_grad, the copy has no gradient, and training would use that copy."""
    module = nn.Linear(4, 4)
    inputs = torch.rand(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with untraced([module], CPU):
            assert not torch.is_autocast_cache_enabled()
            module(inputs)
        assert torch.is_autocast_cache_enabled()
        module(inputs).float().sum().backward()
    assert module.weight.grad is not None


def test_a_compiled_model_still_has_gradients_after_scoring() -> None:
    model = SmallResNet()
    compiled = torch.compile(model, backend="aot_eager")
    pixels = torch.rand(4, 3, 8, 8)
    before = [value.clone() for value in model.buffers()]
    with untraced(find_modules(compiled), CPU):
        compiled(pixels)
    assert all(torch.equal(value, old) for value, old in zip(model.buffers(), before, strict=True))
    compiled(pixels).sum().backward()
    assert all(value.grad is not None for value in model.parameters())


@pytest.fixture
def one_process(tmp_path: Path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_ddp_wrapper_is_bypassed_and_as_before_after(one_process) -> None:
    model = nn.parallel.DistributedDataParallel(SmallResNet())
    calls = []
    model._sync_buffers = lambda: calls.append("broadcast")
    pixels = torch.rand(4, 3, 8, 8)
    state = {name: value for name, value in vars(model).items() if isinstance(value, (bool, int, float, str))}
    for scorer in (model, lambda inputs: model(inputs)):
        with untraced(find_modules(scorer), CPU):
            scorer(pixels)
    assert calls == []
    assert {name: value for name, value in vars(model).items() if name in state} == state
    assert "forward" not in vars(model)
    # In training it broadcasts, and its reducer averages.
    model(pixels).sum().backward()
    assert calls == ["broadcast"]
    assert all(value.grad is not None for value in model.parameters())


def test_syncbatchnorm_scores_with_local_statistics(one_process) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(plain))
    pixels = torch.rand(4, 3, 8, 8)
    with pytest.raises(ValueError, match="SyncBatchNorm"):
        synced(pixels)  # which on a CPU cannot synchronise at all
    with untraced([synced], CPU):
        output = synced(pixels)
    torch.testing.assert_close(output, plain(pixels), rtol=0, atol=0)
    assert "forward" not in vars(synced[0])


def _rank(rank: int, store: str, results: str) -> None:
    """Rank 1 scores, rank 0 does not; then both train. Gradients and buffers have to agree, and nobody may wait."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = SmallResNet()
    network.head[0].p = 0.0
    model = nn.parallel.DistributedDataParallel(network)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3), SmallResNet()))
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    for step in range(2):
        if rank == 1 or step == 1:
            with untraced(find_modules(model, synced), CPU):
                model(torch.rand(3 + rank, 3, 8, 8))
                synced(torch.rand(3 + rank, 3, 8, 8))
        model.zero_grad()
        model(pixels).square().mean().backward()
    torch.save([*(value.grad for value in network.parameters()), *network.buffers()], f"{results}/{rank}.pt")
    while not Path(f"{results}/{1 - rank}.pt").exists():  # gloo's barrier can fail where the other process has left it and is gone
        time.sleep(0.01)
    dist.destroy_process_group()


def test_ranks_that_do_not_score_keep_nobody_waiting(tmp_path: Path) -> None:
    workers = mp.spawn(_rank, (f"{tmp_path}/store", str(tmp_path)), nprocs=2, join=False)
    deadline = time.monotonic() + 90
    while not workers.join(timeout=1):
        assert time.monotonic() < deadline, "a process waits for another"
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    parameters = len(list(SmallResNet().parameters()))
    for first, second in zip(ranks[0][:parameters], ranks[1][:parameters], strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
