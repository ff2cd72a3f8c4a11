"""The commands beside LightningCLI's own: data, embedded models."""
