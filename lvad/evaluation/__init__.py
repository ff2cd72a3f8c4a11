"""Evaluation of a stage: its texts on held-out scenes, what frozen judges say of them, and the audit of a reward."""
