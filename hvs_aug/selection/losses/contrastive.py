"""Losses of two views: SimSiam's and BYOL's negative cosine, SimCLR's NT-Xent, and any function of two outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._check import fail, require
from ..._processes import is_distributed
from ...views.recipe import ViewSlot
from .gathered import gathered
from .pair import (
    Output,
    PairLoss,
    SlotOutputs,
    as_tensor,
    block_bytes,
    joined,
    mean_of_directions,
    of_view,
    require_positive,
    tensors,
)

__all__ = ["CallableLoss", "NTXentLoss", "NegativeCosineLoss"]


class NegativeCosineLoss(PairLoss):
    """Negative cosine similarity between one view's prediction and the other's projection: SimSiam and BYOL.

    ``D(u, v) = (-cos(p_u, z_v) - cos(p_v, z_u)) / 2``, in [-1, 1]. The model returns ``(prediction, projection)`` or a dict with
    these keys. With a teacher (BYOL) the projections are the teacher's; then the student may return its prediction alone, the
    teacher its projection alone, and a global and a local view have one direction only, that with the projection of the global
    view. BYOL's own ``2 - 2 cos``, summed over both directions, is ``4 + 4 D``: the same choice.

    Shape: (v, B, width) each -> (V, V, B); the diagonal is 0.
    Source: SimSiam, arXiv 2011.10566, equation 2; BYOL, arXiv 2006.07733, equation 2.

    Args:
        local_pairs: whether two local views are compared as well.

    Example:
        >>> import torch
        >>> p = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> NegativeCosineLoss().table((p, p.flip(0)))[:, :, 0]
        tensor([[ 0., -1.],
                [-1.,  0.]])
    """

    accepts_teacher = True

    def __init__(self, *, local_pairs: bool = False) -> None:
        self.local_pairs = local_pairs

    def __repr__(self) -> str:
        return f"NegativeCosineLoss(local_pairs={self.local_pairs})" if self.local_pairs else "NegativeCosineLoss()"

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        has_teacher = teacher is not None
        predictions = [_part("NegativeCosineLoss.table(student)", output, "prediction", 0, has_teacher) for output in student]
        source, call = (student, "student") if teacher is None else (teacher, "teacher")
        call = f"NegativeCosineLoss.table({call})"
        projections = [_part(call, output, "projection", -1, has_teacher) for output in source if output is not None]
        prediction = F.normalize(joined("NegativeCosineLoss.table(student)", predictions), dim=-1, eps=1e-8)
        projection = F.normalize(joined(call, projections), dim=-1, eps=1e-8)
        if prediction.shape[-1] != projection.shape[-1]:
            got = f"{prediction.shape[-1]} and {projection.shape[-1]}"
            fail(call, "predictions and projections of one width", got)
        losses = -torch.matmul(prediction.transpose(0, 1), projection.permute(1, 2, 0)).permute(1, 2, 0)
        if teacher is not None:
            return mean_of_directions(losses, slots)
        table = (losses + losses.transpose(0, 1)) * 0.5
        table.diagonal().zero_()
        return table


class NTXentLoss(PairLoss):
    """SimCLR's NT-Xent: for the pair (u, v) the 2B x 2B problem of exactly those two views of the whole batch.

    With ``s`` the cosine similarity over the temperature, the row of image b in view u is
    ``-s(u_b, v_b) + log(sum of exp s(u_b, x))`` over all ``x`` in views u and v except ``u_b`` itself; the entry is the mean of
    image b's two rows. So the mean of ``table[u, v]`` over the images is the method's loss on the batch of that pair, and the
    negatives of a pair are the views with the same two indices, whatever is chosen for the other images.

    One product of all candidates with all candidates, (V B, width) x (width, V B), serves all pairs: the log-sum-exp of each
    row over the columns of each view, of which two are added for a pair. It is walked in blocks of rows: beside two normalised
    copies of the outputs, peak memory is one block (4 MiB on a CPU, 64 MiB on a device, or one row if that is larger).

    An image whose output is not finite in a view has non-finite entries for that view; it is no negative for the others.

    Shape: (v, B, width) -> (V, V, B); the diagonal is 0.
    Source: SimCLR, arXiv 2002.05709, equation 1.

    Args:
        temperature: above 0; 0.1 for ImageNet and 0.5 for CIFAR-10 in the paper.
        gather: take the negatives from all processes of ``torch.distributed``, as where the repo gathers its outputs. All
            processes must score at the same steps; their batch sizes may differ. The sizes are exchanged on the CPU, so the
            host does not wait for the device.
        local_pairs: whether two local views are compared as well.

    Raises:
        HVSError: if the temperature is not positive, or a batch of one image leaves no negatives.

    Example:
        >>> import torch
        >>> outputs = torch.randn(4, 8, 16)
        >>> NTXentLoss(temperature=0.1).table(outputs).shape
        torch.Size([4, 4, 8])
    """

    def __init__(self, temperature: float, gather: bool = False, *, local_pairs: bool = False) -> None:
        self.temperature = require_positive(temperature, "NTXentLoss(temperature)")
        self.gather = gather
        self.local_pairs = local_pairs

    def __repr__(self) -> str:
        return f"NTXentLoss(temperature={self.temperature}, gather={self.gather}, local_pairs={self.local_pairs})"

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        call = "NTXentLoss.table(student)"
        outputs = F.normalize(joined(call, [as_tensor(call, output) for output in student]), dim=-1, eps=1e-8)
        views, batch, width = outputs.shape
        finite = outputs.isfinite().all(-1)
        outputs = torch.where(finite[..., None], outputs, 0.0)
        columns, allowed, first = outputs, finite, 0
        if self.gather and is_distributed():
            columns, allowed, first = gathered(outputs, finite)
        if columns.shape[1] < 2:
            hint = "drop the last batch (drop_last=True), or use gather=True where there are several processes."
            fail(call, "at least 2 images, since the others of the batch are the negatives", f"{columns.shape[1]}", hint)

        # Row (u, b) against the columns of view w: (V, B, V). A column that may not be a negative gets -inf before the product.
        rows = outputs.reshape(views * batch, width) / self.temperature
        bias = torch.where(allowed, 0.0, -torch.inf).reshape(-1)
        keys = columns.reshape(-1, width).t()
        own = torch.arange(views, device=rows.device)[:, None] * columns.shape[1] + torch.arange(batch, device=rows.device) + first
        own = own.reshape(-1, 1)
        height = max(1, block_bytes(rows.device) // (4 * len(bias)))
        blocks = zip(torch.split(rows, height), torch.split(own, height), strict=True)
        over = torch.cat([_log_sum_exp(block, keys, bias, itself, views) for block, itself in blocks]).view(views, batch, views)

        same = over.diagonal(dim1=0, dim2=2).t()
        normaliser = torch.logaddexp(same[:, None], over.permute(0, 2, 1))
        batched = outputs.transpose(0, 1)
        positive = torch.matmul(batched, batched.transpose(1, 2)).permute(1, 2, 0) / self.temperature
        directed = normaliser - positive
        table = (directed + directed.transpose(0, 1)) * 0.5
        table.masked_fill_(~(finite[:, None] & finite), torch.nan)
        table.diagonal().zero_()
        return table


class CallableLoss(PairLoss):
    """Any function ``(out_a, out_b) -> (B,)`` of two views' outputs, called pair by pair.

    The function receives the outputs of two views as the model structured them (a tensor, a tuple or a dict), without the axis
    of views, and returns one loss per image. It must be symmetric, because it is called once for every two views. With
    ``teacher=True`` it receives the student's output of one view and the teacher's output of another, global view; the two
    directions of a pair are averaged if both exist.

    Barlow Twins is not a sum over images, so its loss cannot say which views of one image are hard. Choose by the squared
    difference of standardised outputs: its mean over the batch is 2 - 2 (mean of the diagonal of the cross-correlation). MoCo,
    SwAV and VICReg have losses of their own: :class:`MoCoLoss`, :class:`SwAVLoss`, :class:`VICRegLoss`.

    Args:
        function: ``(out_a, out_b) -> (B,)``, floating point.
        teacher: whether the second output is a teacher's.
        local_pairs: whether two local views are compared as well.

    Raises:
        HVSError: if the function returns another shape than (B,), such as a mean over the batch.

    Example:
        >>> import torch
        >>> loss = CallableLoss(lambda a, b: (a - b).square().mean(-1))
        >>> loss.table(torch.tensor([[[0.0]], [[3.0]]]))[0, 1]
        tensor([9.])
    """

    def __init__(self, function: Callable[[Any, Any], Tensor], *, teacher: bool = False, local_pairs: bool = False) -> None:
        if not callable(function):
            fail("CallableLoss(function)", "a function (out_a, out_b) -> (B,)", function)
        self.function = function
        self.needs_teacher = teacher
        self.local_pairs = local_pairs

    def __repr__(self) -> str:
        return f"CallableLoss({self.function!r}, teacher={self.needs_teacher}, local_pairs={self.local_pairs})"

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        first = _views(student)
        if not self.needs_teacher:
            local = [slot.role == "local" for slot in slots for _ in range(slot.candidates)]
            pairs = {
                (u, v): self._losses(first[u], first[v])
                for v in range(len(first))
                for u in range(v)
                if self.local_pairs or not (local[u] and local[v])
            }
            like = next(tensors(first[0]))
            zero = torch.zeros(len(like), dtype=torch.float32, device=like.device)
            entries = [pairs.get((min(u, v), max(u, v)), zero) for u in range(len(first)) for v in range(len(first))]
            return torch.stack(entries).view(len(first), len(first), -1)
        second = _views(teacher or ())
        directed = [self._losses(one, other) for one in first for other in second]
        return mean_of_directions(torch.stack(directed).view(len(first), len(second), -1), slots)

    def _losses(self, one: Output, other: Output) -> Tensor:
        losses = self.function(one, other)
        batch = next(tensors(one)).shape[0]
        if not isinstance(losses, Tensor) or losses.shape != (batch,) or not losses.is_floating_point():
            hint = 'return one loss per image: reduction="none" instead of a mean over the batch.'
            fail("CallableLoss(function)", f"a floating-point tensor of shape ({batch},) from the function", losses, hint)
        return losses.float()


def _views(outputs: SlotOutputs) -> list[Output]:
    return [of_view(output, index) for output in outputs if output is not None for index in range(len(next(tensors(output))))]


def _part(call: str, output: Output | None, name: str, index: int, has_teacher: bool) -> Tensor:
    """The named tensor of an output (prediction, projection); the only one, where that suffices."""
    if isinstance(output, Mapping) and name in output:
        part = output[name]
    elif isinstance(output, (tuple, list)) and len(output) == 2:
        part = output[index]
    elif isinstance(output, Tensor) and has_teacher:
        part = output
    else:
        expected = "(prediction, projection), or a dict with these keys"
        fail(call, expected, output, "SimSiam's model returns both; with a teacher, the prediction or projection alone suffices.")
    require(part.ndim == 3, call, f"a {name} with axes (candidates, B, width)", part)
    return part


def _log_sum_exp(rows: Tensor, keys: Tensor, bias: Tensor, itself: Tensor, views: int) -> Tensor:
    """Log-sum-exp of each row's similarities to the columns of each view, the row itself left out: (n, views)."""
    block = torch.addmm(bias, rows, keys).scatter_(1, itself, -torch.inf).view(len(rows), views, -1)
    highest = block.amax(-1, keepdim=True).clamp_(min=torch.finfo(block.dtype).min)
    return block.sub_(highest).exp_().sum(-1).log_().add_(highest[..., 0])
