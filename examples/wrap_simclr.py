"""sthalles/SimCLR with hard views, no line of it edited.

    python examples/wrap_simclr.py --checkout DIR -- -data ./datasets --dataset-name stl10 --epochs 100

What follows ``--`` is run.py's own command line.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from checkout import at_head, import_script

import hvs_aug


def hard_views(own: SimpleNamespace) -> None:
    """Our lines at the head of SimCLR.train; ``own`` has its arguments."""
    loss = hvs_aug.NTXentLoss(temperature=own.self.args.temperature)
    scoring = hvs_aug.Scoring(dtype=torch.float16 if own.self.args.fp16_precision else None)
    own.train_loader = hvs_aug.wrap(own.train_loader, model=own.self.model, loss=loss, scoring=scoring)


def main() -> None:
    """Run the repo's own training."""
    script = import_script("run", "SimCLR with hard views")
    at_head(script.SimCLR, "train", hard_views)
    script.main()


if __name__ == "__main__":
    main()
