"""The model card of an exported run: README.md with front matter as the Hugging Face hub reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from huggingface_hub import EvalResult, ModelCardData

from lvad.data.ledger import STREAMED, Ledger
from lvad.report.runs import markdown
from lvad.types import Table

CARD: Final = "README.md"

Kind = Literal["model", "adapter", "stages", "adapter_stages", "reward"]
"""What a folder holds: a model, adapters only, two models, a model with adapters for stage 2, or a CLIP."""

_TASKS: Final = {"reward": "zero-shot-image-classification"}
_LIBRARIES: Final = {"adapter": "peft", "reward": "open_clip"}
_TITLES: Final = {
    "model": "a vision-language model",
    "adapter": "adapters of a vision-language model",
    "stages": "two vision-language models, the second in `answer/`",
    "adapter_stages": "a vision-language model, with adapters for stage 2 in `answer/`",
    "reward": "a CLIP that tells which texts are true of a driving scene",
}
_FLOORS: Final = ("majority", "all_positive", "all_negative")
"""Constant answers beside that of the label set, whose name begins with ``_CONSTANT``."""
_CONSTANT: Final = "always_"
_START: Final = "_start"
_LABELLED: Final = "train, labelled"

_SAY: Final = """
def say(model, frames, prompt):
    content = [*[{"type": "image"}] * len(frames), {"type": "text", "text": prompt}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[chat], images=[frames], return_tensors="pt").to(model.device, model.dtype)
    tokens = model.generate(**inputs, generation_config=generation)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()


frames = [Image.open("frame.jpg").convert("RGB")]  # of one scene, the oldest first
"""
_HEAD: Final = """import json
from pathlib import Path

{peft}from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

folder = "."  # this folder
prompts = json.loads(Path(folder, "prompts.json").read_text())
generation = GenerationConfig.from_pretrained(folder)
"""
_PEFT: Final = {
    "adapter": "from peft import PeftConfig, PeftModel\n",
    "adapter_stages": "from peft import PeftModel\n",
}
_LOAD: Final[Mapping[Kind, str]] = {
    "model": """model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
processor = AutoProcessor.from_pretrained(folder)
""",
    "adapter": """base = PeftConfig.from_pretrained(folder).base_model_name_or_path
model = AutoModelForImageTextToText.from_pretrained(base, dtype="{dtype}")
model = PeftModel.from_pretrained(model, folder).eval()
processor = AutoProcessor.from_pretrained(base)
""",
    "stages": """describer = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
answerer = AutoModelForImageTextToText.from_pretrained(f"{{folder}}/answer", dtype="auto").eval()
processor = AutoProcessor.from_pretrained(folder)
""",
    "adapter_stages": """describer = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
answerer = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
answerer = PeftModel.from_pretrained(answerer, f"{{folder}}/answer").eval()
processor = AutoProcessor.from_pretrained(folder)
""",
}
_ANSWER: Final = """description = say(describer, frames, prompts["describe"])
print(description, say(answerer, frames, f"{description} {prompts['decide']}".strip()))
"""
_CLIP: Final = """import open_clip
import torch
from PIL import Image

folder = "."  # this folder
model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
frames = [Image.open("frame.jpg").convert("RGB")]  # of one scene
texts = ["traffic light is not green", "road is clear"]
with torch.no_grad():
    image = model.eval().encode_image(torch.stack([transform(frame) for frame in frames]), normalize=True).mean(0)
    cosines = model.encode_text(tokenizer(texts), normalize=True) @ (image / image.norm())
