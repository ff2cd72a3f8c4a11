"""Evaluation of a stage: scores of its texts on held-out scenes, by labels and frozen judges; the audit of a reward."""
