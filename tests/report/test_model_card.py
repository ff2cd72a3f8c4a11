"""The model card says what the run's numbers and ledger say."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard

from lvad.metrics.floors import Labels, floor_answers
from lvad.report.model_card import _FLOORS, Exported, _is_floor, model_card, snippet

POLICY = Exported(
    kind="model",
    stage="RLOOPolicy",
    title="driver",
    base="HuggingFaceTB/SmolVLM-256M-Instruct",
    hub_id="HuggingFaceTB/SmolVLM-256M-Instruct",
    trained="checkpoint `best.ckpt`, step 100",
    is_best=True,
    dtype="bfloat16",
    data="`bddoia` (lastframe), at most 2 frames per scene",
    asks="describe",
    checks=["4 prompts: all is well"],
    limits=["It is shy."],
)


def front_matter(card):
    return ModelCard(card).data.to_dict()


def rows(card):
    lines = [line.split("|")[1:-1] for line in card.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_front_matter_is_what_the_hub_reads():
    found = front_matter(model_card(POLICY, {}, {}))
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "language": ["en"],
        "tags": ["lvad", "driving", "RLOOPolicy"],
        "base_model": POLICY.base,
        "base_model_relation": "finetune",
    }
    assert "base_model" not in front_matter(model_card(replace(POLICY, hub_id=None), {}, {}))
    adapter = front_matter(model_card(replace(POLICY, kind="adapter"), {}, {}))
    assert (adapter["library_name"], adapter["base_model_relation"]) == ("peft", "adapter")
    reward = front_matter(model_card(replace(POLICY, kind="reward"), {}, {}))
    assert (reward["library_name"], reward["pipeline_tag"]) == ("open_clip", "zero-shot-image-classification")


def test_the_hub_reads_the_scores_of_the_test():
    metrics = {
        "val/reward": 0.5,
        "test/reward": 0.4375,
        "test/action_macro_f1": None,
        "test/always_stop/reward": 0.2,
        "test/action_f1/stop": 0.8,
    }
    result = EvalResult(
        task_type="image-text-to-text",
        dataset_type="driving-scenes",
        dataset_name=POLICY.data,
        dataset_split="test",
        metric_type="reward",
        metric_value=0.4375,
    )
    data: Any = ModelCard(model_card(POLICY, {}, metrics)).data
    assert data.model_name == "driver"
    assert data.eval_results == [result]
    # They are of another checkpoint.
    assert "model-index" not in front_matter(model_card(replace(POLICY, is_best=False), {}, metrics))


def test_the_budget_counts_each_scene_once():
    """Two stages were trained on labels: of a, b and of b, c; validation and unlabelled scenes do not count."""
    ledger = {
        "ActionSFT train, labelled": ["a", "b"],
        "ActionSFT val, labelled": ["v"],
        "CLIPReward train, labelled": ["b", "c"],
        "RLOOPolicy train, unlabelled": ["d", "e", "f", "g"],
    }
    card = model_card(POLICY, ledger, {})
    assert {use: int(cells[0]) for use, cells in rows(card).items() if use in ledger} == {
        use: len(ids) for use, ids in ledger.items()
    }
    assert "Labels of 3 different scenes were trained on" in card
    assert "kept no ledger" in model_card(POLICY, {}, {})


def test_scores_stand_beside_their_start_and_their_floors():
    metrics = {
        "val/reward_start": 0.25,
        "val/reward": 0.5,
        "test/reward": 0.4375,
        "test/action_macro_f1": None,
        "test/always_stop/action_macro_f1": 0.2,
        "test/majority/action_macro_f1": 0.19,
        "test/always_stop/action_f1/stop": 0.9,
        "test/action_f1/stop": 0.8,
        "time/fit_s": 12.0,
    }
    card = model_card(POLICY, {}, metrics)
    found = rows(card)
    assert found["score"] == ["val, start", "val", "test", "always stop", "majority"]
    assert found["reward"] == ["0.250", "0.500", "0.438", "", ""]
    assert found["action_macro_f1"] == ["", "", "", "0.200", "0.190"]
    assert not {"action_f1", "stop", "fit_s", "action_f1/stop"} & set(found)
    assert "not the one exported" not in card
    assert "not the one exported" in model_card(replace(POLICY, is_best=False), {}, metrics)
    assert "kept no scores" in model_card(POLICY, {}, {})


def test_the_floors_are_those_of_a_test():
    labels = Labels(torch.eye(4).long())
    assert list(filter(_is_floor, floor_answers(labels, labels))) == ["always_stop", *_FLOORS]


@pytest.mark.parametrize("kind", ["model", "adapter", "stages", "adapter_stages", "reward"])
def test_every_kind_has_code_that_compiles(kind):
    exported = replace(POLICY, kind=kind)
    code = snippet(exported)
    compile(code, kind, "exec")
    assert "lvad" not in code
    assert "{{" not in code
    assert code in model_card(exported, {}, {})


def test_checks_and_limits_are_told():
    card = model_card(POLICY, {}, {})
    assert "- 4 prompts: all is well\n" in card
    assert "- It is shy.\n" in card
    assert "lie in no hub" not in card
    assert "which lie in no hub" in model_card(
        replace(POLICY, kind="adapter", hub_id=None, base="embedded/vlm"), {}, {}
    )
