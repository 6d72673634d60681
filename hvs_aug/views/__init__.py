"""Recipes of views, the parameters that are drawn, and rendering."""
