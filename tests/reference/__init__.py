"""Slow, obvious versions of what hvs_aug computes fast, written from the papers without a look at its code."""
