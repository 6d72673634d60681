"""The methods' losses, image by image and pair by pair, in float64, from the formulas of their papers.

A table is ``(V, V, B)`` float64, symmetric in its first two axes: the loss of image b on a kept set K of views is
``sum_{v in K} table[v, v, b] + sum_{u < v in K} table[u, v, b]``. The functions ``*_of_pair`` and ``*_of_set`` compute the same
loss directly, from the views that are kept, and are what the tables are checked against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hvs_aug.views.recipe import ViewSlot

__all__ = [
    "byol_loss_of_pair",
    "byol_table",
    "dino_loss_of_set",
    "dino_table",
    "ibot_loss_of_set",
    "ibot_table",
    "moco_table",
    "mocov2_loss_of_pair",
    "mocov3_loss_of_pair",
    "negative_cosine_table",
    "ntxent_table",
    "simclr_loss_of_pair",
    "simsiam_loss_of_pair",
    "sinkhorn",
    "swav_loss_of_set",
    "swav_table",
    "vicreg_invariance_of_pair",
    "vicreg_table",
    "view_roles",
]


def view_roles(slots: Sequence[ViewSlot]) -> list[str]:
    """The role of each of the V candidates, in slot order."""
    return [slot.role for slot in slots for _ in range(slot.candidates)]


def cosine(first: Tensor, second: Tensor) -> float:
    """Cosine of the angle between two vectors (D,); 0 where one of them is 0."""
    first, second = first.double(), second.double()
    lengths = float(first.dot(first)) ** 0.5 * float(second.dot(second)) ** 0.5
    return float(first.dot(second)) / lengths if lengths > 0 or math.isnan(lengths) else 0.0


# SimSiam and BYOL


def simsiam_loss_of_pair(prediction1: Tensor, projection1: Tensor, prediction2: Tensor, projection2: Tensor) -> Tensor:
    """SimSiam's loss of each image: half D(p1, z2) plus half D(p2, z1), with D the negative cosine; all (B, D) -> (B,).

    Source: Chen and He, Exploring Simple Siamese Representation Learning, arXiv 2011.10566, equations (1) and (2).
    """
    losses = []
    for image in range(len(prediction1)):
        one_way = -cosine(prediction1[image], projection2[image])
        other_way = -cosine(prediction2[image], projection1[image])
        losses.append(0.5 * one_way + 0.5 * other_way)
    return torch.tensor(losses, dtype=torch.float64)


def negative_cosine_table(predictions: Tensor, projections: Tensor) -> Tensor:
    """SimSiam's loss on every pair of views: predictions and projections (V, B, D) -> (V, V, B); 0 on the diagonal.

    Source: arXiv 2011.10566, equation (2).
    """
    views, images = predictions.shape[:2]
    table = torch.zeros(views, views, images, dtype=torch.float64)
    for u in range(views):
        for v in range(views):
            if u != v:
                table[u, v] = simsiam_loss_of_pair(predictions[u], projections[u], predictions[v], projections[v])
    return table


def byol_loss_of_pair(prediction1: Tensor, target1: Tensor, prediction2: Tensor, target2: Tensor) -> Tensor:
    """BYOL's symmetric loss of each image as its paper scales it: both directions of ``2 - 2 cos``, added; (B, D) -> (B,).

    Source: Grill et al., Bootstrap Your Own Latent, arXiv 2006.07733, equation (2) and the sentence on L + L~ below it.
    """
    losses = []
    for image in range(len(prediction1)):
        one_way = 2 - 2 * cosine(prediction1[image], target2[image])
        other_way = 2 - 2 * cosine(prediction2[image], target1[image])
        losses.append(one_way + other_way)
    return torch.tensor(losses, dtype=torch.float64)


def byol_table(student_predictions: Tensor, teacher_projections: Tensor) -> Tensor:
    """Mean of both directions' negative cosine of student prediction and teacher projection: two (V, B, D) -> (V, V, B).

    It orders pairs as BYOL's loss does, which is ``4 + 4 * table[u, v]`` (:func:`byol_loss_of_pair`).
    """
    return negative_cosine_table(student_predictions, teacher_projections)


# SimCLR


def simclr_loss_of_pair(projection1: Tensor, projection2: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss of each image: the mean of its two rows in the 2B x 2B problem of this pair; two (B, D) -> (B,).

    Source: Chen et al., A Simple Framework for Contrastive Learning, arXiv 2002.05709, equation (1) and algorithm 1.
    """
    images = len(projection1)
    points = [*projection1, *projection2]
    similarity = [[cosine(first, second) / temperature for second in points] for first in points]
    rows = []
    for i in range(2 * images):
        positive = (i + images) % (2 * images)
        others = torch.tensor([similarity[i][k] for k in range(2 * images) if k != i], dtype=torch.float64)
        rows.append(-(similarity[i][positive] - float(others.logsumexp(0))))
    return torch.tensor([(rows[b] + rows[b + images]) / 2 for b in range(images)], dtype=torch.float64)


