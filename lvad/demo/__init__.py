"""``lvad demo``: a local page on which a loaded run is asked about pictures and videos."""
