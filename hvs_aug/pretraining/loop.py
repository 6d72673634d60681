"""The training loop of the commands: a loader, a sampler, a step, metrics, and checkpoints that resume bit for bit on a CPU."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .._check import HVSError, fail, require, require_name
from ..analysis.log import Log
from ..analysis.machine import machine
from ..analysis.metrics import SelectionMeter
from ..data.batch import ImageBatch
from ..data.collate import collate_images
from ..selection.named import as_policy, as_scoring
from ..selection.scoring import Scoring
from ..selection.watch import timings
from ..views.candidates import CandidateViews
from .build import METHODS, build_method, use_transform
from .checkpoint import flatten_optimizer, load_checkpoint, naming_file, restore_optimizer, save_checkpoint, whole_file
from .encoder_file import save_encoder
from .methods import Method
from .networks import patch_of
from .progress import Progress
from .signals import Interrupted, blocked_signals, deferred_signals, keep_working
from .skipped import SkippedImages, naming_killers

__all__ = [
    "CHECKPOINT",
    "ENCODER",
    "METRICS",
    "SKIPPED",
    "Interrupted",
    "Pretraining",
    "Settings",
    "fitting_size",
    "load_method",
    "summarise",
    "time_shares",
]

CHECKPOINT, ENCODER, METRICS, SKIPPED = "checkpoint.safetensors", "encoder.safetensors", "metrics.jsonl", "skipped.txt"


class Images(Protocol):
    """A map-style dataset: of images, or of tuples that start with one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


ALL = "all"
"""In the place of a policy: nothing is chosen."""


@dataclass(frozen=True)
class Settings:
    """All that decides what a run computes, beside its images. Saved with its checkpoint.

    Attributes:
        method, size, encoder: what is trained, for views of how many pixels.
        epochs, batch_size, learning_rate, seed: how. ``learning_rate`` is that of the method where it is ``None``.
        candidates, policy, scoring: which views are trained on, as in :class:`hvs_aug.HardPairSampler`. ``"cheap"`` trained as
            well as ``"full"`` in ``benchmarks/results/quality.json``. The policy ``"all"`` trains on every candidate.
        score_scale, every: in the place of the scoring's own ``scale`` and ``every``.
        transform: ``module:object``, a transform of your own in the place of the method's augmentation.
    """

    method: str = "simclr"
    size: int = 32
    encoder: str | None = None
    epochs: int = 100
    batch_size: int = 256
    learning_rate: float | None = None
    seed: int = 0
    candidates: int | None = None
    policy: str = "hardest"
    scoring: str = "cheap"
    score_scale: float | None = None
    every: int | None = None
    transform: str | None = None

    def __post_init__(self) -> None:
        require_name(self.method, METHODS, "Settings(method)")
        for name in ("size", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"Settings({name})", "an integer of at least 1", getattr(self, name))
        fewest = METHODS[self.method].fewest_images
        require(self.batch_size >= fewest, "Settings(batch_size)", f"at least {fewest} for {self.method}", self.batch_size)
        rate = self.learning_rate
        require(rate is None or 0 < rate < math.inf, "Settings(learning_rate)", "a finite number above 0", rate)
        require(0 <= self.seed < 2**32, "Settings(seed)", "an integer from 0 to 2**32 - 1", self.seed)
        if self.policy != ALL:
            as_policy(self.policy, "--policy")
        self.as_scoring()

    def as_scoring(self) -> Scoring:
        """The scoring of that name, with the settings that are given in place of its own."""
        scoring = as_scoring(self.scoring, "--scoring")
        scale = scoring.scale if self.score_scale is None else self.score_scale
        try:
            return replace(scoring, scale=scale, every=scoring.every if self.every is None else self.every)
        except HVSError as error:
            said = str(error).replace("Scoring(scale)", "--score-scale").replace("Scoring(every)", "--every")
            raise HVSError(said) from None


