"""encoder.safetensors in networks of torchvision and timm: the same features, and every weight loaded or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18, resnet50

from hvs_aug._check import HVSError
from hvs_aug.pretraining import load_encoder
from hvs_aug.pretraining.encoder_file import save_encoder
from hvs_aug.pretraining.networks import build_encoder
from hvs_aug.views.presets import preset_slots


def saved(path: Path, name: str, size: int) -> tuple[Path, Any]:
    encoder = build_encoder(name, size).eval()
    for value in encoder.state_dict().values():  # none as in a new network, BatchNorm's statistics included
        value.add_(0.01 * torch.randn(value.shape) if value.is_floating_point() else 7)
    save_encoder(path / "encoder.safetensors", encoder, name, size, preset_slots("simsiam", size)[0].recipe)
    return path / "encoder.safetensors", encoder


@pytest.mark.parametrize(
    "name, size, make",
    [
        ("resnet18", 64, lambda: resnet18(num_classes=10)),
        ("resnet18", 64, lambda: timm.create_model("resnet18", num_classes=10)),
        ("resnet18", 32, lambda: resnet18(num_classes=10)),  # the stem of small images
        ("vit-tiny", 64, lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)),
        ("timm:resnet10t", 64, lambda: timm.create_model("resnet10t", num_classes=10)),
        ("timm:vit_tiny_patch16_224", 64, lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)),
    ],
)
def test_a_network_with_a_classifier_has_the_encoders_features(name: str, size: int, make: Any, tmp_path: Path) -> None:
    path, encoder = saved(tmp_path, name, size)
    network = make().eval()
    head = network.fc if hasattr(network, "fc") else network.head
    before = head.weight.clone()
    assert load_encoder(path, network) is network
    assert torch.equal(head.weight, before)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(network(images), head(encoder(images)))
        torch.testing.assert_close(load_encoder(path)(images), encoder(images))


def test_the_file_loads_strictly_by_hand(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "resnet18", 64)
    network = resnet18()
    network.fc = nn.Identity()
    network.load_state_dict(load_file(path), strict=True)
    path, _ = saved(tmp_path, "vit-tiny", 224)
    timm.create_model("vit_tiny_patch16_224", num_classes=0).load_state_dict(load_file(path), strict=True)


def test_a_position_embedding_is_resampled(tmp_path: Path) -> None:
    path, encoder = saved(tmp_path, "vit-tiny", 64)
    network = load_encoder(path, timm.create_model("vit_tiny_patch16_224", num_classes=0))
    assert network.pos_embed.shape == (1, 197, 192) and torch.equal(network.pos_embed[:, 0], encoder.body.pos_embed[:, 0])
    assert torch.equal(network.blocks[0].attn.qkv.weight, encoder.body.blocks[0].attn.qkv.weight)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "resnet18", 64)
    with pytest.raises(HVSError, match=r"load_encoder\(network\): expected the architecture of .* is in one of them alone"):
        load_encoder(path, resnet50())
    with pytest.raises(HVSError, match=r"conv1.weight of shape \(64, 3, 7, 7\), got \(32, 3, 7, 7\)"):
        narrow = resnet18()
        narrow.conv1 = nn.Conv2d(3, 32, 7, bias=False)
        load_encoder(path, narrow)
    with pytest.raises(HVSError, match=r"load_encoder\(path\): expected an encoder file, got no file at"):
        load_encoder(tmp_path / "missing")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(HVSError, match="expected a whole safetensors file"):
        load_encoder(tmp_path / "text")
