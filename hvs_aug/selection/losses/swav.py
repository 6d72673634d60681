"""SwAV's loss: the scores of one view predict the assignment of another, which Sinkhorn-Knopp makes of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._check import fail, require
from ...views.recipe import ViewSlot
from .pair import PairLoss, SlotOutputs, as_tensor, joined, placed, require_positive, slot_ranges
from .sinkhorn import log_assignments

__all__ = ["SwAVLoss"]

Live: TypeAlias = float | Callable[[], float]


class SwAVLoss(PairLoss):
    """SwAV's swapped prediction, per image: cross-entropy of every view with the assignment of every other global view.

    ``CE(t, s) = -sum over k of q_tk log softmax(x_s / temperature)_k``, x_s the scores of view s against K prototypes, and q_t the
    assignment that Sinkhorn-Knopp makes of the scores of view t of the whole batch. With G globals and S views kept in all,
    each of the G (S - 1) terms is in one entry: ``table[u, v] = (CE(u, v) + CE(v, u)) / (G (S - 1))``, a local view having only
    the direction in which it predicts. The mean of ``table[u, v]`` over the images is the method's loss on the batch of that pair.

    Where it is not the loss that is trained on: Sinkhorn-Knopp sees candidate t of all images, while the training step sees of
    every image the candidate that was chosen. With a queue of two parts, one for either global view of the training step, a
    global view is compared with a local one by the mean of both.

    Memory beside the outputs: their log-softmax, and an assignment for each global candidate.

    An image whose scores are not finite in a view has non-finite entries for that view, and no share in the assignments.

    Shape: (v, B, K), or with ``prototypes`` (v, B, width) -> (V, V, B); the diagonal is 0.
    Source: SwAV, arXiv 2006.09882, equations 1 to 5; three iterations and no rounding as in its repo.

    Args:
        temperature: above 0, or a function without arguments that returns it; 0.1 in the paper.
        epsilon: of Sinkhorn-Knopp, likewise; 0.05 in the paper.
        iterations: of Sinkhorn-Knopp, at least 1.
        prototypes: a module whose ``weight`` is ``(K, width)``. With it the model returns embeddings of length 1, and scores are
            their products with the prototypes, which are normalised, as SwAV's loop normalises them before each step.
        queue: embeddings ``(parts, n, width)`` of earlier batches, which Sinkhorn-Knopp sees too, one part or one for each of two
            global views; or a function that returns them, or ``None``. A part whose last row is 0 is not full, and not used, as in
            the repo. It is read and never written.
        gather: assignments over the batch of all processes, as in the repo. Each then sends 4 iterations V_global K bytes, and
            every process has to score at the same steps.

    Raises:
        HVSError: if a value is out of range, prototypes or queue have another width, or fewer than 2 views are kept.

    Example:
        >>> import torch
        >>> SwAVLoss().table(torch.randn(4, 8, 32)).shape
        torch.Size([4, 4, 8])
    """

    def __init__(
        self,
        temperature: Live = 0.1,
        epsilon: Live = 0.05,
        iterations: int = 3,
        *,
        prototypes: Any = None,
        queue: Tensor | Callable[[], Tensor | None] | None = None,
        gather: bool = False,
    ) -> None:
        self.temperature = temperature if callable(temperature) else require_positive(temperature, "SwAVLoss(temperature)")
        self.epsilon = epsilon if callable(epsilon) else require_positive(epsilon, "SwAVLoss(epsilon)")
        is_count = isinstance(iterations, int) and not isinstance(iterations, bool) and iterations >= 1
        require(is_count, "SwAVLoss(iterations)", "an integer of at least 1", iterations)
        self.iterations = iterations
        if prototypes is not None and not isinstance(getattr(prototypes, "weight", None), Tensor):
            fail("SwAVLoss(prototypes)", "one module with a weight (K, width)", prototypes)
        hint = "what it holds are embeddings."
        require(queue is None or prototypes is not None, "SwAVLoss(queue)", "prototypes beside a queue", "none", hint)
        self.prototypes, self.queue, self.gather = prototypes, queue, gather

    @classmethod
    def like(cls, settings: Any, prototypes: Any = None, queue: Any = None) -> SwAVLoss:
        """The same loss as a repo's settings, whose temperature and epsilon are read, by attribute, at every table.

        Understood are the arguments of facebookresearch/swav (``epsilon``, ``sinkhorn_iterations``, ``crops_for_assign``),
        lightly's ``SwaVLoss``, and solo-learn's ``SwAV`` (``sk_epsilon``, ``sk_iters``).

        Args:
            prototypes, queue: as for :class:`SwAVLoss`.

        Raises:
            HVSError: for other settings, or if only some of the large crops are assigned.

        Example:
            >>> import types
            >>> args = types.SimpleNamespace(temperature=0.1, epsilon=0.03, sinkhorn_iterations=3)
            >>> args.crops_for_assign, args.nmb_crops = [0, 1], [2, 6]
            >>> SwAVLoss.like(args)
            SwAVLoss(0.1, 0.03, 3, gather=True)
        """
        call = "SwAVLoss.like(settings)"
        names = [
            next((name for name in known if hasattr(settings, name)), None)
            for known in (
                ("temperature",),
                ("epsilon", "sinkhorn_epsilon", "sk_epsilon"),
                ("sinkhorn_iterations", "sk_iters"),
            )
        ]
        if None in names:
            expected = "the attributes temperature, epsilon and sinkhorn_iterations, as swav's arguments have them"
            fail(call, expected, f"{type(settings).__name__} without")
        temperature, epsilon, iterations = (str(name) for name in names)
        assigned = list(getattr(settings, "crops_for_assign", ()))
        large = list(range(settings.nmb_crops[0])) if hasattr(settings, "nmb_crops") else assigned
        require(assigned == large, f"{call}.crops_for_assign", f"all large crops, {large}", f"{assigned}")
        return cls(
            partial(getattr, settings, temperature),
            partial(getattr, settings, epsilon),
            getattr(settings, iterations),
            prototypes=prototypes,
            queue=queue,
            gather=getattr(settings, "sinkhorn_gather_distributed", True),
        )

    def __repr__(self) -> str:
        temperature, epsilon = self._now()
        return f"SwAVLoss({temperature}, {epsilon}, {self.iterations}, gather={self.gather})"

    def uniform_loss(self, width: int) -> float | None:
        """The logarithm of the number of prototypes; unknown where the model returns embeddings."""
        return math.log(width) if self.prototypes is None else None

    def _now(self) -> tuple[float, float]:
        temperature = self.temperature() if callable(self.temperature) else self.temperature
        epsilon = self.epsilon() if callable(self.epsilon) else self.epsilon
        return require_positive(temperature, "SwAVLoss(temperature)"), require_positive(epsilon, "SwAVLoss(epsilon)")

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        call = "SwAVLoss.table(student)"
        kept, kept_global = sum(slot.select for slot in slots), sum(slot.select for slot in slots if slot.role == "global")
        require(kept >= 2, "SwAVLoss.table(slots)", "slots that keep at least 2 views", f"{kept}")
        scores = joined(call, [as_tensor(call, output) for output in student])
        spans = [span for span, slot in zip(slot_ranges(slots), slots, strict=True) if slot.role == "global"]
        weight = self._weight(scores)
        scores = scores if weight is None else scores @ weight.t()
        finite = scores.isfinite().all(-1)
        seen = torch.cat([scores[span.start : span.stop] for span in spans])
        temperature, epsilon = self._now()
        predicted = (scores / temperature).log_softmax(-1)
        targets = self._assignments(seen, self._queued(weight), epsilon)
        directed = [placed(-torch.einsum("gbk,vbk->vgb", part, predicted), slots) for part in targets]
        first, last = directed[0], directed[-1]  # an assignment as that of the first global view of the step, and as the other's
        views = torch.arange(len(scores), device=scores.device)
        losses = torch.where((views[:, None] > views)[..., None], first, last)  # row predicts column, which is the target
        for span, slot in zip(slot_ranges(slots), slots, strict=True):
            if slot.role == "local":
                losses[span.start : span.stop] = (first + last)[span.start : span.stop] * 0.5
        table = (losses + losses.transpose(0, 1)).div_(kept_global * (kept - 1))
        table.masked_fill_(~(finite[:, None] & finite), torch.nan)
        table.diagonal().zero_()
        return table

    def _weight(self, outputs: Tensor) -> Tensor | None:
        """The prototypes (K, width), of length 1."""
        if self.prototypes is None:
            return None
        # Under weight_norm, as in solo-learn, the weight itself is made anew by the module's own forward only.
        weight: Tensor = getattr(self.prototypes, "weight_v", self.prototypes.weight).detach()
        fits = weight.ndim == 2 and weight.shape[1] == outputs.shape[-1] and weight.device == outputs.device
        expected = f"prototypes (K, {outputs.shape[-1]}) on {outputs.device}, as the embeddings are"
        require(fits, "SwAVLoss(prototypes)", expected, weight, "the model returns embeddings, and not scores.")
        return F.normalize(weight.float(), dim=1)

    def _queued(self, weight: Tensor | None) -> Tensor | None:
        """The scores (parts, n, K) of the queue; -inf in a part that is not full."""
        queue = self.queue() if callable(self.queue) else self.queue
        if queue is None or weight is None:
            return None
        fits = queue.ndim == 3 and len(queue) in (1, 2) and queue.shape[1] > 0 and queue.shape[2] == weight.shape[1]
        require(fits, "SwAVLoss(queue)", f"(1 or 2, n, {weight.shape[1]})", queue)
        is_full = queue[:, -1:].ne(0).any(-1, keepdim=True)
        return torch.where(is_full, queue.detach().float() @ weight.t(), -torch.inf)

    def _assignments(self, scores: Tensor, queued: Tensor | None, epsilon: float) -> Tensor:
        """Of scores (G, B, K) the assignments (parts, G, B, K), each a distribution over prototypes."""
        batch = scores.shape[1]
        rows = scores[None]
        if queued is not None:
            more = queued[:, None].expand(-1, len(scores), -1, -1)
            rows = torch.cat([rows.expand(len(queued), *scores.shape), more], 2)
        return log_assignments(rows, epsilon, self.iterations, self.gather)[:, :, :batch].exp()
