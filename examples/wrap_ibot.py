"""bytedance/ibot with hard views, no line of it edited.

    python examples/wrap_ibot.py --checkout DIR -- --arch vit_small --data_path /data/imagenet/train --output_dir out

What follows ``--`` is main_ibot.py's own command line. For several GPUs start it as that script is started, with torchrun.
The masks are drawn by the repo's own dataset, one for each global candidate; the loop gets the winners'.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from checkout import at_head, import_script
from torch import Tensor

import hvs_aug


def hard_views(own: SimpleNamespace) -> None:
    """Our lines at the head of train_one_epoch; ``own`` has its arguments."""

    def score(views: Tensor, masks: Tensor | None = None) -> Any:
        """The student on global views and their masks, or on local views, which are not masked."""
        if masks is None:
            grid = [side // own.args.patch_size for side in views.shape[-2:]]
            masks = views.new_zeros(len(views), *grid, dtype=torch.bool)
        return own.student(views, mask=masks)

    loss = hvs_aug.IBOTLoss.like(own.ibot_loss, own.epoch)
    scoring = hvs_aug.Scoring(dtype=None if own.fp16_scaler is None else torch.float16)
    own.data_loader = hvs_aug.wrap(own.data_loader, model=score, teacher=own.teacher, loss=loss, scoring=scoring)


def main() -> None:
    """Run the repo's own training."""
    script = import_script("main_ibot", "iBOT with hard views")
    at_head(script, "train_one_epoch", hard_views)
    arguments = script.get_args_parser().parse_args()
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    script.train_ibot(arguments)


if __name__ == "__main__":
    main()
