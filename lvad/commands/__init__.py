"""The commands of ``lvad``, one module each, and the modules that several commands share."""
