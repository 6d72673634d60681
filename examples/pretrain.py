"""Pretrain with hard views on your own images: the whole loop in one file, for SimCLR, SimSiam, BYOL, DINO and iBOT.

    python examples/pretrain.py --data DIR --method simclr --size 32 --epochs 10

The networks and training losses come from hvs_aug.pretraining (methods.py, self_distillation.py), which stands here for your
own repo; the lines marked [hvs] are what a repo adds. What differs from the papers: AdamW and tens of epochs, where they train
with SGD or LARS for hundreds. SimCLR: temperature 0.2. BYOL: the average's momentum begins at 0.99. DINO and iBOT: 1,024
prototypes for 65,536, a small transformer, constant weight decay, no frozen last layer; iBOT masks at random, not in blocks.
For resuming, metrics and checkpoints see hvs-aug pretrain.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

import hvs_aug
from hvs_aug.pretraining.build import METHODS, build_method


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of images or of class folders, a .zip or a .tar")
    parser.add_argument("--method", default="simclr", choices=METHODS)
    parser.add_argument("--size", type=int, default=32, help="pixels of a view")
    parser.add_argument("--candidates", type=int, help="per image; per kept view for dino and ibot (default: 4, 2)")
    parser.add_argument("--score-scale", type=float, default=1.0, help="score candidates at this fraction of the size")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="stop after so many")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("pretrained.safetensors"))
    options = parser.parse_args(words)

    # The loader ships raw images, each at its own size: no transform, no float views.
    dataset = hvs_aug.RawImages(options.data)  # [hvs]
    loader = DataLoader(
        dataset,
        batch_size=min(options.batch_size, len(dataset)),
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        collate_fn=hvs_aug.collate_images,  # [hvs]
        pin_memory=options.device.startswith("cuda"),
    )
    method = build_method(options.method, options.size).to(options.device).train()
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=method.learning_rate, weight_decay=method.weight_decay)

    # Candidates of the method's own augmentation; for two views this is hvs_aug.CandidateViews.preset(options.method, ...).
    views = method.views(options.size, options.candidates)  # [hvs]
    # The model that scores, the loss that says what is hard, and a teacher where the loss compares with one:
    # hvs_aug.HardPairSampler(method.score, method.pair_loss, views, teacher=method.scoring_teacher, ...).
    sampler = method.sampler(views, scoring=hvs_aug.Scoring(scale=options.score_scale))  # [hvs]

    total = min(options.epochs * len(loader), options.steps or math.inf)
    step = 0
    with tqdm(total=total, unit="step") as bar:
        while step < total:
            for raw, _ in loader:
                progress = step / total
                for group in optimizer.param_groups:
                    group["lr"] = method.learning_rate * min(1.0, 20 * progress + 0.01) * (1 + math.cos(math.pi * progress)) / 2
                method.schedule(progress)  # the teacher's momentum and temperature

                images = raw.to(options.device, non_blocking=True)
                extras = method.extras(views.slots, len(images), sampler.generator)  # iBOT's masks, of all candidates
                hard = sampler(images, extras)  # [hvs] the chosen views, and their masks

                loss = method.loss(hard)  # the method's own loss on hard.views: two tensors, or 2 + 8
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                method.clip_gradients()
                optimizer.step()
                method.after_step()  # the teacher follows the student

                step += 1
                bar.set_postfix(loss=f"{loss.item():.3f}", overlap=f"{overlap(hard):.2f}")
                bar.update()
                if step == total:
                    break

    save_file({name: value.contiguous() for name, value in method.state_dict().items()}, options.out)
    print(f"wrote {options.out}")


def overlap(hard: hvs_aug.HardViews) -> float:
    """Mean intersection over union of the first two crops that were chosen: hard views overlap less than random ones."""
    return hard.params.iou()[0, 1].mean().item()


if __name__ == "__main__":
    main()
