"""kNN against a loop over queries, the probe, and features that are neither augmented nor trained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvs_aug._check import HVSError
from hvs_aug.ops import Normalize, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop
from hvs_aug.pretraining.build import build_method
from hvs_aug.pretraining.evaluation import augmented_features, features, knn_accuracy, linear_probe_accuracy
from hvs_aug.views.recipe import ViewRecipe


def slow_knn(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int, temperature: float) -> float:
    right = 0
    for query, label in zip(queries, labels, strict=True):
        cosines = [float(torch.dot(query, row) / query.norm() / row.norm()) for row in bank]
        votes: dict[int, float] = {}
        for index in sorted(range(len(bank)), key=lambda index: -cosines[index])[:k]:
            votes[int(bank_labels[index])] = votes.get(int(bank_labels[index]), 0.0) + math.exp(cosines[index] / temperature)
        right += max(votes, key=lambda name: votes[name]) == int(label)
    return 100 * right / len(queries)


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (5, 0.07), (5, 10.0), (50, 0.5)])
def test_knn_is_that_of_a_loop(k: int, temperature: float) -> None:
    bank, bank_labels = torch.randn(40, 3), torch.randint(0, 4, (40,))
    queries, labels = torch.randn(25, 3), torch.randint(0, 4, (25,))
    assert knn_accuracy(bank, bank_labels, queries, labels, k, temperature) == slow_knn(
        bank, bank_labels, queries, labels, k, temperature
    )


def test_views_of_queries_count_alike() -> None:
    bank, bank_labels = torch.randn(40, 3), torch.randint(0, 4, (40,))
    views, labels = torch.randn(3, 25, 3), torch.randint(0, 4, (25,))
    each = [knn_accuracy(bank, bank_labels, view, labels) for view in views]
    assert knn_accuracy(bank, bank_labels, views, labels) == pytest.approx(sum(each) / 3)


def test_the_probe_separates_what_is_separable_and_no_more() -> None:
    labels = torch.arange(3).repeat(20)
    separable = torch.nn.functional.one_hot(labels).float() + 0.05 * torch.randn(60, 3)
    assert linear_probe_accuracy(separable[:30], labels[:30], separable[30:], labels[30:]) == 100
    noise = torch.randn(60, 3)
    assert linear_probe_accuracy(noise[:30], labels[:30], noise[30:], labels[30:]) < 70


def test_features_are_those_of_the_whole_image() -> None:
    method = build_method("simclr", 16)
    normalize = Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    recipe = ViewRecipe(16, [RandomResizedCrop(), RandomHorizontalFlip(1.0), RandomGrayscale(1.0), normalize])
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    buffers = [value.clone() for value in method.buffers()]
    found = features(method, images, recipe, batch_size=2)
    assert method.training and all(torch.equal(a, b) for a, b in zip(buffers, method.buffers(), strict=True))
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalize.mean, normalize.std))
    with torch.no_grad():
        expected = method.eval().encode((images / 255 - mean) / std)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_augmented_features_are_random_and_repeat_with_the_seed() -> None:
    method = build_method("simclr", 16)
    recipe = method.views(16).slots[0].recipe
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    state = torch.get_rng_state()
    first, again, other = (augmented_features(method, images, recipe, views=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == (3, 5, 64)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_bad_input() -> None:
    with pytest.raises(HVSError, match=r"knn_accuracy\(bank\): expected features with one label each"):
        knn_accuracy(torch.zeros(0, 3), torch.zeros(0), torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(HVSError, match=r"knn_accuracy\(labels\): expected 2 labels"):
        knn_accuracy(torch.zeros(4, 3), torch.zeros(4), torch.zeros(2, 3), torch.zeros(3))
