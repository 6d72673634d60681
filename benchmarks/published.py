"""Hard view selection the way its published code does it: the contestants that the benchmarks call "published".

Written anew in the style of https://github.com/automl/hvp (branches main and simclr for two views, dino and ibot for
multi-crop): the same tensor operations in the same loops, a running maximum over combinations, and winners rebuilt by
``torch.where``. Autocast is the caller's. What these functions do on purpose: nothing is restored after scoring; NaN wins a
running maximum and stays; with ``start_at_zero=True`` scores start at 0 as published, so where no loss is positive nothing is
selected.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

__all__ = [
    "interleaved",
    "published_combinations",
    "published_dino",
    "published_ibot",
    "published_multicrop",
    "published_ntxent",
    "published_pair",
    "published_simclr_table_search",
    "published_simsiam",
]

PairLossFunction = Callable[..., Tensor]


# Two views


def published_simsiam(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """SimSiam's loss of each image, from two (prediction, projection) pairs of (B, D) -> (B,).

    Source: arXiv 2011.10566, equation (2).
    """
    (prediction1, projection1), (prediction2, projection2) = first, second
    return -0.5 * (nnf.cosine_similarity(prediction1, projection2) + nnf.cosine_similarity(prediction2, projection1))


def published_ntxent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss of each image, the mean of its two rows, by a broadcast cosine over all (2B, 2B, D): two (B, D) -> (B,).

    The published code adds the two rows; the half makes it the method's loss.
    Source: arXiv 2002.05709, equation (1); style of
    https://github.com/automl/hvp/blob/deaf87e62ef5c505ddee76dba7f510ea8c2c8357/losses/nt_xent_loss.py
    """
    points = torch.cat((nnf.normalize(first, dim=1), nnf.normalize(second, dim=1)))
    count = len(points)
    logits = nnf.cosine_similarity(points[:, None], points[None], dim=-1) / temperature
    itself = torch.eye(count, dtype=torch.bool, device=points.device)
    partner = itself.roll(count // 2, 0)
    logits.masked_fill_(itself, -torch.inf)
    positives = logits[partner].view(count, 1)
    negatives = logits[~partner].view(count, count - 1)
    target = torch.zeros(count, dtype=torch.long, device=points.device)
    rows = nnf.cross_entropy(torch.cat((positives, negatives), 1), target, reduction="none")
    return 0.5 * (rows[: count // 2] + rows[count // 2 :])


@torch.no_grad()
def published_pair(
    model: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    views: Sequence[Tensor],
    pair_loss: PairLossFunction,
    *,
    start_at_zero: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The hardest two of N views of each image, pair by pair.

    Shape: views, N tensors (B, C, H, W); model, (N * B, C, H, W) -> a tensor or a tuple of tensors of that first axis; pair_loss,
    two views' outputs -> (B,). Returns the two chosen views (B, C, H, W), their indices (2, B) int64 and the loss (B,).
    Source: style of https://github.com/automl/hvp/blob/deaf87e62ef5c505ddee76dba7f510ea8c2c8357/hvs/__init__.py (scores start at 0)
    and of https://github.com/automl/hvp/blob/61a461373f9c45bb8df44f4c9b6fcd2b4ab5c396/select_crops.py (they start at infinity).
    """
    output = model(torch.cat(list(views)))
    if isinstance(output, tuple):
        outputs: list[Tensor | tuple[Tensor, ...]] = list(zip(*(part.chunk(len(views)) for part in output), strict=True))
    else:
        outputs = list(output.chunk(len(views)))
    batch, device = len(views[0]), views[0].device
    view_a, view_b = torch.zeros_like(views[0]), torch.zeros_like(views[0])
    selected = torch.zeros((2, batch), dtype=torch.uint8, device=device)
    score = torch.full((batch,), 0.0 if start_at_zero else -math.inf, device=device)
    for u, v in itertools.combinations(range(len(views)), 2):
        score, harder = torch.stack((score, pair_loss(outputs[u], outputs[v]))).max(dim=0)
        harder = harder.bool()
        selected[0][harder] = u
        selected[1][harder] = v
        view_a = torch.where(harder[:, None, None, None], views[u], view_a)
        view_b = torch.where(harder[:, None, None, None], views[v], view_b)
    return view_a, view_b, selected.long(), score


@torch.no_grad()
def published_simclr_table_search(projections: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The part of :func:`published_pair` after the forward, for SimCLR: (V, B, D) -> indices (2, B) int64, loss (B,)."""
    views, batch, device = len(projections), projections.shape[1], projections.device
    selected = torch.zeros((2, batch), dtype=torch.uint8, device=device)
    score = torch.full((batch,), -math.inf, device=device)
    for u, v in itertools.combinations(range(views), 2):
        loss = published_ntxent(projections[u], projections[v], temperature)
        score, harder = torch.stack((score, loss)).max(dim=0)
        harder = harder.bool()
        selected[0][harder] = u
        selected[1][harder] = v
    return selected.long(), score


# Multi-crop: crops are a list, globals first, and kinds of globals alternate (even: the first kind, odd: the second).


def interleaved(global_candidates: int, local_candidates: int) -> list[int]:
    """For each crop in the published order the index of the same view where candidates are grouped by slot.

    ``global_candidates`` are those of each of the two kinds. ``interleaved(2, 3)`` is ``[0, 2, 1, 3, 4, 5, 6]``.
    """
    alternating = [kind * global_candidates + place for place in range(global_candidates) for kind in range(2)]
    return alternating + [2 * global_candidates + place for place in range(local_candidates)]


def published_combinations(
    n_global: int, n_local: int, select_local: int, limit: int | None = 128, generator: torch.Generator | None = None
) -> Iterable[tuple[int, ...]]:
    """Combinations of one even global, one odd global and ``select_local`` locals: ``limit`` random ones, or all if it is None.

    Random ones repeat, as published. Python's generator draws them, seeded from ``generator``, so that no global state moves.
    Source: https://github.com/automl/hvp/blob/c1c435fe6fdb1703c5a87887970cf856d2172910/pretrain.py#L49-L76
    """
    evens, odds = range(0, n_global, 2), range(1, n_global, 2)
    local_crops = range(n_global, n_global + n_local)
    if limit is None:
        for even, odd, chosen in itertools.product(evens, odds, itertools.combinations(local_crops, select_local)):
            yield even, odd, *chosen
        return
    draw = random.Random(int(torch.randint(2**62, (), generator=generator)))
    for _ in range(limit):
        yield draw.choice(evens), draw.choice(odds), *draw.sample(local_crops, select_local)


def _running_maximum(
    combinations: Iterable[tuple[int, ...]],
    loss_of: Callable[[tuple[int, ...]], Tensor],
    shape: tuple[int, int],
    device: torch.device,
    start_at_zero: bool,
) -> tuple[Tensor, Tensor]:
    score = torch.full((shape[1],), 0.0 if start_at_zero else -math.inf, device=device)
    selected = torch.zeros(shape, dtype=torch.uint8, device=device)
    for combination in combinations:
        score, harder = torch.stack((score, loss_of(combination))).max(dim=0)
        harder = harder.bool()
        for place, view in enumerate(combination):
            selected[place][harder] = view
    return selected, score


@torch.no_grad()
def published_dino(
    student_out: Sequence[Tensor],
    teacher_out: Sequence[Tensor],
    center: Tensor,
    teacher_temperature: float,
    student_temperature: float,
    select_local: int,
    limit: int | None = 128,
    generator: torch.Generator | None = None,
    *,
    start_at_zero: bool = False,
) -> tuple[Tensor, Tensor]:
    """The hardest of ``limit`` random combinations by DINO's loss, which is computed anew in full for each combination.

    Shape: student_out, one (B, K) for each crop, in the published order; teacher_out, one (B, K) for each global crop ->
    indices (2 + select_local, B) int64 into the crops, loss (B,), DINO's own (the published score is its sum of terms).
    Source: style of https://github.com/automl/hvp/blob/c1c435fe6fdb1703c5a87887970cf856d2172910/utils/dino.py#L147-L165
    """
    students = list((torch.cat(list(student_out)) / student_temperature).chunk(len(student_out)))
    targets = list(((torch.cat(list(teacher_out)) - center) / teacher_temperature).softmax(-1).chunk(len(teacher_out)))
    n_global, batch, device = len(targets), len(students[0]), students[0].device

    def loss_of(combination: tuple[int, ...]) -> Tensor:
        total = torch.zeros(batch, device=device)
        for t in range(2):
            for s, view in enumerate(combination):
                if s != t:
                    total += torch.sum(-targets[combination[t]] * nnf.log_softmax(students[view], dim=-1), dim=-1)
        return total

    combinations = published_combinations(n_global, len(students) - n_global, select_local, limit, generator)
    selected, score = _running_maximum(combinations, loss_of, (2 + select_local, batch), device, start_at_zero)
    return selected.long(), score / (2 * (2 + select_local) - 2)


@torch.no_grad()
def published_ibot(
    student_cls: Sequence[Tensor],
    student_patch: Sequence[Tensor],
    teacher_cls: Sequence[Tensor],
    teacher_patch: Sequence[Tensor],
    masks: Sequence[Tensor],
    select_local: int,
    limit: int | None = 128,
    generator: torch.Generator | None = None,
    *,
    lambda1: float,
    lambda2: float,
    cls_center: Tensor,
    patch_center: Tensor,
    teacher_temperature: float,
    teacher_patch_temperature: float,
    student_temperature: float,
    start_at_zero: bool = False,
) -> tuple[Tensor, Tensor]:
    """The hardest of ``limit`` random combinations by iBOT's loss, which is computed anew in full for each combination.

    Shape: as :func:`published_dino`, and for each global crop: patches (B, N, K') and masks (B, h, w) bool -> indices
    (2 + select_local, B) int64, loss (B,). The published code keeps all locals that are drawn; here some can be chosen.
    Source: style of https://github.com/automl/hvp/blob/d9b80519db7020bafd629e019d386604afb511a4/main_ibot.py#L586-L654
    """
    students = list((torch.cat(list(student_cls)) / student_temperature).chunk(len(student_cls)))
    student_patches = list((torch.cat(list(student_patch)) / student_temperature).chunk(len(student_patch)))
    targets = list(((torch.cat(list(teacher_cls)) - cls_center) / teacher_temperature).softmax(-1).chunk(len(teacher_cls)))
    target_patches = list(
        ((torch.cat(list(teacher_patch)) - patch_center) / teacher_patch_temperature).softmax(-1).chunk(len(teacher_patch))
    )
    n_global, batch, device = len(targets), len(students[0]), students[0].device

    def loss_of(combination: tuple[int, ...]) -> Tensor:
        cls_total, patch_total = torch.zeros(batch, device=device), torch.zeros(batch, device=device)
        for t in range(2):
            for s, view in enumerate(combination):
                if s == t:
                    terms = torch.sum(-target_patches[view] * nnf.log_softmax(student_patches[view], dim=-1), dim=-1)
                    mask = masks[view].flatten(-2)
                    patch_total += torch.sum(terms * mask.float(), dim=-1) / mask.sum(dim=-1).clamp(min=1.0)
                else:
                    cls_total += torch.sum(-targets[combination[t]] * nnf.log_softmax(students[view], dim=-1), dim=-1)
        return cls_total / (2 * (2 + select_local) - 2) * lambda1 + patch_total / 2 * lambda2

    combinations = published_combinations(n_global, len(students) - n_global, select_local, limit, generator)
    selected, score = _running_maximum(combinations, loss_of, (2 + select_local, batch), device, start_at_zero)
    return selected.long(), score


@torch.no_grad()
def published_multicrop(
    student: Callable[[Tensor], Tensor],
    teacher: Callable[[Tensor], Tensor],
    crops: Sequence[Tensor],
    n_global: int,
    *,
    center: Tensor,
    teacher_temperature: float,
    student_temperature: float,
    select_local: int,
    limit: int | None = 128,
    generator: torch.Generator | None = None,
    second_forward: bool = False,
    start_at_zero: bool = False,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """DINO's hard views of a batch of crops, in the published order: scoring forward, search, and the winners rebuilt.

    ``second_forward`` repeats the scoring forward, as the published code does by a block pasted twice.

    Shape: crops, n_global tensors (B, C, H, W) and then the locals (B, C, h, w); student and teacher, one resolution's crops
    (n, C, H, W) -> (n, K). Returns the 2 + select_local chosen crops, their indices (2 + select_local, B) int64, the loss (B,).
    Source: style of https://github.com/automl/hvp/blob/c1c435fe6fdb1703c5a87887970cf856d2172910/pretrain.py#L80-L133
    """
    student_out, teacher_out = _outputs(student, teacher, crops, n_global)
    if second_forward:
        student_out, teacher_out = _outputs(student, teacher, crops, n_global)
    indices, loss = published_dino(
        student_out,
        teacher_out,
        center,
        teacher_temperature,
        student_temperature,
        select_local,
        limit,
        generator,
        start_at_zero=start_at_zero,
    )
    # Published: uninitialised memory, which stays wherever nothing is selected; black shows that defect without the chance.
    blank = torch.zeros_like if start_at_zero else torch.empty_like
    chosen = [blank(crops[0]) for _ in range(2)] + [blank(crops[-1]) for _ in range(select_local)]
    for place in range(len(chosen)):
        for view in range(n_global) if place < 2 else range(n_global, len(crops)):
            chosen[place] = torch.where((indices[place] == view)[:, None, None, None], crops[view], chosen[place])
    return chosen, indices, loss


def _outputs(
    student: Callable[[Tensor], Tensor], teacher: Callable[[Tensor], Tensor], crops: Sequence[Tensor], n_global: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    teacher_out = teacher(torch.cat(list(crops[:n_global])))
    student_out = student(torch.cat(list(crops[:n_global])))
    if len(crops) > n_global:
        student_out = torch.cat((student_out, student(torch.cat(list(crops[n_global:])))))
    return student_out.chunk(len(crops)), teacher_out.chunk(n_global)
