"""Drawn driving scenes with exact labels, captions and facts: no download, no licence, any number."""

from lvad.data.synthetic.captions import captions, complete_caption
from lvad.data.synthetic.labels import labels, taxonomy_labels
from lvad.data.synthetic.render import render
from lvad.data.synthetic.state import SceneState, draw_state, facts
from lvad.data.synthetic.write import draw_scene, write_synthetic

__all__ = [
    "SceneState",
    "captions",
    "complete_caption",
    "draw_scene",
    "draw_state",
    "facts",
    "labels",
    "render",
    "taxonomy_labels",
    "write_synthetic",
]
