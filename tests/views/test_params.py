"""ViewParams: IoU against painted masks, selection, files that are what was saved."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hvs_aug import CandidateViews, HVSError, ViewParams
from tests.reference.views import iou_by_pixels


def drawn(name: str = "simclr", images: int = 3, seed: int = 0) -> ViewParams:
    views = CandidateViews.preset(name, size=32)
    return views.make_params(torch.zeros(images, 3, 30, 44, dtype=torch.uint8), torch.Generator().manual_seed(seed))


def same(one: ViewParams, other: ViewParams) -> bool:
    tensors = [entry.name for entry in fields(one) if isinstance(getattr(one, entry.name), torch.Tensor)]
    return len(tensors) == 8 and one.slots == other.slots and all(torch.equal(getattr(one, n), getattr(other, n)) for n in tensors)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31))
def test_iou_is_that_of_painted_masks(seed: int) -> None:
    params = drawn(seed=seed, images=2)
    iou = params.iou()
    assert iou.shape == (4, 4, 2)
    assert torch.equal(iou, iou.transpose(0, 1)) and bool((iou.diagonal() == 1).all())
    for u in range(4):
        for v in range(4):
            for image in range(2):
                painted = iou_by_pixels(params.boxes[u, image].tolist(), params.boxes[v, image].tolist(), (30, 44))
                assert float(iou[u, v, image]) == pytest.approx(painted, abs=1e-6)


def test_iou_with_other_views_is_a_part_of_the_whole() -> None:
    params = drawn("dino")
    first, second, whole = params.of_slot(0), params.of_slot(2), params.iou()
    assert torch.equal(first.iou(second), whole[params.span(0), params.span(2)])
    assert torch.equal(second.iou(first), whole[params.span(2), params.span(0)])
    with pytest.raises(HVSError, match="expected a crop in every slot, got none in slot 2"):
        first.iou(replace(second, uncropped=(2,)))


def test_selecting_gathers_each_images_own_views() -> None:
    params = drawn()
    indices = torch.tensor([[0, 3, 1], [2, 0, 3]])
    chosen = params.select(indices)
    for row in range(2):
        for image in range(3):
            for name in ("boxes", "flips", "jitter", "order", "gray", "blur", "solarize"):
                assert torch.equal(getattr(chosen, name)[row, image], getattr(params, name)[indices[row, image], image])
    assert chosen.slots == (0, 0) and torch.equal(chosen.sizes, params.sizes)


def test_selecting_from_several_slots_needs_theirs() -> None:
    params = drawn("dino")
    with pytest.raises(HVSError, match=r"ViewParams.select\(slots\): expected the slot of each selected view"):
        params.select(torch.zeros(10, 3, dtype=torch.int64))
    assert params.select(torch.zeros(2, 3, dtype=torch.int64), slots=[0, 1]).slots == (0, 1)


def test_extras_of_every_view_are_selected_and_shared_ones_kept() -> None:
    extras = {"own": torch.arange(12).view(4, 3), "shared": torch.arange(2)}
    chosen = replace(drawn(), extras=extras).select(torch.tensor([[3, 0, 1]]))
    assert chosen.extras["own"].tolist() == [[9, 1, 5]] and chosen.extras["shared"].tolist() == [0, 1]


def test_a_view_without_a_crop_has_no_iou() -> None:
    with pytest.raises(HVSError, match="expected a crop in every slot, got none in slot 0"):
        replace(drawn(), uncropped=(0,)).iou()


def test_files_give_back_what_was_saved(tmp_path: Path) -> None:
    params = replace(drawn("dino"), extras={"masks": torch.ones(4, 3, 2, 2, dtype=torch.bool)}, uncropped=(2,))
    params.save(tmp_path / "params.safetensors")
    loaded = ViewParams.load(tmp_path / "params.safetensors")
    assert same(params, loaded) and loaded.uncropped == (2,) and torch.equal(loaded.extras["masks"], params.extras["masks"])


def test_tampered_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.safetensors"
    drawn().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "tampered").write_bytes(content)
    with pytest.raises(HVSError, match="expected the contents that were saved, got .*which was changed since"):
        ViewParams.load(tmp_path / "tampered")
    save_file(load_file(path), tmp_path / "foreign", metadata={"format": "hvs_aug.ViewParams/0"})
    with pytest.raises(HVSError, match="expected a file of format hvs_aug.ViewParams/1, got format hvs_aug.ViewParams/0"):
        ViewParams.load(tmp_path / "foreign")
    (tmp_path / "noise").write_bytes(b"no safetensors")
    with pytest.raises(HVSError, match="expected a readable safetensors file"):
        ViewParams.load(tmp_path / "noise")
    with pytest.raises(HVSError, match="expected a readable safetensors file"):
        ViewParams.load(tmp_path / "missing")


def test_shapes_are_checked() -> None:
    params = drawn()
    with pytest.raises(HVSError, match=r"ViewParams\(flips\): expected shape \(4, 3\)"):
        replace(params, flips=params.flips[:2])
