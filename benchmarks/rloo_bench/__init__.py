"""Parts of ``rloo_step.py``."""
