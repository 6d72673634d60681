"""ViewParams: IoU against painted masks, selection, files that are what was saved."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hvs_aug import CandidateViews, HVSError, ViewParams
from hvs_aug.views.params import _digest
from tests.reference.views import iou_by_pixels


def drawn(name: str = "simclr", images: int = 3, seed: int = 0) -> ViewParams:
    views = CandidateViews.preset(name, size=32)
    return views.make_params(torch.zeros(images, 3, 30, 44, dtype=torch.uint8), torch.Generator().manual_seed(seed))


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
            assert torch.equal(chosen.boxes[row, image], params.boxes[indices[row, image], image])
            for name, value in params.drawn.items():
                assert torch.equal(chosen.drawn[name][row, image], value[indices[row, image], image])
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
    extras = {"masks": torch.ones(4, 3, 2, 2, dtype=torch.bool), "weights": torch.rand(20, 3).bfloat16()}
    params = replace(drawn("dino"), extras=extras, uncropped=(2,))
    params.save(tmp_path / "params.safetensors")
    loaded = ViewParams.load(tmp_path / "params.safetensors")
    assert loaded == params and loaded.uncropped == (2,) and set(loaded.drawn) == set(params.drawn) and len(loaded.extras) == 2


def test_tampered_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.safetensors"
    drawn().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "tampered").write_bytes(content)
    with pytest.raises(HVSError, match="expected the contents that were saved, got .*which was changed since"):
        ViewParams.load(tmp_path / "tampered")
    save_file(load_file(path), tmp_path / "foreign", metadata={"format": "hvs_aug.ViewParams/1"})
    with pytest.raises(HVSError, match="expected a file of format hvs_aug.ViewParams/2, got format hvs_aug.ViewParams/1"):
        ViewParams.load(tmp_path / "foreign")
    (tmp_path / "noise").write_bytes(b"no safetensors")
    with pytest.raises(HVSError, match="expected a readable safetensors file"):
        ViewParams.load(tmp_path / "noise")
    with pytest.raises(HVSError, match="expected a readable safetensors file"):
        ViewParams.load(tmp_path / "missing")


def test_shapes_are_checked() -> None:
    params = drawn()
    with pytest.raises(HVSError, match=r"ViewParams\(drawn\['RandomGrayscale.applied'\]\): expected axes \(4, 3\) first"):
        replace(params, drawn={"RandomGrayscale.applied": torch.zeros(2, 3)})
    for boxes in (params.boxes[0], params.boxes.float(), params.boxes.int(), params.boxes.tolist()):
        with pytest.raises(HVSError, match=r"ViewParams\(boxes\): expected int64 of shape \(V, B, 4\)"):
            replace(params, boxes=boxes)
    for sizes in (params.sizes[:2], params.sizes.double(), None):
        with pytest.raises(HVSError, match=r"ViewParams\(sizes\): expected int64 of shape \(3, 2\)"):
            replace(params, sizes=sizes)


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        (torch.tensor([[0, 1, 4]]), "indices of the 4 views, got indices from 0 to 4"),
        (torch.tensor([[0, -1, 3]]), "indices of the 4 views, got indices from -1 to 3"),
        (torch.zeros(2, 2, dtype=torch.int64), r"int64 of shape \(S, 3\)"),
        (torch.zeros(2, 3), r"int64 of shape \(S, 3\)"),
        ([[0, 1, 2]], r"int64 of shape \(S, 3\)"),
    ],
)
def test_indices_of_no_view_are_refused(indices: Any, said: str) -> None:
    with pytest.raises(HVSError, match=rf"ViewParams.select\(indices\): expected {said}"):
        drawn().select(indices)


def test_a_file_that_only_has_the_digest_right_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params"
    for tensors, slots in (({"boxes": torch.zeros(1, 1, 4, dtype=torch.int64)}, "0"), (drawn()._tensors(), "0,x,0,0")):
        layout = {"slots": slots, "uncropped": ""}
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        save_file(tensors, path, metadata={"format": "hvs_aug.ViewParams/2", **layout, "sha256": _digest(tensors, layout)})
        with pytest.raises(HVSError, match="expected boxes, sizes and numbers of slots"):
            ViewParams.load(path)


def test_equality_is_that_of_every_value_and_equal_params_hash_alike() -> None:
    params = drawn()
    assert params == copy.deepcopy(params) and hash(params) == hash(copy.deepcopy(params)) and len({params, params}) == 1
    assert params != drawn(seed=1) and params != "params"
    name = "GaussianBlur.sigma" if "GaussianBlur.sigma" in params.drawn else "RandomGrayscale.applied"
    assert params != replace(params, drawn={**params.drawn, name: ~params.drawn[name]})
    assert params != replace(params, drawn={**params.drawn, name: params.drawn[name].int()})
    assert params != replace(params, uncropped=(0,)) and params != replace(params, extras={"own": torch.zeros(4, 3)})


def test_a_slot_takes_its_own_rows() -> None:
    params = replace(drawn("dino"), extras={"own": torch.arange(60).view(20, 3), "shared": torch.arange(2)}, uncropped=(1,))
    second = params.of_slot(1)
    assert second.extras["own"].tolist() == torch.arange(6, 12).view(2, 3).tolist() and second.extras["shared"].tolist() == [0, 1]
    assert second.uncropped == (1,) and params.of_slot(0).uncropped == ()
    assert params.of_slot(0).iou().shape == (2, 2, 3)
    assert ViewParams.concatenate([params.of_slot(index) for index in range(3)]) == params


def test_concatenation_keeps_every_part_or_says_what_does_not_fit() -> None:
    parts = [replace(drawn(seed=seed), extras={"own": torch.full((4, 3), seed)}) for seed in (4, 7)]
    joined = ViewParams.concatenate(parts)
    assert joined.extras["own"][:, 0].tolist() == [4, 4, 4, 4, 7, 7, 7, 7] and torch.equal(joined.boxes[4:], parts[1].boxes)
    with pytest.raises(HVSError, match="extras 'own' of one value, or with rows in every part"):
        ViewParams.concatenate([parts[0], replace(parts[1], extras={"own": torch.zeros(5)})])
    with pytest.raises(HVSError, match="expected parts that drew"):
        ViewParams.concatenate([parts[0], drawn("dino")])


def test_some_of_the_images() -> None:
    params = replace(drawn(), extras={"own": torch.arange(12).view(4, 3)})
    for rows in (slice(1, 3), torch.tensor([2, 0])):
        some = params.of_images(rows)
        assert torch.equal(some.boxes, params.boxes[:, rows]) and torch.equal(some.sizes, params.sizes[rows])
        assert torch.equal(some.extras["own"], params.extras["own"][:, rows])
        assert all(torch.equal(some.drawn[name], value[:, rows]) for name, value in params.drawn.items())


def test_moving_makes_one_copy_of_everything() -> None:
    params = replace(drawn("dino"), extras={"odd": torch.ones(20, 3, 5, dtype=torch.bool), "none": torch.zeros(20, 3, 0)})
    moved = params.to("meta")
    assert (
        moved.boxes.device.type == moved.sizes.device.type == "meta"
        and len({value.untyped_storage()._cdata for value in moved.drawn.values()}) == 1
    )
    for name, value in params.drawn.items():
        assert moved.drawn[name].shape == value.shape and moved.drawn[name].dtype == value.dtype
    assert moved.extras["odd"].shape == (20, 3, 5) and moved.extras["none"].shape == (20, 3, 0)
    assert params.to("cpu") == params
