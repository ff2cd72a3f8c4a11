"""The Python interface: load what a run, an export or a model folder holds, and ask it about pictures and videos."""

from lvad.api.loading import load
from lvad.api.predictor import Predictor
from lvad.api.results import Decision, SampledText, TextScore

__all__ = ["Decision", "Predictor", "SampledText", "TextScore", "load"]
