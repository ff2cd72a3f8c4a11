"""lvad: label-efficient fine-tuning of small vision-language models for interpretable driving."""

__version__ = "0.1.0"