print(dict(zip(texts, cosines.tolist(), strict=True)))
"""


@dataclass(frozen=True)
class Exported:
    """What the model card of an exported run says beside the label ledger and the test scores.

    Args:
        kind: what lies in the folder.
        stage: class of the run's module.
        title: of the card.
        base: the model that the run started from, as its configuration names it.
        hub_id: its name on the hub; None for one that lies there only as files.
        trained: checkpoint and step, in words.
        is_best: it is the run's best checkpoint, of which the run's validation scores are.
        dtype: of the weights; for adapters, of the base model that they were trained on.
        data: what was learnt from, in words.
        asks: entry of the prompts that a model of one stage is asked.
        checks: how the export was verified, a sentence each.
        limits: what is different from lvad, a sentence each.
    """

    kind: Kind
    stage: str
    title: str
    base: str
    hub_id: str | None
    trained: str
    is_best: bool
    dtype: str
    data: str
    asks: str
    checks: list[str]
    limits: list[str]


def model_card(exported: Exported, ledger: Ledger, metrics: Mapping[str, float | None]) -> str:
    """Write the text of a model card.

    Args:
        exported: what it is about.
        ledger: which scenes were seen.
        metrics: of the run.
    """
    intro = (
        f"This folder holds {_TITLES[exported.kind]}, written by `lvad export` from a run of `{exported.stage}` "
        f"({exported.trained}), in {exported.dtype}. It started from `{exported.base}` and learnt from driving scenes: "
        f"{exported.data}."
    )
    sections = [
        _front_matter(exported, metrics),
        f"# {exported.title}\n\n{intro}\n",
        f"## Use\n\nlvad is not needed.\n\n```python\n{snippet(exported)}```\n{_prompt_note(exported.kind)}",
        _budget(ledger),
        _scores(exported, metrics),
        "## How the export was verified\n\n" + "".join(f"- {check}\n" for check in exported.checks),
        "## Limits\n\n" + "".join(f"- {limit}\n" for limit in [*exported.limits, *_limits(exported)]),
    ]
    return "\n".join(section for section in sections if section)


def snippet(exported: Exported) -> str:
    """Write the Python lines that use the folder with plain transformers, peft or open_clip."""
    kind = exported.kind
    if kind == "reward":
        return _CLIP
    head = _HEAD.format(peft=_PEFT.get(kind, ""))
    ask = (
        _ANSWER if kind in ("stages", "adapter_stages") else f'print(say(model, frames, prompts["{exported.asks}"]))\n'
    )
    return f"{head}{_LOAD[kind].format(dtype=exported.dtype)}\n{_SAY}{ask}"


def _front_matter(exported: Exported, metrics: Mapping[str, float | None]) -> str:
    results, base = _eval_results(exported, metrics), dict[str, Any]()
    if exported.hub_id is not None:
        base["base_model"] = exported.hub_id
        base["base_model_relation"] = "adapter" if exported.kind == "adapter" else "finetune"
    data = ModelCardData(
        library_name=_LIBRARIES.get(exported.kind, "transformers"),
        pipeline_tag=_TASKS.get(exported.kind, "image-text-to-text"),
        language=["en"],
        tags=["lvad", "driving", exported.stage],
        model_name=exported.title if results else None,
        eval_results=results,
        **base,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _eval_results(exported: Exported, metrics: Mapping[str, float | None]) -> list[EvalResult] | None:
    """Return the test scores over all classes as the hub shows them; None without a test of this export."""
    names = [name.partition("/")[2] for name in metrics if name.startswith("test/")] if exported.is_best else []
    return [
        EvalResult(
            task_type=_TASKS.get(exported.kind, "image-text-to-text"),
            dataset_type="driving-scenes",  # an id is asked for, and these data lie in no hub
            dataset_name=exported.data,
            dataset_split="test",
            metric_type=name,
            metric_value=value,
        )
        for name in names
        if "/" not in name and not name.endswith(_START) and (value := metrics[f"test/{name}"]) is not None
    ] or None


def _prompt_note(kind: Kind) -> str:
    if kind == "reward":
        return ""
    return (
        "\n`prompts.json` holds the prompts of all stages; others were not trained on. `generation_config.json` "
        "decodes greedily, up to the length that the run used, and keeps out the special tokens that the run never "
        "draws.\n"
    )


def _budget(ledger: Ledger) -> str:
    if not ledger:
        return "## Label budget\n\nThe run kept no ledger.\n"
    cells = tuple((use, "; ".join(ids) if use.endswith(STREAMED) else str(len(ids))) for use, ids in ledger.items())
    table = Table("Label budget", ("use", "scenes"), cells)
    labelled = {name for use, ids in ledger.items() if use.endswith(_LABELLED) for name in ids}
    return (
        f"{markdown(table)}\nLabels of {len(labelled)} different scenes were trained on, in all these uses together. "
        "`ledger.json` names every scene, and of streamed footage where it lies: test on others.\n"
    )


def _scores(exported: Exported, metrics: Mapping[str, float | None]) -> str:
    """Return every score over all classes, with its start and its floors where the run has them."""
    cells: dict[str, dict[str, float | None]] = {}
    for name, value in metrics.items():
        column, _, score = name.partition("/")
        if column == "test" and _is_floor((floor := score.partition("/"))[0]):
            column, score = floor[0].replace("_", " "), floor[2]
        if column not in ("time", "memory") and "/" not in score:
            is_start = score.endswith(_START)
            cells.setdefault(score.removesuffix(_START), {})[f"{column}, start" if is_start else column] = value
    if not cells:
        return "## Scores\n\nThe run kept no scores.\n"
    found = {column for row in cells.values() for column in row}
    constant = sorted(column for column in found if column.startswith(_CONSTANT.replace("_", " ")))
    floors = [*constant, *(floor.replace("_", " ") for floor in _FLOORS)]
    columns = [column for column in ("val, start", "val", "test", *floors) if column in found]
    rows = tuple((score, *(_number(row.get(column)) for column in columns)) for score, row in sorted(cells.items()))
    note = "" if exported.is_best else "\nThese are of the run's best checkpoint, which is not the one exported here.\n"
    return markdown(Table("Scores of the run", ("score", *columns), rows)) + note


def _is_floor(name: str) -> bool:
    return name in _FLOORS or name.startswith(_CONSTANT)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _limits(exported: Exported) -> list[str]:
    found = [
        "A research model: what it says of a scene can be wrong, and no vehicle may be driven by it.",
        "The licences of the base model and of the data apply to these weights too.",
    ]
    if exported.kind == "adapter" and exported.hub_id is None:
        found.insert(0, f"The adapters need the very weights of `{exported.base}`, which lie in no hub.")
    return found
