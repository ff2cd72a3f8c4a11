"""What the tests of ``lvad export`` share: texts of the policy and of plain transformers."""

import functools
import re

from PIL import Image

from lvad.cli import main
from lvad.commands import export_check
from lvad.commands.trained_run import load_run, load_trial_scenes


@functools.cache
def loaded(run_folder):
    return load_run(run_folder)


def policy_texts(run_folder, question):
    """What lvad's own policy says of the validation scenes, greedily."""
    run = loaded(run_folder)
    frames = load_trial_scenes(run.data, 4).frames
    return [t.text for t in export_check.run_trials(run.module.policy, frames, [question] * len(frames))]


def frames_of(run_folder):
    scenes = load_trial_scenes(loaded(run_folder).data, 4).frames
    return [[Image.fromarray(f.permute(1, 2, 0).numpy()) for f in scene] for scene in scenes]


def plain_texts(model, processor, scenes, question, **options):
    """All scenes in one batch, which needs the padding on the left."""
    chats = [
        [{"role": "user", "content": [*[{"type": "image"}] * len(s), {"type": "text", "text": question}]}]
        for s in scenes
    ]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    inputs = processor(text=texts, images=scenes, padding=True, return_tensors="pt")
    tokens = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def run_snippet(folder, frames, monkeypatch, capsys):
    """The card's own code, in a folder with a frame."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S).group(1)
    frames[0].save(folder / "frame.jpg", quality=95)
    capsys.readouterr()
    with monkeypatch.context() as here:
        here.chdir(folder)
        exec(compile(code, "card", "exec"), {})
    said = capsys.readouterr().out
    (folder / "frame.jpg").unlink()
    return said


def fails(capsys, *args):
    """The one line that an export ends with."""
    assert main(["export", *map(str, args)]) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("lvad: ")]
    assert len(lines) == 1
    assert error.endswith(lines[0] + "\n")
    assert lines[0].startswith("lvad: error: ")
    return lines[0]
