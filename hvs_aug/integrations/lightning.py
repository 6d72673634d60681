"""Lightning: a callback that puts hard views in the place of every training batch's raw images.

It is a callback of the package that is in use, ``lightning`` or ``pytorch_lightning``: the one that is imported already, or else
the one that is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from .._check import require
from .._processes import is_distributed, rank, world_size
from ..dropin.loader import HardViewLoader
from ..selection.sampler import HardPairSampler, HardViews

__all__ = ["HardViewSelection"]

_PACKAGES = ("lightning", "pytorch_lightning")
_HOOK = "on_after_batch_transfer"


def _in_use() -> Any:
    """The module that has the callbacks."""
    modules = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
    imported = [name for name in _PACKAGES if modules[name] in sys.modules]
    installed = [name for name in _PACKAGES if importlib.util.find_spec(name) is not None]
    return importlib.import_module(modules[[*imported, *installed, "lightning"][0]])


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = _in_use().Callback


class HardViewSelection(Callback):
    """A callback for ``Trainer(callbacks=[...])``; the LightningModule and its data stay as they are, but for raw images.

    The train dataloader yields raw images (``collate_fn=hvs_aug.collate_images``, no transform), and Lightning gives it a
    DistributedSampler, as any other. After a batch has crossed to the device, in ``on_after_batch_transfer``, the views are
    chosen with the module as it is, in the trainer's mixed precision, and ``training_step`` gets the batch that
    :class:`hvs_aug.HardViewLoader` would yield: the list of views where the images were. Validation, test and prediction
    batches are left alone. A hook of that name of the user's own runs first, on raw images.

    The sampler's state goes into the checkpoint, that of every process, so that a resumed run draws and chooses as one that was
    never interrupted, if it has as many processes; a process that has no state there starts a stream of its own.

    Args:
        make_sampler: called with the LightningModule when fitting begins, in every process, and returns the sampler. The module is
            not wrapped by the strategy, so ``HardPairSampler(module, ...)`` is right under DDP too. In a precision such as
            "bf16-true", ``HardPairSampler(lambda x: module(x.to(module.dtype)), ...)``. With a strategy that spawns processes, a
            function at the top of a file.
        batch_format: a function ``(hard_views, batch)`` that makes the batch that ``training_step`` gets.

    Attributes:
        hard_pairs: the sampler, once fitting has begun.
        last: the HardViews of the last batch.

    Raises:
        HVSError: if ``make_sampler`` does not return a HardPairSampler, or a training batch holds no raw images.

    Example:
        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> views = hvs_aug.CandidateViews.preset("simclr")  # doctest: +SKIP
        >>> loss = hvs_aug.NTXentLoss(temperature=0.1)  # doctest: +SKIP
        >>> hard = HardViewSelection(lambda module: hvs_aug.HardPairSampler(module, loss, views))  # doctest: +SKIP
        >>> Trainer(callbacks=[hard])  # doctest: +SKIP
    """

    def __init__(
        self,
        make_sampler: Callable[[Any], HardPairSampler],
        batch_format: Callable[[HardViews, Any], Any] | None = None,
    ) -> None:
        require(callable(make_sampler), "HardViewSelection(make_sampler)", "a function of the LightningModule", make_sampler)
        self._make_sampler, self._batch_format = make_sampler, batch_format
        self._loader: HardViewLoader | None = None
        self._waiting: dict[str, Any] | None = None
        self._replaced: list[tuple[Any, str]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return HardViewSelection, (self._make_sampler, self._batch_format)

    @property
    def state_key(self) -> str:
        return "HardViewSelection"

    @property
    def hard_pairs(self) -> HardPairSampler | None:
        return None if self._loader is None else self._loader.hard_pairs

    @property
    def last(self) -> Any:
        return None if self._loader is None else self._loader.last

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sampler = self._make_sampler(pl_module)
        require(isinstance(sampler, HardPairSampler), "HardViewSelection(make_sampler)", "a HardPairSampler from it", sampler)
        self._loader = HardViewLoader([], sampler, pl_module.device, self._batch_format)
        if self._waiting is not None:
            self.load_state_dict(self._waiting)  # it came before there was a sampler
        self._install(trainer, pl_module, self._loader)

    def _install(self, trainer: Trainer, pl_module: LightningModule, loader: HardViewLoader) -> None:
        """Where Lightning looks for the hook: the data module's, unless only the LightningModule has one of its own."""
        data = getattr(trainer, "datamodule", None)
        theirs = data is not None and (_is_overridden(data) or not _is_overridden(pl_module))
        owner: Any = data if theirs else pl_module
        own, precision = getattr(owner, _HOOK), trainer.precision_plugin
        convert = precision.convert_input
        # Other precisions change the default dtype in their context, in which views are not to be rendered.
        scoring = precision.forward_context if "mixed" in str(precision.precision) else nullcontext

        def after_transfer(batch: Any, dataloader_idx: int) -> Any:
            batch = own(batch, dataloader_idx)
            if not trainer.training:
                return batch
            with scoring():
                batch = loader.choose(batch)
            return convert(batch)

        # Half precision and FSDP convert a batch before it crosses, and would take an ImageBatch apart.
        self._replace(precision, "convert_input", lambda batch: batch if trainer.training else convert(batch))
        self._replace(owner, _HOOK, after_transfer)

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(owner, name, function)
        self._replaced.append((owner, name))

    def _remove(self) -> None:
        while self._replaced:
            delattr(*self._replaced.pop())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._remove()
        self._waiting = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove()

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state in every process. Lightning calls this in all of them."""
        if self.hard_pairs is None:
            return self._waiting or {}
        state = self.hard_pairs.state_dict()
        if not is_distributed():
            return {"processes": [state]}
        states: list[Any] = [None] * world_size()
        dist.all_gather_object(states, state)
        return {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._waiting = state_dict
        sampler = self.hard_pairs
        if sampler is None or not state_dict:
            return
        states = state_dict["processes"]
        own = states[rank()] if rank() < len(states) else sampler.state_dict() | {"step": states[0]["step"]}
        sampler.load_state_dict(own)


def _is_overridden(owner: Any) -> bool:
    """Whether the hook is the user's own, whichever of the two packages the owner is of."""
    return getattr(type(owner), _HOOK).__module__.partition(".")[0] not in _PACKAGES
