"""facebookresearch/simsiam with hard views, no line of it edited.

    python examples/wrap_simsiam.py --checkout DIR -- --multiprocessing-distributed --world-size 1 --rank 0 \
        --dist-url tcp://localhost:10001 /data/imagenet

What follows ``--`` is main_simsiam.py's own command line.
"""

from __future__ import annotations

from types import SimpleNamespace

from checkout import at_head, import_script
from torch import Tensor

import hvs_aug


def hard_views(own: SimpleNamespace) -> None:
    """Our lines at the head of train; ``own`` has its arguments."""
    network = own.model.module

    def score(views: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and projection of single views: SimSiam's own forward takes pairs of them."""
        projection = network.encoder(views)
        return network.predictor(projection), projection

    own.train_loader = hvs_aug.wrap(own.train_loader, model=score, loss=hvs_aug.NegativeCosineLoss())


def main() -> None:
    """Run the repo's own training."""
    script = import_script("main_simsiam", "SimSiam with hard views")
    at_head(script, "train", hard_views)
    script.main()


if __name__ == "__main__":
    main()
