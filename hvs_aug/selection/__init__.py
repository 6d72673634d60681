"""Choosing the views to train on: losses, search, policies, scoring, and the sampler."""
