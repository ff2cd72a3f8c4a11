"""What is measured; every number under its own name."""
