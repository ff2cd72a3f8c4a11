"""The commands of ``lvad``, one module each, and what they share."""
