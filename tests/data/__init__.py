"""Tests of hvs_aug.data, on images that they make themselves."""
