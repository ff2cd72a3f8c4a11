"""Scenes to vary with ``dataclasses.replace``."""

import dataclasses

from lvad.data.synthetic.state import SceneState, Side

FREE, JUNCTION = Side("free", "dashed", "none"), Side("none", "none", "none")
ABSENT, SOLID = Side("absent", "none", "none"), Side("free", "solid", "none")
EMPTY = SceneState(
    time="day",
    weather="clear",
    background="trees",
    junction=False,
    light="none",
    light_before="none",
    sign="none",
    lead="none",
    lead_colour="none",
    braking=False,
    turn="none",
    person="none",
    rider=False,
    obstacle="none",
    turn_lane="none",
    left=ABSENT,
    right=ABSENT,
    seed=0,
)
AT_JUNCTION = dataclasses.replace(EMPTY, junction=True, left=JUNCTION, right=JUNCTION)
