"""From the outputs of all candidates to the views that are trained on: losses, search, policies, scoring, and the sampler."""
