"""What the commands train: small methods and networks, a loop whose runs resume, and what the trained encoder is worth."""

from __future__ import annotations

from .encoder_file import load_encoder

__all__ = ["load_encoder"]
