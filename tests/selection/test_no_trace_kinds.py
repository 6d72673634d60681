"""Every kind of module, reached in every way, is afterwards as before: what runs is what is kept."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from hvs_aug._check import HVSError
from hvs_aug.selection import no_trace
from hvs_aug.selection.losses import CallableLoss, NTXentLoss
from hvs_aug.selection.no_trace import untraced
from hvs_aug.selection.reached import find_modules
from hvs_aug.selection.sampler import HardPairSampler

from .models import SmallResNet, images, pairs
from .test_no_trace import assert_same, state_of

CPU = torch.device("cpu")
WIDTH = 3 * 16 * 16


class Late(nn.Module):
    """Registers a buffer, a parameter, a submodule and a hook when it first runs, and fills places that were None."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("empty", None)
        self.register_parameter("bias", None)
        self.head: nn.Module | None = None
        self.add_module("norm", None)

    def forward(self, pixels: Tensor) -> Tensor:
        if self.empty is None:
            self.empty = pixels.flatten(1).mean(0)
            self.register_buffer("centre", pixels.flatten(1).mean(0))
            self.bias = nn.Parameter(torch.rand(4))
            self.scale = nn.Parameter(torch.rand(4))
            self.head = nn.Linear(WIDTH, 4)
            self.norm = nn.BatchNorm1d(4)
            self.register_forward_hook(lambda module, arguments, output: None)
            self.register_full_backward_hook(lambda module, given, made: None)
        return self.norm(self.head(pixels.flatten(1) - self.centre)) * self.scale + self.bias


class Buffers(nn.Module):
    """Changes buffers in every way that leaves their module's names as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("data", torch.zeros(WIDTH))
        self.register_buffer("grown", torch.zeros(0))
        self.register_buffer("shrunk", torch.arange(8.0))
        self.register_buffer("halved", torch.ones(4))
        self.register_buffer("viewed", torch.arange(6.0))
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.register_buffer("turned", torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("expanded", torch.arange(3.0).expand(4, 3))
        self.register_buffer("mask", torch.ones(1, dtype=torch.bool).expand(5))
        self.register_buffer("shared", self.number)

    def forward(self, pixels: Tensor) -> Tensor:
        self.data.data = 0.9 * self.data + pixels.flatten(1).mean(0)
        self.grown.resize_(WIDTH).copy_(pixels.flatten(1).amax(0))
        self.shrunk.resize_(2).zero_()
        self.halved.data = self.halved.half() * 2
        self.viewed.data = self.viewed.view(2, 3).t()
        self.number += 1
        self.turned.mul_(2)
        self.sparse = 2 * self.sparse
        return pixels.flatten(1) - self.data


class Deleting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.ones(1))
        self.register_buffer("second", torch.ones(2))

    def forward(self, pixels: Tensor) -> Tensor:
        del self.first
        return pixels.flatten(1)


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *layers)


def spectral() -> nn.Module:
    return flat(parametrizations.spectral_norm(nn.Linear(WIDTH, 8)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def old_norms() -> nn.Module:
    return flat(nn.utils.spectral_norm(nn.Linear(WIDTH, 8)), parametrizations.weight_norm(nn.Linear(8, 8)))


def observed() -> nn.Module:
    """Quantisation-aware training: fake quantisation with observers of ranges, of which some are resized."""
    from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver, qconfig

    del qconfig
    per_channel = FakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver, dtype=torch.qint8, qscheme=torch.per_channel_symmetric, ch_axis=1
    )
    return flat(nn.Linear(WIDTH, 8), FakeQuantize(MovingAverageMinMaxObserver), per_channel())


KINDS: dict[str, Callable[[], nn.Module]] = {
    "late": Late,
    "buffers": Buffers,
    "deleting": Deleting,
    "spectral norm": spectral,
    "observers": observed,
    "batch norm": lambda: flat(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 8)),
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.Flatten()),
}


def whole_state(model: nn.Module) -> dict[str, Any]:
    """Beside what ``state_of`` tells: where buffers lie, in what shape, and what there is at all."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        state[f"{name}.names"] = [list(entries) for entries in (module._buffers, module._parameters, module._modules)]
        state[f"{name}.hooks"] = [len(module._forward_hooks), len(module._backward_hooks)]
        for key, value in module._buffers.items():
            if value is not None:
                strides = None if value.is_sparse else value.stride()
                state[f"{name}.{key}"] = (id(value), tuple(value.shape), value.dtype, strides, value.to_dense().tolist())
    return state | {"all": sorted(state)}