class Pretraining:
    """One run: the method, its sampler and its optimiser, and how far it has come.

    A step depends on the settings, the images and the step's number alone, so that a run which was stopped and resumed
    computes what it would have computed without the stop: bit for bit on a CPU with the same number of threads.

    Args:
        settings: what to compute.
        dataset: yields an image, or a tuple that starts with one, in any form that :func:`hvs_aug.collate_images` takes.
        device: where it is computed.
        workers: processes that decode; with 0 the main process does.
        method: a method that is built already, in the place of that of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Images,
        device: str | torch.device = "cpu",
        workers: int = 0,
        method: Method | None = None,
    ) -> None:
        self.settings, self.dataset = settings, dataset
        self.device, self.workers = torch.device(device), workers
        self.images = len(dataset)
        fewest = METHODS[settings.method].fewest_images
        require(self.images >= fewest, "Pretraining(dataset)", f"at least {fewest} images for {settings.method}", f"{self.images}")
        self.batch_size = min(settings.batch_size, self.images)
        self.steps_per_epoch = self.images // self.batch_size
        self.total = settings.epochs * self.steps_per_epoch
        self.step = 0
        if method is None:
            method = build_method(settings.method, settings.size, settings.encoder, settings.seed)
        self.method = method.to(self.device)
        if settings.transform is not None:
            use_transform(self.method, settings.method, settings.transform)
        self.views = self.method.views(settings.size, settings.candidates)
        if settings.policy == ALL:
            self.views = CandidateViews([replace(slot, select=slot.candidates) for slot in self.views.slots])
        self.sampler = self.method.sampler(
            self.views,
            policy="random" if settings.policy == ALL else settings.policy,
            scoring=settings.as_scoring(),
            generator=torch.Generator().manual_seed(settings.seed),
        )
        rate = settings.learning_rate if settings.learning_rate is not None else self.method.learning_rate
        self.peak_rate = rate * math.sqrt(self.batch_size / 256)
        weights = [weight for weight in self.method.parameters() if weight.requires_grad]
        decayed = {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": self.method.weight_decay}
        kept = {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW([decayed, kept], lr=self.peak_rate)

    def run(
        self,
        out: Path | None = None,
        *,
        log_every: int = 10,
        progress: bool = True,
        stop_at: int | None = None,
        max_skipped: float | None = None,
        log: Log | None = None,
    ) -> list[dict[str, Any]]:
        """Train to the end, or to step ``stop_at``, and return the metrics of every ``log_every``-th step.

        With ``out``, metrics go to ``metrics.jsonl`` there, the run to ``checkpoint.safetensors`` after every epoch and on
        Ctrl-C, SIGTERM and SIGUSR1, which goes on, and in the end the encoder alone to ``encoder.safetensors``; the images that the
        dataset skipped, with the reason of each, to ``skipped.txt``. Nothing else is written before the first step is done.
        ``progress`` shows a bar or lines (:class:`Progress`); ``log`` gets the numbers of each line of the metrics, and the step.

        A line of the metrics is a JSON object. ``step``, ``epoch``: steps from 1 and epochs done. ``loss``: the training loss;
        ``chosen_loss``: the mean scoring loss of the chosen views, null where the step was not scored. ``iou``, ``scale``,
        ``color_distance``: the mean overlap of the crops of two chosen views, the mean share of its image that a chosen crop
        covers, the mean distance of their colour factors; ``iou_random``, ``scale_random``, ``color_distance_random``: what
        random ones of the same candidates would have. ``chosen``: the share of each candidate among the chosen. ``nonfinite``:
        images with a pair whose loss was not finite. ``learning_rate``; ``images_per_second`` without the wait for the images;
        ``seconds``: of the step's parts, ``loading`` (the wait), ``views``, ``scoring``, ``search`` and ``training``.

        Raises: Interrupted after Ctrl-C or SIGTERM; HVSError if the loss is no longer finite, if more than the share
            ``max_skipped`` of the images were skipped (by default 1 %, and more than 10), or if a file ended the process that
            read it.
        """
        stop, began = self.total if stop_at is None else min(stop_at, self.total), self.step
        if out is not None:
            _cut_metrics(out / METRICS, self.step)
        skipped = SkippedImages(self.images, max_skipped, None if out is None else out / SKIPPED, is_resumed=self.step > 0)
        logged: list[dict[str, Any]] = []
        title = f"{self.settings.method}, {self.settings.policy} views"
        shown = Progress(
            title,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.settings.epochs,
            images=self.batch_size,
            done=self.step,
            is_shown=progress,
        )
        with deferred_signals() as asked, shown:
            while self.step < stop:
                for images, waited in _timed(naming_killers(self._rest_of_epoch(stop), self.dataset)):
                    skipped.add(images.skipped)
                    is_logged = (self.step + 1) % log_every == 0 or self.step + 1 == self.total
                    ends_epoch = (self.step + 1) % self.steps_per_epoch == 0
                    metrics = self.train_step(images, measured=is_logged or ends_epoch)
                    if metrics is not None and is_logged:
                        metrics["seconds"]["loading"] = waited
                        if out is None:
                            logged.append(metrics)
                        else:
                            _append(out / METRICS, metrics)
                        if log is not None:
                            log(_numbers(metrics), metrics["step"])
                    shown.advance(metrics)
                    if asked.stop is not None:
                        break
                    if asked.checkpoint and out is not None:
                        asked.checkpoint = False
                        self.save(out / CHECKPOINT)
                if out is not None:
                    self.save(out / CHECKPOINT)
                if asked.stop is not None:
                    raise Interrupted(self.step, None if out is None else out / CHECKPOINT, asked.stop)
                shown.end_epoch()
        if out is not None and self.step == self.total:
            self.save_encoder(out / ENCODER)
        # With a file they are read back at the end: kept in memory, those of a run of weeks would grow to hundreds of megabytes.
        return logged if out is None else _read_metrics(out / METRICS, after=began)

    def train_step(self, images: ImageBatch, measured: bool = False) -> dict[str, Any] | None:
        """One step; if ``measured``, return its loss, its choice and its seconds, for which the host waits for the device."""
        method = self.method
        start = time.perf_counter()
        progress = self.step / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak_rate * _rate(progress)
        method.schedule(progress)
        images = images.to(self.device, non_blocking=True)
        watched: AbstractContextManager[dict[str, float]] = timings() if measured else nullcontext({})
        with watched as spent:
            hard = self.sampler(images, method.extras(self.views.slots, len(images), self.sampler.generator))
        chosen = time.perf_counter()
        loss = method.loss(hard)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        method.clip_gradients()
        self.optimizer.step()
        method.after_step()
        self.step += 1
        if not measured:
            return None
        value = loss.item()  # waits for the device
        done = time.perf_counter()
        if not math.isfinite(value):
            hint = "resume from the last checkpoint with a lower --learning-rate, or look at the images that it saw."
            fail("Pretraining.run(loss)", "a finite loss", f"{value} in step {self.step}", hint)
        assert hard.drawn is not None
        meter = SelectionMeter(self.views.slots)
        meter.update(hard.indices, hard.drawn, loss=hard.loss if torch.isfinite(hard.loss).any() else None)
        seconds = {
            "views": chosen - start - spent["scoring"] - spent["search"],
            "scoring": spent["scoring"],
            "search": spent["search"],
            "training": done - chosen,
        }
        found = meter.compute()
        return {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            "loss": value,
            "chosen_loss": found.pop("loss", None),
            **found,
            "nonfinite": int(hard.nonfinite),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": len(images) / (done - start),
            "seconds": seconds,
        }

    def save(self, path: Path) -> None:
        """Write all of the run to one file."""
        chosen = self.sampler.state_dict()
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in flatten_optimizer(self.optimizer).items()}
        tensors["sampler.generator"] = chosen["generator"]
        counts = {"step": self.step, "choices": chosen["step"], "images": self.images}
        state = {"settings": asdict(self.settings), **counts, "machine": machine(self.device)}
        save_checkpoint(path, tensors, state)

    @classmethod
    def resume(
        cls,
        path: Path,
        dataset: Images,
        device: str | torch.device = "cpu",
        workers: int = 0,
        transform: str | None = None,
    ) -> Pretraining:
        """Continue a run on the same images; ``transform`` is that of its settings, if it has one.

        Raises: HVSError if there is no checkpoint, the number of images is another, or the transform is.
        """
        tensors, state = load_checkpoint(path)
        run = cls(_settings(state, path, transform), dataset, device, workers)
        require(
            run.images == state["images"],
            "Pretraining.resume(dataset)",
            f"the {state['images']} images that the run began with",
            f"{run.images}",
            "give the same --data, or start anew with another --out.",
        )
        _load(run.method, tensors, path)
        restore_optimizer(run.optimizer, _below("optimizer.", tensors))
        run.sampler.load_state_dict({"generator": tensors["sampler.generator"], "step": state["choices"]})
        run.step = state["step"]
        return run

    def save_encoder(self, path: Path) -> None:
        """Write the encoder alone, for :func:`hvs_aug.pretraining.load_encoder`."""
        student = getattr(self.method, "teacher", self.method)
        name = self.settings.encoder or self.method.default_encoders[self.settings.size >= 64]
        save_encoder(path, student.encoder, name, self.settings.size, self.views.slots[0].recipe)

    def _rest_of_epoch(self, stop: int) -> Iterator[ImageBatch]:
        epoch, done = divmod(self.step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.settings.seed * 100_003 + epoch)
        order = torch.randperm(self.images, generator=generator)[: self.steps_per_epoch * self.batch_size]
        batches = order.view(-1, self.batch_size)[done : min(self.steps_per_epoch, stop - epoch * self.steps_per_epoch)]
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", self.dataset),
            batch_sampler=batches.tolist(),
            collate_fn=_collate,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=keep_working,
            generator=torch.Generator(),  # the default one is the global random state
        )
        with blocked_signals():
            return iter(loader)


def fitting_size(images: Images, method: str, encoder: str | None = None) -> int:
    """Pixels of a view that suit some images: their median shorter side, at most 224, in whole patches for a transformer."""
    require_name(method, METHODS, "--method")
    shown = _collate([images[index] for index in torch.linspace(0, len(images) - 1, min(16, len(images))).long().tolist()])
    side = min(224, int(shown.sizes.amin(1).median()))
    of_patches = (encoder or METHODS[method].default_encoders[0]).removeprefix("timm:").startswith(("vit", "deit"))
    return max(1, side // patch_of(side)) * patch_of(side) if of_patches or METHODS[method].fewest == 1 else side


def summarise(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a run did, in a few lines: its loss, the overlap of what it chose, and where the time went."""
    if not metrics:
        return []
    first, last = metrics[0], metrics[-1]
    lines = [f"loss {first['loss']:.3f} in step {first['step']:,}"]
    if last is not first:
        lines[0] += f", {last['loss']:.3f} in step {last['step']:,}"
    if "iou" in last:
        chosen, random = (sum(line[name] for line in metrics) / len(metrics) for name in ("iou", "iou_random"))
        lines.append(f"overlap (IoU) of the chosen views {chosen:.3f}, of random ones {random:.3f}")
    shares = time_shares(metrics)
    lines.append("time: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    return lines


def time_shares(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of the measured time of each part of a step."""
    totals = {name: sum(line["seconds"][name] for line in metrics) for name in metrics[0]["seconds"]}
    return {name: total / sum(totals.values()) for name, total in totals.items()}


def load_method(path: Path, device: str | torch.device = "cpu", transform: str | None = None) -> tuple[Method, Settings]:
    """The trained method of a checkpoint, and what it was trained by; ``transform`` is that of its settings, if it has one.

    Raises: HVSError if there is no checkpoint, or its transform is another.
    """
    tensors, state = load_checkpoint(path)
    settings = _settings(state, path, transform)
    method = build_method(settings.method, settings.size, settings.encoder)
    if settings.transform is not None:
        use_transform(method, settings.method, settings.transform)
    _load(method, tensors, path)
    return method.to(device), settings


def _collate(samples: list[Any]) -> ImageBatch:
    """Collate the images of samples, and leave their labels, which pretraining does not see."""
    batch: ImageBatch = collate_images([sample[0] if isinstance(sample, (tuple, list)) else sample for sample in samples])
    return batch


def _rate(progress: float, warmup: float = 0.05) -> float:
    """Linear warm-up over a share of the run, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup + 1e-3
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def _settings(state: Mapping[str, Any], path: Path, transform: str | None) -> Settings:
    known = {field.name for field in fields(Settings)}
    unknown = sorted(set(state["settings"]) - known)
    require(not unknown, "load_checkpoint(path)", "settings that this version knows", f"{unknown} in {path}")
    settings = Settings(**state["settings"])
    # A file must not decide what is imported and run.
    expected = "none" if settings.transform is None else f"{settings.transform}, with which {path} was trained"
    require(settings.transform == transform, "--transform", expected, transform if transform is not None else "none")
    return settings


def _load(method: Method, tensors: Mapping[str, Tensor], path: Path) -> None:
    weights, own = _below("method.", tensors), method.state_dict()
    fits = weights.keys() == own.keys() and all(weights[name].shape == value.shape for name, value in own.items())
    require(fits, "load_checkpoint(path)", f"the weights of {type(method).__name__}", f"others in {path}")
    method.load_state_dict(weights)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _timed(batches: Iterator[ImageBatch]) -> Iterator[tuple[ImageBatch, float]]:
    """Each batch with the seconds that it was waited for."""
    start = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - start
        start = time.perf_counter()


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by name, those of parts as ``seconds/scoring``."""
    flat = {**metrics, **{f"seconds/{name}": value for name, value in metrics["seconds"].items()}}
    return {name: float(value) for name, value in flat.items() if isinstance(value, (int, float)) and name != "step"}


def _append(path: Path, metrics: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_file(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(metrics, allow_nan=False) + "\n")


def _read_metrics(path: Path, after: int) -> list[dict[str, Any]]:
    """The lines of the steps after this one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [found for found in map(json.loads, lines) if found["step"] > after]


def _cut_metrics(path: Path, step: int) -> None:
    """Leave out the lines of later steps, which a resumed run computes again, and a last line that was cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            break
    with whole_file(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
