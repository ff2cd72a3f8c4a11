"""The metrics of all stages."""
