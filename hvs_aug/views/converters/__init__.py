"""What the transforms of torchvision and of repos do, as operations of :mod:`hvs_aug.ops`.

A transform is recognised by its class name and attributes, and its package is not imported.
"""

from .reading import register_converter

__all__ = ["register_converter"]
