"""Stateless image operations with per-sample parameters, each defined once and run in two schedules.

``crop``, ``color`` and ``blur`` work on whole batches, with masks and without a look at a value, for a GPU and for torch.compile;
``per_sample`` walks through a batch image by image on a CPU, in cache, and computes nothing that was not drawn.
"""