def sampler_of(model: Any, **options: Any) -> HardPairSampler:
    return HardPairSampler(model, NTXentLoss(0.5), pairs(), generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_module_is_as_before(kind: str) -> None:
    torch.manual_seed(0)
    model = KINDS[kind]()
    twin = copy.deepcopy(model)
    before, plain = whole_state(model), state_of(model)
    sampler = sampler_of(lambda pixels: types.SimpleNamespace(deep=types.SimpleNamespace(net=model)).deep.net(pixels))
    for _ in range(2):
        sampler(images())
        assert whole_state(model) == before
        assert_same(state_of(model), plain)
    # Training goes on as it would have.
    outputs = [net(torch.ones(4, 3, 16, 16)) for net in (model, twin) if torch.manual_seed(1)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_would_leave_a_trace(kind: str) -> None:
    torch.manual_seed(0)
    model = KINDS[kind]()
    before = whole_state(model)
    with torch.no_grad():
        model(torch.rand(4, 3, 16, 16))
    assert whole_state(model) != before


REGISTRY: dict[str, nn.Module] = {}


class Trainer:
    def __init__(self, net: nn.Module) -> None:
        self.parts = types.SimpleNamespace(nets=[net])

    def encode(self, pixels: Tensor) -> Tensor:
        return self.parts.nets[0](pixels)


def through_registry(pixels: Tensor) -> Tensor:
    return globals()["REGISTRY"]["net"](pixels)


class Indirect(nn.Module):
    """A module that calls one that is none of its submodules."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.hidden = [net]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.hidden[0](pixels)


def functional(find: Callable[[], nn.Module]) -> Any:
    return lambda pixels: torch.func.functional_call(find(), dict(find().named_parameters()), (pixels,))


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda net: net,
    "forward": lambda net: net.forward,
    "two attributes deep": lambda net: Trainer(net).encode,
    "registry": lambda net: REGISTRY.update(net=net) or through_registry,
    "list in a closure": lambda net: (lambda nets: lambda pixels: nets[0](pixels))([net]),
    "in a module's list": Indirect,
    "made on the way": lambda net: lambda pixels: nn.Sequential(net)(pixels),
    "data parallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="aot_eager"),
    "compiled in place": lambda net: net.compile(backend="aot_eager") or Trainer(net).encode,
    "compiled inside": lambda net: Indirect(torch.compile(net, backend="aot_eager")),
    "compiled function": lambda net: torch.compile(lambda pixels: net(pixels), backend="aot_eager"),
    "functional call": lambda net: functional(lambda: net),
    "functional call in a list": lambda net: functional((lambda nets: lambda: nets[0])([net])),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_reached_in_any_way_is_as_before(way: str) -> None:
    torch.manual_seed(0)
    net = SmallResNet()
    model = WAYS[way](net)
    before = state_of(net)
    sampler = sampler_of(model)
    for _ in range(2):
        sampler(images())
        assert_same(before, state_of(net))
    model(torch.rand(4, 3, 16, 16)).sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
    assert net.stem[1].num_batches_tracked == 1


@pytest.mark.parametrize("is_found", [True, False])
def test_the_buffers_of_a_functional_call_are_as_before(is_found: bool) -> None:
    """A module that no search finds was left with the tensors of the call, and those of a call of a found one were updated."""
    net, other = SmallResNet(), SmallResNet()
    nets, before, passed = [net], state_of(net), dict(other.named_buffers()) | dict(other.named_parameters())
    given = {name: value.clone() for name, value in passed.items()}
    own = list(map(id, net.buffers()))
    model = (lambda x: torch.func.functional_call(net, passed, (x,))) if is_found else functional_of(nets, passed)
    sampler = sampler_of(model)
    for _ in range(2):
        sampler(images())
        assert_same(before, state_of(net))
        assert list(map(id, net.buffers())) == own
        assert all(torch.equal(value, given[name]) for name, value in passed.items())
    model(torch.rand(4, 3, 16, 16))
    assert passed["stem.1.num_batches_tracked"] == 1  # outside, the call updates them


def functional_of(nets: list[nn.Module], passed: dict[str, torch.Tensor]) -> Any:
    return lambda pixels: torch.func.functional_call(nets[0], passed, (pixels,))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 8))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return pixels.mean((-2, -1)) @ self.weight


def test_the_stacked_buffers_of_an_ensemble_are_as_before() -> None:
    nets = [Counting(), Counting()]
    weights, buffers = torch.func.stack_module_state(nets)

    def model(pixels: torch.Tensor) -> torch.Tensor:
        def one(weights: Any, buffers: Any) -> torch.Tensor:
            return torch.func.functional_call(nets[0], (weights, buffers), (pixels,))

        return torch.func.vmap(one)(weights, buffers).mean(0)

    sampler_of(model)(images())
    assert torch.equal(buffers["calls"], torch.zeros(2)) and nets[0].calls == 0
    model(torch.rand(4, 3, 16, 16))
    assert torch.equal(buffers["calls"], torch.ones(2))


def test_another_model_behind_the_same_function_is_kept_too() -> None:
    model = SmallResNet()
    sampler = sampler_of(lambda pixels: model(pixels))
    sampler(images())
    model = SmallResNet()
    before = state_of(model)
    sampler(images())
    assert_same(before, state_of(model))


@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(4, 3, 16, 16))], ids=["script", "trace"]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torchscript_models_are_as_before(make: Callable[[nn.Module], Any]) -> None:
    model = make(flat(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 8)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sampler_of(lambda pixels: model(pixels))(images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.rand(4, 3, 16, 16))
    assert not torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])  # and trains


class Replacing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return pixels.mean(dim=[2, 3])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_model_that_gets_another_buffer_has_its_own_again() -> None:
    model = torch.jit.script(Replacing())
    sampler_of(model)(images())
    assert model.calls == 0
    model(torch.rand(4, 3, 16, 16))
    assert model.calls == 1


@pytest.mark.parametrize("way", ["module", "two attributes deep"])
def test_lazy_models_are_refused_before_they_run(way: str) -> None:
    model = flat(nn.LazyLinear(8), nn.LazyBatchNorm1d())
    sampler = sampler_of(WAYS[way](model))
    generator = sampler.generator.get_state()
    with pytest.raises(
        HVSError, match=r"whose parameters exist, got Lazy\w+, whose parameters are not yet made.\n  hint: run it once"
    ):
        sampler(images())
    assert isinstance(model[1], nn.LazyLinear) and model[1].has_uninitialized_params()
    assert torch.equal(sampler.generator.get_state(), generator) and sampler.step == 0
    model(torch.rand(4, 3, 16, 16))
    sampler(images())
    assert model[2].num_batches_tracked == 1


@pytest.mark.parametrize(
    "make", [spectral, lambda: flat(parametrizations.weight_norm(nn.Linear(WIDTH, 8)))], ids=["spectral", "weight"]
)
def test_weights_cached_by_parametrize_have_gradients_after_scoring(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    sampler = sampler_of(model)
    with parametrize.cached():
        before = model[1].weight
        views = sampler(images()).views
        assert model[1].weight is before  # what was cached is so still
        model(torch.cat(views)).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    with parametrize.cached():
        sampler(images())
        assert model[1].weight.requires_grad


class Backward(nn.Module):
    """Computes gradients of its own in a forward, as adversarial training does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.enable_grad():
            self.layer(pixels.flatten(1)).sum().backward()
        return self.layer(pixels.flatten(1))


def test_gradients_that_a_forward_makes_are_taken_away_and_none_are_written_into() -> None:
    model = Backward()
    sampler_of(model)(images())
    assert all(weight.grad is None for weight in model.parameters())
    before = [torch.ones_like(weight) for weight in model.parameters()]
    for weight, gradient in zip(model.parameters(), before, strict=True):
        weight.grad = gradient
    with pytest.raises(HVSError, match="a model whose forward writes into no gradients"):
        sampler_of(model)(images())
    assert all(weight.grad is gradient for weight, gradient in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, HVSError])
@pytest.mark.parametrize("where", ["model", "loss", "listener"])
def test_after_an_error_all_is_as_before(error: type[BaseException], where: str) -> None:
    torch.manual_seed(0)
    model = SmallResNet()

    def fail(*_: Any) -> Any:
        torch.rand(1)
        raise error("out of luck")

    def scored(pixels: Tensor) -> Tensor:
        output = model.eval()(pixels)
        return fail() if where == "model" else output

    sampler = HardPairSampler(scored, CallableLoss(fail if where == "loss" else lambda a, b: (a - b).sum(-1)), pairs())
    if where == "listener":
        sampler.listeners.append(lambda hard: hard is not None and fail())
    before, random_state = (state_of(model), sampler.state_dict()), torch.get_rng_state()
    with pytest.raises(error, match="out of luck"):
        sampler(images())
    with pytest.raises(error, match="out of luck"):
        sampler.select([torch.rand(2, 3, 16, 16) for _ in range(4)])
    assert sampler.step == 0 and torch.equal(sampler.generator.get_state(), before[1]["generator"])
    torch.set_rng_state(random_state)
    assert_same(before[0], state_of(model))


def test_other_threads_train_on_meanwhile() -> None:
    model, others = SmallResNet(), [SmallResNet()]

    def scored(pixels: Tensor) -> Tensor:
        thread = threading.Thread(target=others[0], args=(torch.rand(4, 3, 16, 16),))
        thread.start()
        thread.join()
        return model(pixels)

    before = state_of(model)
    sampler_of(scored)(images())
    assert model.stem[1].num_batches_tracked == 0 and others[0].stem[1].num_batches_tracked == 1
    before["torch"] = torch.get_rng_state()  # the other thread's dropout draws from it, too
    assert_same(before, state_of(model))


def test_a_sampler_inside_a_model() -> None:
    inner, outer = SmallResNet(), SmallResNet()
    sampler = sampler_of(lambda pixels: inner(pixels))

    def model(pixels: Tensor) -> Tensor:
        sampler(images())
        return outer(pixels)

    before = state_of(inner, outer)
    sampler_of(model)(images())
    assert_same(before, state_of(inner, outer))


def test_scoring_makes_no_graph_anew() -> None:
    """torch.compile builds a graph for scoring and one for training, whatever comes first, and none after that."""
    from torch._dynamo.utils import counters

    for first in ("training", "scoring"):
        for compiled in (lambda net: torch.compile(net, backend="aot_eager"), lambda net: net.compile(backend="aot_eager") or net):
            torch._dynamo.reset()
            counters.clear()
            model = compiled(SmallResNet())
            pixels = torch.rand(16, 3, 16, 16)

            def train(model: Any = model, pixels: Tensor = pixels) -> None:
                model(pixels).sum().backward()

            def score(model: Any = model, pixels: Tensor = pixels) -> None:
                with untraced(find_modules(model), CPU):
                    model(pixels)

            def evaluate(model: Any = model, pixels: Tensor = pixels) -> None:
                with torch.no_grad():
                    model(pixels)

            for step in [train, score] if first == "training" else [score, train]:
                step()
            graphs = counters["stats"]["unique_graphs"]
            for step in (score, train, evaluate, score, train):
                step()
            assert counters["stats"]["unique_graphs"] == graphs == 2
            assert not counters["graph_break"]


def test_models_are_scripted_traced_and_copied_as_ever() -> None:
    sampler_of(SmallResNet())(images())  # from here on calls are seen
    net = flat(nn.Linear(WIDTH, 2))
    pixels = torch.rand(2, 3, 16, 16)
    expected = net(pixels)
    assert torch.equal(torch.fx.symbolic_trace(net)(pixels), expected)
    assert torch.equal(torch.export.export(net, (pixels,)).module()(pixels), expected)
    assert torch.equal(copy.deepcopy(net)(pixels), expected)
    assert torch.equal(torch.vmap(net[1])(net[0](pixels)), expected)


def test_another_library_may_stand_in_for_the_call_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On top of ours it is called and so are we; in the place of ours, we come back on top of it; and neither calls in a circle."""
    sampler_of(SmallResNet())(images())
    calls: list[nn.Module] = []
    ours, theirs = nn.Module.__call__, nn.Module._wrapped_call_impl
    for below in (ours, theirs):

        def called(module: nn.Module, *arguments: Any, below: Any = below, **named: Any) -> Any:
            calls.append(module)
            return below(module, *arguments, **named)

        monkeypatch.setattr(no_trace, "_original_call", no_trace._original_call)
        monkeypatch.setattr(nn.Module, "__call__", called)
        for _ in range(2):
            calls.clear()
            model = SmallResNet()
            before = state_of(model)
            sampler_of(WAYS["registry"](model))(images())
            assert_same(before, state_of(model))
            assert calls.count(model) == 1
        monkeypatch.undo()
        assert nn.Module.__call__ is ours


def test_in_and_out_of_inference_mode() -> None:
    model = SmallResNet()
    sampler = sampler_of(model)
    before = state_of(model)
    for mode in (True, False, True, True, False, False):
        with torch.inference_mode(mode):
            sampler(images())
        assert_same(before, state_of(model))
    model(torch.rand(4, 3, 16, 16)).sum().backward()
    with torch.inference_mode():
        made = SmallResNet()
        before = state_of(made)
        sampler_of(made)(images())
        assert_same(before, state_of(made))
    with pytest.warns(UserWarning, match="eval mode"):
        sampler_of(made.eval())(images())  # whose buffers nobody can write
