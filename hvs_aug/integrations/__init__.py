"""Kornia, Lightly and Lightning, each imported only by the module that is named after it."""
