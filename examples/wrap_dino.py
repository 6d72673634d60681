"""facebookresearch/dino with hard views, no line of it edited.

    python examples/wrap_dino.py --checkout DIR -- --arch vit_small --data_path /data/imagenet/train --output_dir out

What follows ``--`` is main_dino.py's own command line. For several GPUs start it as that script is started, with torchrun.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from checkout import at_head, import_script

import hvs_aug


def hard_views(own: SimpleNamespace) -> None:
    """Our lines at the head of train_one_epoch; ``own`` has its arguments."""
    loss = hvs_aug.DINOLoss.like(own.dino_loss, own.epoch)
    scoring = hvs_aug.Scoring(dtype=None if own.fp16_scaler is None else torch.float16)
    own.data_loader = hvs_aug.wrap(own.data_loader, model=own.student, teacher=own.teacher, loss=loss, scoring=scoring)


def main() -> None:
    """Run the repo's own training."""
    script = import_script("main_dino", "DINO with hard views")
    at_head(script, "train_one_epoch", hard_views)
    arguments = script.get_args_parser().parse_args()
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    script.train_dino(arguments)


if __name__ == "__main__":
    main()
