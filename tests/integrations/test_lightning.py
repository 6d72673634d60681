"""A real Lightning Trainer on real photographs: two epochs, resumed from a checkpoint, and in two processes."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hvs_aug._check import HVSError
from hvs_aug.data.batch import ImageBatch
from hvs_aug.data.collate import collate_images
from hvs_aug.dropin.loader import HardViewLoader
from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler

from ..distributed.processes import Processes
from ..dropin.photographs import photographs, save_photographs
from ..selection.models import pairs
from .example import SMALL, main_of

pytest.importorskip("lightning.pytorch")
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from hvs_aug.integrations.lightning import HardViewSelection

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


class Photographs(Dataset[Any]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return photographs()[index % 6], index


class SimCLR(LightningModule):
    """An ordinary module, whose training step takes two views and labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(32, 8)
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.network(pixels))

    def training_step(self, batch: Any, index: int) -> Tensor:
        (first, second), labels = batch
        assert first.shape == (len(labels), 3, 16, 16) and self.training and torch.is_grad_enabled()
        self.seen.append(torch.cat([first, second]))
        self.labels = labels
        return -torch.cosine_similarity(self(first), self(second).detach(), dim=-1).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validated(SimCLR):
    def __init__(self) -> None:
        super().__init__()
        self.validated: list[Any] = []

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append(batch)


class Data(LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()


class DataWithHook(Data):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"image": batch[0], "label": batch[1]}


class SimCLRWithHook(SimCLR):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0], batch[1] + 100]


def loader() -> Any:
    return DataLoader(Photographs(), batch_size=4, collate_fn=collate_images)


def make_sampler(module: Any) -> HardPairSampler:
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    return HardPairSampler(module, NTXentLoss(temperature=0.2), pairs(), generator=torch.Generator().manual_seed(rank))


def trainer(folder: Path, callback: Any, **options: Any) -> Trainer:
    off = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, **dict.fromkeys(off, False)}
    return Trainer(default_root_dir=folder, callbacks=[callback], **{**defaults, **options})


def test_two_epochs(tmp_path: Path) -> None:
    module, hard = Validated(), HardViewSelection(make_sampler)
    fitted = trainer(tmp_path, hard)
    fitted.fit(module, loader(), loader())
    assert len(module.seen) == 6 and hard.hard_pairs.step == 6
    assert not torch.equal(module.seen[0], module.seen[3])
    assert torch.equal(torch.cat(hard.last.views), module.seen[-1])
    assert hard.last.indices.shape == (2, 4) and hard.last.loss.isfinite().all()
    assert len(module.validated) == 8 and all(isinstance(batch[0], ImageBatch) for batch in module.validated)
    assert "on_after_batch_transfer" not in vars(module) and "convert_input" not in vars(fitted.precision_plugin)
    expected = make_sampler(SimCLR())
    assert torch.equal(torch.cat(expected(next(iter(loader()))[0]).views), module.seen[0])


def test_resumed_from_a_checkpoint(tmp_path: Path) -> None:
    whole = SimCLR()
    trainer(tmp_path, HardViewSelection(make_sampler)).fit(whole, loader())
    first, hard = SimCLR(), HardViewSelection(make_sampler)
    fitted = trainer(tmp_path, hard, max_epochs=1)
    fitted.fit(first, loader())
    fitted.save_checkpoint(tmp_path / "first.ckpt")
    second, resumed = SimCLR(), HardViewSelection(make_sampler)
    torch.load(tmp_path / "first.ckpt", weights_only=True)  # as newer PyTorch loads it
    trainer(tmp_path, resumed).fit(second, loader(), ckpt_path=tmp_path / "first.ckpt")
    assert len(first.seen) == len(second.seen) == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.seen + second.seen, whole.seen, strict=True))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    trainer(tmp_path, resumed).fit(fresh := SimCLR(), loader())  # without the checkpoint, from the beginning
    assert torch.equal(fresh.seen[0], whole.seen[0])


def test_scoring_is_in_the_trainers_precision(tmp_path: Path) -> None:
    module, hard = SimCLR(), HardViewSelection(make_sampler)
    trainer(tmp_path, hard, max_steps=2, precision="bf16-mixed").fit(module, loader())
    assert hard.last.outputs[0].dtype == torch.bfloat16 and hard.last.views[0].dtype == torch.float32
    assert torch.equal(torch.cat(hard.last.views), module.seen[-1])


def test_a_module_in_half_precision(tmp_path: Path) -> None:
    def casting(module: Any) -> HardPairSampler:
        return make_sampler(lambda pixels: module(pixels.to(module.dtype)))

    module, hard = SimCLR(), HardViewSelection(casting)
    trainer(tmp_path, hard, max_steps=1, precision="bf16-true").fit(module, loader())
    assert hard.last.outputs[0].dtype == module.seen[0].dtype == torch.bfloat16 and module.labels.dtype == torch.int64
    expected = make_sampler(SimCLR().to(torch.bfloat16))
    drawn = expected.views.make_params(next(iter(loader()))[0], expected.generator)
    assert torch.equal(hard.last.params.boxes, drawn.select(hard.last.indices, [0, 0]).boxes)
    assert torch.equal(torch.cat(hard.last.views).to(torch.bfloat16), module.seen[0]) and hard.last.views[0].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
