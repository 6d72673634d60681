"""Which modules a callable is found to hold."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from hvs_aug.selection.reached import find_modules

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
        self.encoder, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.others = [nn.Linear(2, 2)]

    def encode(self, inputs: Tensor) -> Tensor:
        return self.head(self.encoder(inputs))

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.encode(inputs)


def test_find_modules_in_every_kind_of_callable() -> None:
    module, head, trainer = nn.Linear(2, 2), nn.Linear(2, 2), Trainer()
    inside = {trainer.encoder, trainer.head}
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
        "containers": ((lambda networks: lambda inputs: networks)([{"a": module}, (head,)]), set()),
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


class Files(list):
    def __iter__(self):
        raise AssertionError("a container of the user's was walked through")


def test_containers_are_not_walked_through() -> None:
    trainer = Trainer()
    trainer.others = Files(range(3))
    for function in (trainer.encode, lambda inputs: trainer.encode(inputs), functools.partial(Trainer.encode, trainer)):
        assert set(find_modules(function)) == {trainer.encoder, trainer.head}
