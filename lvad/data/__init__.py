"""Scenes from disk: both layouts of BDD-OIA, plain frames and videos, and the synthetic set."""
