"""What the features are worth: weighted k-nearest neighbours, also with augmented queries, and a linear probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .._check import fail, require
from ..data.batch import ImageBatch
from ..ops import Normalize
from ..views.candidates import CandidateViews
from ..views.recipe import ViewRecipe, ViewSlot
from .methods import Method

__all__ = ["augmented_features", "features", "knn_accuracy", "linear_probe_accuracy"]


def features(method: Method, images: ImageBatch | Tensor, recipe: ViewRecipe, batch_size: int = 256) -> Tensor:
    """The features of whole images: their largest central square at the recipe's size, normalised, not augmented.

    Shape: images (N, C, H, W) -> (N, features) float32 on the CPU. The model runs in eval mode.
    """
    crop = replace(recipe.crop, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    whole = ViewRecipe(recipe.size, [crop, *(operation for operation in recipe.operations if isinstance(operation, Normalize))])
    return _encoded(method, images, [ViewSlot(whole, candidates=1, select=1)], torch.Generator(), batch_size)[0]


def augmented_features(
    method: Method, images: ImageBatch | Tensor, recipe: ViewRecipe, views: int = 4, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """The features of random views, the same ones for equal seeds: (N, C, H, W) -> (views, N, features)."""
    slot = ViewSlot(recipe, candidates=views, select=1)
    return _encoded(method, images, [slot], torch.Generator().manual_seed(seed), batch_size)


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """The share of queries, in percent, whose nearest neighbours in the bank vote for the right label.

    Each of the k nearest by cosine votes with weight ``exp(cosine / temperature)``.

    Shape: bank (N, D), queries (..., M, D), labels (M,).
    Source: Wu et al., arXiv 1805.01978, section 3.4; k = 20 and 0.07 as in DINO, arXiv 2104.14294, appendix F.
    Raises: HVSError if the bank is empty or lengths differ.

    Example:
        >>> bank, labels = torch.eye(3), torch.tensor([0, 1, 2])
        >>> knn_accuracy(bank, labels, torch.eye(3) + 0.1, labels, k=1)
        100.0
    """
    require(len(bank) > 0 and len(bank) == len(bank_labels), "knn_accuracy(bank)", "features with one label each", bank)
    require(queries.shape[-2] == len(labels), "knn_accuracy(labels)", f"{queries.shape[-2]} labels, one a query", labels)
    bank, queries = F.normalize(bank, dim=-1), F.normalize(queries, dim=-1).flatten(0, -2)
    classes = int(bank_labels.max()) + 1
    right = 0
    repeated = labels.repeat(len(queries) // len(labels))
    for part, truth in zip(torch.split(queries, 1024), torch.split(repeated, 1024), strict=True):
        similarity, nearest = (part @ bank.t()).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), classes).scatter_add_(1, bank_labels[nearest], (similarity / temperature).exp())
        right += int((votes.argmax(1) == truth).sum())
    return 100 * right / len(queries)


def linear_probe_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, strengths: Sequence[float] = (0.1,)
) -> float:
    """The accuracy, in percent, of a logistic regression on standardised frozen features (scikit-learn, L2).

    ``strengths`` are values of C. Of several that one is taken which is best for every fifth training row, fitted to the others.

    Shape: train (N, D), test (M, D).
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        fail("linear_probe_accuracy()", "scikit-learn", "no such package", "pip install 'hvs_aug[demo]'")

    def accuracy(strength: float, rows: Tensor, labels: Tensor, shown: Tensor, truth: Tensor) -> float:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        return 100 * float(probe.fit(rows.numpy(), labels.numpy()).score(shown.numpy(), truth.numpy()))

    best = strengths[0]
    if len(strengths) > 1:
        held = torch.arange(len(train)) % 5 == 0
        split = (train[~held], train_labels[~held], train[held], train_labels[held])
        best = max(strengths, key=lambda strength: accuracy(strength, *split))
    return accuracy(best, train, train_labels, test, test_labels)


def _encoded(
    method: Method, images: ImageBatch | Tensor, slots: Sequence[ViewSlot], generator: torch.Generator, batch_size: int
) -> Tensor:
    batch = ImageBatch.of(images)
    renderer = CandidateViews(slots)
    device = next(method.parameters()).device
    parts = []
    with _evaluating(method), torch.no_grad():
        for start in range(0, len(batch), batch_size):
            rows = slice(start, start + batch_size)
            part = batch[rows].to(device)
            (views,) = renderer.transform(part, renderer.make_params(part, generator))
            parts.append(method.encode(views.flatten(0, 1)).float().view(*views.shape[:2], -1).cpu())
    return torch.cat(parts, dim=1)


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)
