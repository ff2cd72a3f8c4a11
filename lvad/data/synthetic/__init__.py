"""Drawn driving scenes with exact labels, captions and facts: no download, no licence, any number."""

from lvad.data.synthetic.captions import complete_caption, scene_captions
from lvad.data.synthetic.labels import bdd_oia_labels, taxonomy_labels
from lvad.data.synthetic.rendering import render_frame
from lvad.data.synthetic.state import SceneState, draw_state, scene_facts
from lvad.data.synthetic.write import draw_scene, write_synthetic

__all__ = [
    "SceneState",
    "bdd_oia_labels",
    "complete_caption",
    "draw_scene",
    "draw_state",
    "render_frame",
    "scene_captions",
    "scene_facts",
    "taxonomy_labels",
    "write_synthetic",
]
