"""``encoder.safetensors``: the trained encoder alone, under the names that torchvision and timm give its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .._check import fail, require
from ..ops import Normalize
from ..views.recipe import ViewRecipe
from .checkpoint import whole_file
from .networks import build_encoder, imported_timm

__all__ = ["load_encoder", "save_encoder"]

_FORMAT = "hvs_aug.encoder/1"  # the one key of the metadata, whose order safetensors does not keep
_CLASSIFIERS = ("fc", "head", "heads", "classifier")  # torchvision's and timm's names for what stands on the features
_CALL = "load_encoder(network)"


def save_encoder(path: Path, encoder: nn.Module, name: str, size: int, recipe: ViewRecipe) -> None:
    """Write an encoder's weights, and in the metadata what is needed to use them.

    The keys are those of torchvision's or timm's network without its classifier; the mask token of iBOT, which no other network
    has, stays in the checkpoint. The metadata's one entry is a JSON object: ``encoder`` and ``size``, for :func:`build_encoder`;
    ``mean`` and ``std`` of the normalisation that the views had, zeros and ones where they had none.
    """
    body = getattr(encoder, "body", encoder)
    weights = {key: value.detach().cpu().contiguous() for key, value in body.state_dict().items()}
    normalize = recipe.find(Normalize)
    mean, std = (normalize.mean, normalize.std) if isinstance(normalize, Normalize) else ((0.0,) * 3, (1.0,) * 3)
    metadata = {_FORMAT: json.dumps({"encoder": name, "size": size, "mean": mean, "std": std})}
    with whole_file(path) as partial:
        # Written by Python, so that the file's mode follows the umask; safetensors' own writer keeps it from everyone else.
        partial.write_bytes(save(weights, metadata=metadata))


def load_encoder(path: str | Path, network: nn.Module | None = None) -> Any:
    """Load the encoder that ``hvs-aug pretrain`` wrote.

    Args:
        path: ``encoder.safetensors``.
        network: a network of torchvision or timm of the same architecture, with or without a classifier. Its classifier stays as
            it is, everything else is loaded strictly. What was trained below 64 pixels has another stem (a 3x3 convolution,
            no pooling), which the network is given; a transformer's position embedding is resampled to the network's size. By
            default the encoder itself is built, which returns features ``(n, features)``, in eval mode.

    Returns:
        The network.

    Raises:
        HVSError: if there is no such file, it is none of these files, or the network has other weights.

    Example:
        >>> from torchvision.models import resnet18
        >>> network = load_encoder("runs/simclr/encoder.safetensors", resnet18(num_classes=10))  # doctest: +SKIP
    """
    weights, metadata = _read(Path(path))
    if network is None:
        encoder = build_encoder(metadata["encoder"], metadata["size"])
        getattr(encoder, "body", encoder).load_state_dict(weights)
        return encoder.eval()
    require(isinstance(network, nn.Module), _CALL, "a network of torchvision or timm", network)
    _fit_stem(network, weights)
    own = network.state_dict()
    classifier = {key: value for key, value in own.items() if key not in weights and key.partition(".")[0] in _CLASSIFIERS}
    hint = f"the file holds {metadata['encoder']} for {metadata['size']} pixels."
    if {*weights, *classifier} != set(own):
        first = sorted({*weights, *classifier} ^ set(own))[0]
        fail(_CALL, f"the architecture of {path}", f"{type(network).__name__}: {first} is in one of them alone", hint)
    weights = {key: _fitted(key, value, network) for key, value in weights.items()}
    for key, value in weights.items():
        require(value.shape == own[key].shape, _CALL, f"{key} of shape {tuple(value.shape)}", f"{tuple(own[key].shape)}", hint)
    network.load_state_dict({**classifier, **weights}, strict=True)
    return network


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    call, hint = "load_encoder(path)", "hvs-aug pretrain writes OUT/encoder.safetensors."
    require(path.is_file(), call, "an encoder file", f"no file at {path}", hint)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            require(_FORMAT in metadata, call, f"a file of format {_FORMAT}", f"another at {path}", hint)
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata[_FORMAT])  # noqa: SIM118
    except SafetensorError as error:
        fail(call, "a whole safetensors file", f"{path}, which is not ({error})", hint)


def _fit_stem(network: Any, weights: Mapping[str, Tensor]) -> None:
    """Give a ResNet the stem of small images where the weights are of one."""
    stem, convolution = weights.get("conv1.weight"), getattr(network, "conv1", None)
    if stem is None or not isinstance(convolution, nn.Conv2d) or stem.shape[2:] == convolution.weight.shape[2:]:
        return
    if stem.shape[2:] == (3, 3) and hasattr(network, "maxpool"):
        network.conv1 = nn.Conv2d(3, stem.shape[0], 3, padding=1, bias=False).to(convolution.weight)
        network.maxpool = nn.Identity()


def _fitted(key: str, value: Tensor, network: Any) -> Tensor:
    """A transformer's position embedding at the network's own grid; anything else as it is."""
    if key != "pos_embed" or not hasattr(network, "patch_embed"):
        return value
    grid, prefix = network.patch_embed.grid_size, network.num_prefix_tokens
    resampled: Tensor = imported_timm().layers.resample_abs_pos_embed(value, grid, num_prefix_tokens=prefix)
    return resampled if resampled.shape != value.shape else value
