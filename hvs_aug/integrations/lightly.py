"""Lightly: its criteria as pair losses, and its transforms with more candidates than views.

Two ways into a Lightly script. Either its DataLoader is wrapped, ``hvs_aug.wrap(loader, model=model, loss=pair_loss(criterion))``:
the transform is read from the dataset and rendered on the device. Or it is swapped for ``CandidateTransform(transform)``,
still Lightly's own pipeline in the workers, and the loop begins with ``sampler.select``. Nothing here imports Lightly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from .._check import fail, require
from ..selection.losses import DINOLoss, IBOTLoss, MoCoLoss, NegativeCosineLoss, NTXentLoss, PairLoss, SwAVLoss, VICRegLoss
from ..views.recipe import ViewSlot

__all__ = ["CandidateTransform", "pair_loss"]

_OWN = "give HardPairSampler a function (out_a, out_b) -> (B,) that says how hard a pair of views is; see hvs_aug.CallableLoss."


def pair_loss(criterion: Any, *, epoch: int | Callable[[], int] | None = None, patch_criterion: Any = None) -> PairLoss:
    """Make the pair loss that matches a Lightly criterion. The criterion itself is never called, and trains as before.

    Temperatures and centre of ``DINOLoss`` are read from it at every step, as in :meth:`hvs_aug.DINOLoss.like`.

    Args:
        criterion: ``NTXentLoss`` (with a memory bank it is MoCo's, and the key encoder the teacher), ``DINOLoss``,
            ``NegativeCosineSimilarity`` (SimSiam; BYOL with a teacher), ``SwaVLoss`` without a queue, ``VICRegLoss``.
        epoch: for ``DINOLoss``, the epoch that the script passes to it, or a function that returns it.
        patch_criterion: iBOT's ``IBOTPatchLoss`` beside its ``DINOLoss``.

    Raises:
        HVSError: for any other criterion.
    """
    call = "pair_loss(criterion)"
    kinds = {kind.__name__ for kind in type(criterion).__mro__ if kind.__module__.partition(".")[0] == "lightly"}
    if "DINOLoss" in kinds:
        if patch_criterion is not None:
            return IBOTLoss.like(criterion, epoch, patch_criterion)
        return DINOLoss.like(criterion, epoch)
    if "NegativeCosineSimilarity" in kinds:
        require(criterion.dim in (1, -1), call, "a NegativeCosineSimilarity over dim=1", f"dim={criterion.dim}")
        return NegativeCosineLoss()
    if "NTXentLoss" in kinds:
        size = criterion.memory_bank.size
        if (next(iter(size), 0) if isinstance(size, Sequence) else size) > 0:
            return MoCoLoss.like(criterion)
        return NTXentLoss(criterion.temperature, gather=criterion.gather_distributed)
    if "SwaVLoss" in kinds:
        return SwAVLoss.like(criterion)
    if "VICRegLoss" in kinds:
        return VICRegLoss.like(criterion)
    fail(call, "Lightly's NTXentLoss, NegativeCosineSimilarity, DINOLoss, SwaVLoss or VICRegLoss", type(criterion).__name__, _OWN)


class CandidateTransform:
    """A Lightly transform of several views that returns more of each kind, for ``HardPairSampler.select`` to choose among.

    Views that follow each other and are made by the same transform object are one slot, as SimCLR's two and DINO's local ones.

    Args:
        transform: a Lightly ``MultiViewTransform`` (``SimCLRTransform``, ``DINOTransform``...), or a list with one transform for
            each view.
        candidates: how many candidates are drawn for every view that is kept.
        local_views: how many of its views, at the end, are small crops, which a teacher does not see (``DINOTransform``: 6).

    Attributes:
        slots: for ``HardPairSampler(model, loss, transform.slots)``.

    Raises:
        HVSError: if the transform has no list of transforms, or, when it is called, two global views differ in size.

    Example:
        >>> transform = CandidateTransform([str.upper] * 2 + [str.lower] * 3, local_views=3)
        >>> [(slot.candidates, slot.select, slot.role) for slot in transform.slots]
        [(4, 2, 'global'), (6, 3, 'local')]
        >>> transform("Aa")
        ['AA', 'AA', 'AA', 'AA', 'aa', 'aa', 'aa', 'aa', 'aa', 'aa']
    """

    def __init__(self, transform: Any, candidates: int = 2, *, local_views: int = 0) -> None:
        views = transform if isinstance(transform, (list, tuple)) else getattr(transform, "transforms", None)
        call = "CandidateTransform(transform)"
        if not isinstance(views, (list, tuple)) or not views or not all(callable(view) for view in views):
            fail(
                call, "a transform of several views, with a list of transforms", transform, "Lightly's MultiViewTransform has one."
            )
        is_count = isinstance(candidates, int) and candidates >= 1
        require(is_count, "CandidateTransform(candidates)", "a count of at least 1", candidates)
        kept = len(views) - local_views
        require(0 < kept <= len(views), "CandidateTransform(local_views)", f"a count from 0 to {len(views) - 1}", local_views)
        runs = [list(run) for _, run in groupby(enumerate(views), key=lambda entry: (id(entry[1]), entry[0] >= kept))]
        self.transforms = [run[0][1] for run in runs for _ in range(candidates * len(run))]
        self.slots = tuple(
            ViewSlot(
                None,
                candidates=candidates * len(run),
                select=len(run),
                name=f"view-{number}",
                role="local" if run[0][0] >= kept else "global",
            )
            for number, run in enumerate(runs, 1)
        )

    def __call__(self, image: Any) -> list[Any]:
        """Make the candidates of one image, in slot order."""
        views = [transform(image) for transform in self.transforms]
        shared = sum(slot.candidates for slot in self.slots if slot.role == "global")
        sizes = {tuple(view.shape) for view in views[:shared] if hasattr(view, "shape")}
        if len(sizes) > 1:
            hint = "small crops are local: CandidateTransform(DINOTransform(), local_views=6)."
            fail("CandidateTransform(local_views)", "global views of one size", f"sizes {sorted(sizes)}", hint)
        return views

    def __repr__(self) -> str:
        return f"CandidateTransform(slots={self.slots})"