def ntxent_table(projections: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss on every pair of views, each pair's problem by itself: (V, B, D) -> (V, V, B); 0 on the diagonal.

    Source: arXiv 2002.05709, equation (1).
    """
    views, images = projections.shape[:2]
    table = torch.zeros(views, views, images, dtype=torch.float64)
    for u in range(views):
        for v in range(views):
            if u != v:
                table[u, v] = simclr_loss_of_pair(projections[u], projections[v], temperature)
    return table


# DINO


def cross_entropy(
    teacher: Tensor, student: Tensor, center: Tensor, teacher_temperature: float, student_temperature: float
) -> float:
    """H(P_t, P_s) of one teacher and one student output, both (K,), the teacher's centred and sharpened.

    Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, arXiv 2104.14294, equations (1) and (2),
    and the centring of algorithm 1.
    """
    target = ((teacher.double() - center.double().reshape(-1)) / teacher_temperature).softmax(0)
    log_probability = (student.double() / student_temperature).log_softmax(0)
    return float(-(target * log_probability).sum())


def dino_loss_of_set(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor,
    teacher_temperature: float,
    student_temperature: float,
) -> Tensor:
    """DINO's loss of each image on the views that are kept.

    Shape: student, one (B, K) for each kept view; teacher, one (B, K) for each kept global view, which are the first of the
    student's -> (B,).
    Source: arXiv 2104.14294, equation (3), divided by its number of terms as in
    https://github.com/facebookresearch/dino/blob/7c446df5b9f45747937fb0d72314eb9f7b66930a/main_dino.py#L392-L402
    """
    losses = []
    for image in range(len(student[0])):
        terms = [
            cross_entropy(target[image], output[image], center, teacher_temperature, student_temperature)
            for t, target in enumerate(teacher)
            for s, output in enumerate(student)
            if s != t
        ]
        losses.append(sum(terms) / len(terms))
    return torch.tensor(losses, dtype=torch.float64)


def dino_table(
    student: Sequence[Tensor] | Tensor,
    teacher: Mapping[int, Tensor],
    slots: Sequence[ViewSlot],
    center: Tensor,
    teacher_temperature: float,
    student_temperature: float,
) -> Tensor:
    """DINO's loss on every pair of candidates, divided by the number of terms of the set that will be kept.

    Shape: student, V tensors (B, K) or one (V, B, K); teacher, one (B, K) under the index of each global candidate ->
    (V, V, B): two globals hold both directions, a global and a local one, two locals none, the diagonal none.
    Source: arXiv 2104.14294, equation (3).
    """
    roles = view_roles(slots)
    kept_globals = sum(slot.select for slot in slots if slot.role == "global")
    kept = sum(slot.select for slot in slots)
    number_of_terms = kept_globals * (kept - 1)
    views, images = len(roles), len(student[0])
    table = torch.zeros(views, views, images, dtype=torch.float64)
    for t in range(views):
        for s in range(views):
            if roles[t] != "global" or s == t:
                continue
            for b in range(images):
                term = cross_entropy(teacher[t][b], student[s][b], center, teacher_temperature, student_temperature)
                table[t, s, b] += term / number_of_terms
                table[s, t, b] += term / number_of_terms
    return table


# iBOT


def masked_patch_loss(
    teacher: Tensor, student: Tensor, mask: Tensor, center: Tensor, teacher_temperature: float, student_temperature: float
) -> float:
    """iBOT's masked-patch term of one view of one image: mean cross-entropy over its masked patches; 0 if none is masked.

    Shape: teacher and student (N, K); mask, N booleans in any shape, row by row.
    Source: Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, arXiv 2111.07832, section 3.1 (L_MIM),
    as a mean over masked patches:
    https://github.com/bytedance/ibot/blob/da316d82636a7a7356835ef224b13d5f3ace0489/main_ibot.py#L543-L547
    """
    terms = [
        cross_entropy(teacher[n], student[n], center, teacher_temperature, student_temperature)
        for n, masked in enumerate(mask.reshape(-1).tolist())
        if masked
    ]
    return sum(terms) / len(terms) if terms else 0.0


def ibot_loss_of_set(
    student_cls: Sequence[Tensor],
    student_patch: Sequence[Tensor],
    teacher_cls: Sequence[Tensor],
    teacher_patch: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    lambda1: float,
    lambda2: float,
    cls_center: Tensor,
    patch_center: Tensor,
    teacher_temperature: float,
    teacher_patch_temperature: float,
    student_temperature: float,
) -> Tensor:
    """iBOT's loss of each image on the views that are kept: lambda1 times the [CLS] term plus lambda2 times the patch term.

    Shape: student_cls, one (B, K) for each kept view, globals first; for each kept global view: student_patch and teacher_patch
    (B, N, K'), teacher_cls (B, K), masks (B, h, w) bool with h * w = N -> (B,).
    Source: arXiv 2111.07832, section 3.1 (L_[CLS] + L_MIM); each term is divided by its own count as in
    https://github.com/bytedance/ibot/blob/da316d82636a7a7356835ef224b13d5f3ace0489/main_ibot.py#L538-L555
    """
    cls_term = dino_loss_of_set(student_cls, teacher_cls, cls_center, teacher_temperature, student_temperature)
    losses = []
    for b in range(len(cls_term)):
        patch_terms = [
            masked_patch_loss(target[b], output[b], mask[b], patch_center, teacher_patch_temperature, student_temperature)
            for target, output, mask in zip(teacher_patch, student_patch, masks, strict=True)
        ]
        losses.append(lambda1 * float(cls_term[b]) + lambda2 * sum(patch_terms) / len(patch_terms))
    return torch.tensor(losses, dtype=torch.float64)


def ibot_table(
    student_cls: Sequence[Tensor] | Tensor,
    student_patch: Mapping[int, Tensor],
    teacher_cls: Mapping[int, Tensor],
    teacher_patch: Mapping[int, Tensor],
    masks: Mapping[int, Tensor],
    slots: Sequence[ViewSlot],
    *,
    lambda1: float,
    lambda2: float,
    cls_center: Tensor,
    patch_center: Tensor,
    teacher_temperature: float,
    teacher_patch_temperature: float,
    student_temperature: float,
) -> Tensor:
    """iBOT's loss on every pair of candidates: the [CLS] term off the diagonal, each global view's patch term on it.

    Shape: student_cls, V tensors (B, K); the rest, one tensor under the index of each global candidate: student_patch and
    teacher_patch (B, N, K'), teacher_cls (B, K), masks (B, h, w) bool -> (V, V, B).
    Source: arXiv 2111.07832, section 3.1.
    """
    table = lambda1 * dino_table(student_cls, teacher_cls, slots, cls_center, teacher_temperature, student_temperature)
    kept_globals = sum(slot.select for slot in slots if slot.role == "global")
    for v, role in enumerate(view_roles(slots)):
        if role != "global":
            continue
        for b in range(table.shape[-1]):
            term = masked_patch_loss(
                teacher_patch[v][b],
                student_patch[v][b],
                masks[v][b],
                patch_center,
                teacher_patch_temperature,
                student_temperature,
            )
            table[v, v, b] = lambda2 * term / kept_globals
    return table


# MoCo


def info_nce(query: Tensor, key: Tensor, negatives: Sequence[Tensor], temperature: float) -> float:
    """Minus the logarithm of the softmax of the key among the key and its negatives, all (D,), by their cosines.

    Source: He et al., Momentum Contrast, arXiv 1911.05722, equation (1).
    """
    logits = torch.tensor([cosine(query, other) / temperature for other in [key, *negatives]], dtype=torch.float64)
    return float(logits.logsumexp(0) - logits[0])


def mocov2_loss_of_pair(query1: Tensor, key2: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's loss of each image, the first view its query: queries and keys (B, D), the queue (D, n) -> (B,).

    Source: arXiv 1911.05722, algorithm 1.
    """
    losses = [info_nce(query1[b], key2[b], list(queue.T), temperature) for b in range(len(query1))]
    return torch.tensor(losses, dtype=torch.float64)


def mocov3_loss_of_pair(query1: Tensor, key1: Tensor, query2: Tensor, key2: Tensor, temperature: float) -> Tensor:
    """MoCo v3's loss of each image: both directions, the keys of the other images being the negatives, times 2 T; (B, D) -> (B,).

    Source: Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers, arXiv 2104.02057, algorithm 1.
    """
    losses = []
    for b in range(len(query1)):
        others = [image for image in range(len(query1)) if image != b]
        one_way = info_nce(query1[b], key2[b], [key2[image] for image in others], temperature)
        other_way = info_nce(query2[b], key1[b], [key1[image] for image in others], temperature)
        losses.append(2 * temperature * one_way + 2 * temperature * other_way)
    return torch.tensor(losses, dtype=torch.float64)


def moco_table(queries: Tensor, keys: Tensor, temperature: float, queue: Tensor | None = None, symmetric: bool = False) -> Tensor:
    """MoCo's loss on every pair, the view of the lower index first: (V, B, D) twice, queue (D, n) or (2, D, n) -> (V, V, B)."""
    views, images = queries.shape[:2]
    table = torch.zeros(views, views, images, dtype=torch.float64)
    for u in range(views):
        for v in range(u + 1, views):
            if queue is None:
                table[u, v] = mocov3_loss_of_pair(queries[u], keys[u], queries[v], keys[v], temperature)
            elif symmetric:
                first, second = (queue[0], queue[1]) if queue.ndim == 3 else (queue, queue)
                table[u, v] = mocov2_loss_of_pair(queries[u], keys[v], second, temperature) / 2
                table[u, v] += mocov2_loss_of_pair(queries[v], keys[u], first, temperature) / 2
            else:
                table[u, v] = mocov2_loss_of_pair(queries[u], keys[v], queue, temperature)
            table[v, u] = table[u, v]
    return table


# SwAV


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Assignments of a batch by Sinkhorn and Knopp's algorithm: (B, K) -> (B, K), rows that sum to 1.

    Source: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, arXiv 2006.09882,
    equations (3) to (5) and the code of its appendix.
    """
    weights = (scores.double() / epsilon).exp().T
    weights /= weights.sum()
    prototypes, images = weights.shape
    for _ in range(iterations):
        weights /= weights.sum(1, keepdim=True) * prototypes
        weights /= weights.sum(0, keepdim=True) * images
    return (weights * images).T


def swav_term(target: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of an assignment (B, K) with the scores of another view (B, K) -> (B,); equation (2)."""
    return -(target * (scores.double() / temperature).log_softmax(1)).sum(1)


def swav_loss_of_set(scores: Sequence[Tensor], assigned: int, temperature: float, epsilon: float, iterations: int) -> Tensor:
    """SwAV's loss of each image on the views that are kept, of which the first ``assigned`` are global: (B, K) each -> (B,).

    Source: arXiv 2006.09882, equation (6), divided by its number of terms as in
    https://github.com/facebookresearch/swav/blob/06b1b7cbaf6ba2a792300d79c7299db98b93b7f9/main_swav.py#L288-L315
    """
    total = torch.zeros(len(scores[0]), dtype=torch.float64)
    for i in range(assigned):
        target = sinkhorn(scores[i], epsilon, iterations)
        others = [swav_term(target, view, temperature) for v, view in enumerate(scores) if v != i]
        total += sum(others) / len(others)
    return total / assigned


def swav_table(
    scores: Tensor,
    slots: Sequence[ViewSlot],
    temperature: float,
    epsilon: float,
    iterations: int,
    queue: Sequence[Tensor] = (),
) -> Tensor:
    """SwAV's loss on every pair of candidates, divided by the number of terms of the set that will be kept.

    Shape: scores (V, B, K); queue, scores (n, K) of none, of one part, or of one for either of two global views -> (V, V, B).
    """
    roles = view_roles(slots)
    kept, kept_global = sum(slot.select for slot in slots), sum(slot.select for slot in slots if slot.role == "global")
    views, images = scores.shape[:2]

    def targets(view: int) -> list[Tensor]:
        """As the first of two global views, and as the second."""
        seen = [torch.cat([scores[view], part]) for part in queue] or [scores[view]]
        found = [sinkhorn(value, epsilon, iterations)[:images] for value in seen]
        return [found[0], found[-1]]

    table = torch.zeros(views, views, images, dtype=torch.float64)
    for t in range(views):
        for s in range(views):
            if roles[t] != "global" or s == t:
                continue
            first, second = (swav_term(target, scores[s], temperature) for target in targets(t))
            term = (first + second) / 2 if roles[s] == "local" else first if t < s else second
            table[t, s] += term / (kept_global * (kept - 1))
            table[s, t] += term / (kept_global * (kept - 1))
    return table


# VICReg


def vicreg_invariance_of_pair(projection1: Tensor, projection2: Tensor) -> Tensor:
    """VICReg's invariance term of each image: the mean squared difference of two projections (B, D) -> (B,).

    Source: Bardes et al., VICReg, arXiv 2105.04906, equation (5), as a mean over the width as in
    https://github.com/facebookresearch/vicreg/blob/4e12602fd495af83efd1631fbe82523e6db092e0/main_vicreg.py#L198
    """
    losses = [float((one.double() - other.double()).pow(2).mean()) for one, other in zip(projection1, projection2, strict=True)]
    return torch.tensor(losses, dtype=torch.float64)


def vicreg_table(projections: Tensor, weight: float) -> Tensor:
    """The weighted invariance term of every pair of views: (V, B, D) -> (V, V, B); 0 on the diagonal."""
    rows = [[weight * vicreg_invariance_of_pair(one, other) for other in projections] for one in projections]
    return torch.stack([torch.stack(row) for row in rows])
