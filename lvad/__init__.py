"""lvad: label-efficient fine-tuning of small vision-language models for interpretable driving."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvad.api import Decision, Predictor, SampledText, TextScore, load

__version__ = "0.1.0"
__all__ = ["Decision", "Predictor", "SampledText", "TextScore", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is first used: torch and transformers take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lvad import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """The names of the interface too, which are not imported yet."""
    return sorted({*globals(), *__all__})
