"""A run that answers at once, so that the page can be tested by itself."""

import numpy as np
import pytest


@pytest.fixture
def quick_run():
    """Stands for a ``Predictor`` that can do everything; reads frames as a real one does."""
    from lvad.api import Decision, SampledText, TextScore
    from lvad.api.scenes import SceneLoader
    from lvad.taxonomy import BDD_OIA

    class QuickRun:
        def __init__(self, name="quick", abilities=("describe", "decide", "score", "sample")):
            self.name, self.kind, self.abilities, self.taxonomy = name, "QuickRun", abilities, BDD_OIA
            self.loader = SceneLoader(2, None, 1.0, None, BDD_OIA)
            self.asked = []

        def examples(self, count):
            return [np.full((2, 48, 64, 3), 40 * i, dtype=np.uint8) for i in range(count)]

        def frames(self, frames):
            return self.loader.read(frames)[1]

        def describe(self, frames):
            return f"{self.name} sees {len(self.frames(frames))} frames."

        def decide(self, frames):
            actions = dict(zip(BDD_OIA.action_names, (0.9, 0.1, 0.05, 0.6), strict=True))
            reasons = dict.fromkeys(BDD_OIA.reason_texts, 0.001) | {"road is clear": 0.8, "follow traffic": 0.4}
            said = ("forward", "right")
            return Decision("a", "", "Action: forward, right.", True, said, actions, ("road is clear",), reasons)

        def score(self, frames, texts):
            rows = [texts] if isinstance(texts, str) else texts
            return [TextScore(len(text) / 100, {"clip": 0.25, "length": 0.5}) for text in rows]

        def sample(self, frames, num_completions, temperature=None):
            self.asked.append((num_completions, temperature))
            rewards = [0.1 * k for k in range(num_completions)]
            return [SampledText(f"sample {k}", -1.5, False, TextScore(r, {"clip": r})) for k, r in enumerate(rewards)]

    return QuickRun