def test_hooks_of_the_users_own_run_first(tmp_path: Path) -> None:
    class FromDict(SimCLR):
        def training_step(self, batch: Any, index: int) -> Tensor:
            return super().training_step((batch["image"], batch["label"]), index)

    for module, data in ((FromDict(), DataWithHook()), (SimCLRWithHook(), Data()), (SimCLR(), Data()), (SimCLRWithHook(), None)):
        own = isinstance(module, SimCLRWithHook)
        fitted = trainer(tmp_path, HardViewSelection(make_sampler), max_steps=2)
        fitted.fit(module, *([loader()] if data is None else []), datamodule=data)
        assert len(module.seen) == 2 and module.labels.tolist() == [(100 if own else 0) + 4 + index for index in range(4)]
        assert "on_after_batch_transfer" not in {**vars(module), **(vars(data) if data else {})}


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(HVSError, match="HardViewSelection.make_sampler.: expected a HardPairSampler from it"):
        trainer(tmp_path, HardViewSelection(lambda module: module)).fit(SimCLR(), loader())
    module = SimCLR()
    views = [([torch.rand(2, 3, 16, 16)] * 2, torch.arange(2))]
    with pytest.raises(HVSError, match="collate_fn=hvs_aug.collate_images"):
        trainer(tmp_path, HardViewSelection(make_sampler)).fit(module, views)
    assert "on_after_batch_transfer" not in vars(module)


def test_a_batch_of_another_format(tmp_path: Path) -> None:
    class OneTensor(SimCLR):
        def training_step(self, batch: Any, index: int) -> Tensor:
            return super().training_step((batch["views"].unbind(1), batch["label"]), index)

    def stacked(hard: Any, batch: Any) -> dict[str, Tensor]:
        return {"views": torch.stack(hard.views, 1), "label": batch[1]}

    module = OneTensor()
    trainer(tmp_path, HardViewSelection(make_sampler, batch_format=stacked), max_steps=2).fit(module, loader())
    assert len(module.seen) == 2 and module.labels.tolist() == [4, 5, 6, 7]


def test_pytorch_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module as it is where only that package is imported."""
    other = pytest.importorskip("pytorch_lightning")
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    spec = importlib.util.spec_from_file_location("hvs_aug.integrations.lightning_again", inspect.getfile(HardViewSelection))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert issubclass(module.HardViewSelection, other.Callback) and issubclass(HardViewSelection, Callback)

    class Module(other.LightningModule):
        forward, training_step, configure_optimizers = SimCLR.forward, SimCLR.training_step, SimCLR.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.network, self.head, self.seen = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(12, 8), []

    hard = module.HardViewSelection(make_sampler)
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    fitted = other.Trainer(accelerator="cpu", devices=1, max_steps=2, default_root_dir=tmp_path, callbacks=[hard], **off)
    fitted.fit(trained := Module(), loader())
    assert len(trained.seen) == hard.hard_pairs.step == 2


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("lightning") / "store")
    yield processes
    processes.end()


def fit_one_of_two(rank: int, folder: Path, port: str) -> tuple[list[Tensor], list[Tensor], list[Tensor], int]:
    """As torchrun starts it: two epochs, then the second of them again from a checkpoint after the first."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="test"
    )
    seen = []
    for epochs, resume in ((2, None), (1, None), (2, folder / "first.ckpt")):
        module, hard = SimCLR(), HardViewSelection(make_sampler)
        fitted = trainer(folder, hard, max_epochs=epochs, devices=2, strategy="ddp")
        fitted.fit(module, loader(), ckpt_path=resume)
        if epochs == 1:
            fitted.save_checkpoint(folder / "first.ckpt")
        seen.append(module.seen)
    return seen[0], seen[1] + seen[2], list(module.parameters()), fitted.world_size


class Numbered(Dataset[Any]):
    """40 images, each with its number."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return torch.full((3, 20, 20), index, dtype=torch.uint8), index


class Counted(SimCLR):
    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        self.numbers += batch[1].tolist()
        return super().training_step(batch, index)


def numbers_of_one_of_two(rank: int, folder: Path, port: str) -> tuple[list[int], str]:
    """By the callback, whose loader Lightning gives a DistributedSampler; and what a HardViewLoader says, which it leaves."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="test"
    )
    module, raw = Counted(), DataLoader(Numbered(), batch_size=4, shuffle=True, collate_fn=collate_images)
    trainer(folder, HardViewSelection(make_sampler), max_epochs=1, devices=2, strategy="ddp").fit(module, raw)
    with pytest.raises(HVSError) as said:
        next(iter(HardViewLoader(raw, make_sampler(SimCLR()))))
    return module.numbers, str(said.value)


def test_each_of_two_devices_has_its_half(pool: Processes, tmp_path: Path) -> None:
    (first, said), (second, also) = pool(numbers_of_one_of_two, tmp_path, "29533")
    assert len(first) == len(second) == 20 and sorted(first + second) == list(range(40))
    assert "a share of the data in each of 2 processes" in said and said == also


def test_two_devices(pool: Processes, tmp_path: Path) -> None:
    (first, resumed, weights, world), (second, too, same, _) = pool(fit_one_of_two, tmp_path, "29533")
    assert world == 2 and len(first) == 4
    for whole, again in ((first, resumed), (second, too)):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole, again, strict=True))
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, same, strict=True))
    states = torch.load(tmp_path / "first.ckpt", weights_only=True)["callbacks"]["HardViewSelection"]["processes"]
    assert [state["step"] for state in states] == [2, 2] and not torch.equal(states[0]["generator"], states[1]["generator"])


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed:UserWarning")
def test_the_example(tmp_path: Path) -> None:
    data, out = save_photographs(tmp_path / "images"), tmp_path / "out"
    fitted = main_of("lightning_simclr")(["--data", str(data), "--steps", "2", "--devices", "1", "--out", str(out), *SMALL])
    assert fitted.global_step == 2 and 0 < float(fitted.callback_metrics["loss"]) < 20
    (checkpoint,) = out.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["callbacks"]["HardViewSelection"]["processes"][0]["step"] == 2
