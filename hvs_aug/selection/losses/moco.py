"""MoCo's losses: queries against a momentum encoder's keys, with a queue of negatives or with those of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._check import fail, require
from ..._processes import is_distributed
from ...views.recipe import ViewSlot
from .gathered import gathered
from .pair import PairLoss, SlotOutputs, as_tensor, block_bytes, joined, require_positive

__all__ = ["MoCoLoss"]

Queue: TypeAlias = Tensor | Callable[[], Tensor] | None


class MoCoLoss(PairLoss):
    """MoCo's cross-entropy of a query with the other view's key among negatives, per image.

    ``CE(q, k) = log(exp(q.k / T) + sum over n of exp(q.n / T)) - q.k / T``, queries and keys of length 1. Of the pair (u, v) with
    u < v, u is the first view of the training step. With a queue the negatives n are its columns, which are read and never written:

    - MoCo v1 and v2: the first view is the query, the second the key: ``table[u, v] = CE(q_u, k_v)``.
    - ``symmetric``: the mean of both directions. A queue of two parts, as solo-learn's, has one for the keys of either view:
      ``(CE(q_u, k_v, queue 1) + CE(q_v, k_u, queue 0)) / 2``.

    Without a queue (MoCo v3) the negatives of q_u are the keys of view v of the other images, and
    ``table[u, v] = 2 T (CE(q_u, k_v) + CE(q_v, k_u))``. In every case the mean of ``table[u, v]`` over the
    images is the method's loss on the batch of that pair. The momentum encoder scores as it is, one update of its average before
    the step that trains, and without MoCo's shuffling of images among processes for BatchNorm.

    One product of all queries with the queue (or with all keys), in blocks of rows: beside normalised copies of the outputs, peak
    memory is two blocks (4 MiB each on a CPU, 64 MiB on a device, or one row if that is larger).

    An image whose query or key is not finite has non-finite entries where these count; a key that is not finite is no negative
    for the others.

    Shape: (v, B, width) each -> (V, V, B); the diagonal is 0.
    Source: MoCo, arXiv 1911.05722, equation 1 and algorithm 1; MoCo v3, arXiv 2104.02057, equation 1 and algorithm 1.

    Args:
        temperature: above 0, or a function without arguments that returns it; 0.2 in MoCo v2.
        queue: ``(width, n)``, or ``(2, width, n)``, columns of length 1; or a function that returns it, read at every table.
            ``None`` for MoCo v3.
        symmetric: with a queue, whether both directions count; without one they always do.
        gather: without a queue, take the negatives from all processes, as MoCo v3 does. Then every process has to score at the
            same steps; their batch sizes may differ.

    Raises:
        HVSError: if the temperature is not positive, the queue has another width, a slot is local, or, without a queue, a batch of
            one image leaves no negatives.

    Example:
        >>> import torch
        >>> queue = torch.nn.functional.normalize(torch.randn(16, 100), dim=0)
        >>> MoCoLoss(0.2, queue).table(torch.randn(4, 8, 16), torch.randn(4, 8, 16)).shape
        torch.Size([4, 4, 8])
    """

    needs_teacher = True

    def __init__(
        self,
        temperature: float | Callable[[], float],
        queue: Queue = None,
        *,
        symmetric: bool = False,
        gather: bool = False,
    ) -> None:
        self.temperature = temperature if callable(temperature) else require_positive(temperature, "MoCoLoss(temperature)")
        self.queue = queue
        self.symmetric = symmetric or queue is None
        require(not (gather and queue is not None), "MoCoLoss(gather)", "False where there is a queue", gather)
        self.gather = gather

    @classmethod
    def like(cls, model: Any) -> MoCoLoss:
        """The same loss as a repo's model, whose queue and temperature are read, by attribute, at every table.

        Understood are facebookresearch/moco's ``MoCo`` (``queue``, ``T``), moco-v3's (``T`` without a queue: negatives of all
        processes), solo-learn's ``MoCoV2Plus`` (``queue`` of two parts, ``temperature``) and ``MoCoV3``, and lightly's
        ``NTXentLoss`` with a memory bank. The model is never called, and the queue never written.

        Example:
            >>> import types, torch
            >>> model = types.SimpleNamespace(T=0.2, queue=torch.nn.functional.normalize(torch.randn(16, 100), dim=0))
            >>> MoCoLoss.like(model)
            MoCoLoss(0.2, queue of 100, symmetric=False)
        """
        call = "MoCoLoss.like(model)"
        bank = getattr(model, "memory_bank", None)
        if bank is not None:
            size = bank.size[0] if isinstance(bank.size, Sequence) else bank.size
            require(size > 0, call, "a loss with a memory bank", "one of 0 rows", "NTXentLoss is its pair loss.")
            return cls(partial(getattr, model, "temperature"), partial(_columns, bank))
        name = next((name for name in ("T", "temperature") if hasattr(model, name)), None)
        hint = "pass model.module, what DistributedDataParallel wraps."
        if name is None:
            fail(call, "a model with the attribute T or temperature", f"{type(model).__name__} without", hint)
        if not hasattr(model, "queue"):
            is_v3 = hasattr(model, "predictor") and (hasattr(model, "momentum_encoder") or hasattr(model, "momentum_backbone"))
            expected = "a model with a queue, or with a predictor and a momentum encoder"
            require(is_v3, call, expected, f"{type(model).__name__} without", hint)
            return cls(partial(getattr, model, name), gather=True)
        return cls(partial(getattr, model, name), partial(getattr, model, "queue"), symmetric=model.queue.ndim == 3)

    def __repr__(self) -> str:
        queue = self._queue()
        kind = f"gather={self.gather}" if queue is None else f"queue of {queue.shape[-1]}, symmetric={self.symmetric}"
        return f"MoCoLoss({self._temperature()}, {kind})"

    def _temperature(self) -> float:
        value = self.temperature() if callable(self.temperature) else self.temperature
        return require_positive(value, "MoCoLoss(temperature)")

    def _queue(self) -> Tensor | None:
        return self.queue() if callable(self.queue) else self.queue

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        roles = [slot.role for slot in slots]
        require("local" not in roles, "MoCoLoss.table(slots)", "global slots, each a query and a key", f"roles {roles}")
        sides = []
        for name, outputs in (("student", student), ("teacher", teacher or ())):
            call = f"MoCoLoss.table({name})"
            sides.append(F.normalize(joined(call, [as_tensor(call, output) for output in outputs]), dim=-1, eps=1e-12))
        queries, keys = sides
        widths = f"{queries.shape[-1]} and {keys.shape[-1]}"
        require(queries.shape == keys.shape, "MoCoLoss.table(teacher)", "queries and keys of one width", widths)
        temperature, queue = self._temperature(), self._queue()
        positive = torch.einsum("ubd,vbd->uvb", queries, keys) / temperature
        if queue is None:
            directed = self._over_keys(queries, keys, temperature) - positive
            table = (directed + directed.transpose(0, 1)).mul_(2 * temperature)
        else:
            # [part, u, v, b]: the query u with the key v
            over = self._over_queue(queries, queue, temperature)
            directed = torch.logaddexp(over[:, :, None], positive) - positive
            table = (directed[-1] + directed[0].transpose(0, 1)) * 0.5 if self.symmetric else directed[-1]
            first = torch.ones_like(table[..., 0], dtype=torch.bool).triu(1)[..., None]
            table = torch.where(first, table, table.transpose(0, 1))
        table.diagonal().zero_()
        return table

    def _over_queue(self, queries: Tensor, queue: Tensor, temperature: float) -> Tensor:
        """Log-sum-exp of each query's similarities to each part of the queue: (parts, V, B)."""
        width = queries.shape[-1]
        parts = queue[None] if queue.ndim == 2 else queue
        fits = parts.ndim == 3 and len(parts) in (1, 2) and parts.shape[1] == width and parts.shape[2] > 0
        require(fits, "MoCoLoss(queue)", f"({width}, n), or (2, {width}, n)", queue)
        require(queue.device == queries.device, "MoCoLoss(queue)", f"a queue on {queries.device}, as the outputs are", queue)
        rows = queries.flatten(0, 1) / temperature
        height = max(1, block_bytes(rows.device) // (4 * parts.shape[2]))
        found = [torch.cat([(block @ part.float()).logsumexp(-1) for block in torch.split(rows, height)]) for part in parts]
        return torch.stack(found).view(len(parts), *queries.shape[:2])

    def _over_keys(self, queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
        """Log-sum-exp of each query's similarities to the keys of one view of all images, its own among them: (V, V, B)."""
        finite = keys.isfinite().all(-1)
        columns, allowed = torch.where(finite[..., None], keys, 0.0), finite
        if self.gather and is_distributed():
            columns, allowed, _ = gathered(columns, finite)
        if columns.shape[1] < 2:
            hint = "drop the last batch (drop_last=True), or use gather=True where there are several processes."
            fail("MoCoLoss.table(teacher)", "at least 2 images, whose keys are the negatives", f"{columns.shape[1]}", hint)
        views, batch = queries.shape[:2]
        bias = torch.where(allowed, 0.0, -torch.inf).reshape(-1)
        rows, others = queries.flatten(0, 1) / temperature, columns.flatten(0, 1).t()
        height = max(1, block_bytes(rows.device) // (4 * len(bias)))
        blocks = [torch.addmm(bias, block, others).view(len(block), views, -1).logsumexp(-1) for block in torch.split(rows, height)]
        return torch.cat(blocks).view(views, batch, views).permute(0, 2, 1)


def _columns(bank: Any) -> Tensor:
    """The rows of lightly's memory bank as columns."""
    rows: Tensor = bank.bank
    return rows.t()
