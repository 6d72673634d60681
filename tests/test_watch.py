"""What is counted on a device is said once."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch

from hvs_aug import CandidateViews
from hvs_aug._watch import CountWatch


def test_a_count_is_said_once() -> None:
    watch = CountWatch("{count} of them")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.see(torch.tensor(0))
    with pytest.warns(UserWarning, match="3 of them"):
        watch.see(torch.tensor(3))
    for twin in (watch, copy.deepcopy(watch), pickle.loads(pickle.dumps(watch))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            twin.see(torch.tensor(5))


@pytest.mark.gpu
def test_values_outside_the_unit_range_are_reported_on_a_device_without_a_wait() -> None:
    views, images = CandidateViews.preset("simclr", 16), torch.rand(4, 3, 20, 20, device="cuda") * 255
    params = views.make_params(images)

    def steps() -> None:
        for _ in range(3):
            views.transform(images, params)
            torch.cuda.synchronize()

    with pytest.warns(UserWarning, match="values outside"):
        steps()
