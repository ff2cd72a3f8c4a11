"""What ships: small enough, whole, and opened by the ecosystem without lvad."""

import open_clip
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lvad.assets import CHECKPOINTS, loading, resolve_config, resolve_model
from lvad.text import Prompts


def test_the_embedded_models_are_small():
    files = [p for p in CHECKPOINTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 16 * 2**20
    assert not [p for p in files if p.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


def test_the_captioner_opens_in_plain_transformers():
    folder = resolve_model("embedded/vlm")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": Prompts().describe}]
    message = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    inputs = processor(text=text, images=[torch.zeros(3, 128, 128, dtype=torch.uint8)], return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    words = processor.tokenizer.decode(said, skip_special_tokens=True)
    assert len(words.split()) > 3


def test_the_clips_open_in_plain_open_clip():
    for name in ("clip", "clip-reward"):
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{resolve_model('embedded/' + name)}")
        assert transform is not None
        tokens = open_clip.get_tokenizer(f"local-dir:{resolve_model('embedded/' + name)}")(["a car"])
        assert model.encode_text(tokens).isfinite().all()


@pytest.mark.parametrize("find", [resolve_config, resolve_model])
def test_a_long_name_that_is_not_found_is_cut_short(find):
    with pytest.raises(FileNotFoundError, match=r"^no .* at './9999") as raised:
        find("./" + 5000 * "9")
    assert len(str(raised.value)) < 500


class PanicException(BaseException):
    """As the Rust code of tokenizers raises it."""


def test_a_panic_in_rust_is_an_error_of_the_model_and_an_interrupt_is_none():
    with (
        pytest.raises(ValueError, match=r"^model 'mine' cannot be loaded \(PanicException: range end"),
        loading("mine"),
    ):
        raise PanicException("range end index 7 out of range")
    with pytest.raises(KeyboardInterrupt), loading("mine"):
        raise KeyboardInterrupt


def test_what_a_library_says_of_a_broken_model_is_one_printable_line():
    with pytest.raises(ValueError, match=r"^model 'mine' cannot") as raised, loading("mine"):
        raise RuntimeError("no\n attribute \u202e")
    assert str(raised.value) == (
        r"model 'mine' cannot be loaded (RuntimeError: no attribute \u202e); restore its files, or name another"
    )
