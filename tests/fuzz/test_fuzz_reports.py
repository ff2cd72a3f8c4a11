"""What runs leave behind and later commands read: answers, numbers, samples, records, replies."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile import LEAVES, break_bytes, break_json, cases, one_line, refused

from lvad.commands.pipeline_config import Record, read_pipeline
from lvad.commands.stage_runner import RECORD, read_record
from lvad.errors import ChatError, DataError
from lvad.report.answers_file import read_answers, write_answers
from lvad.report.compare_answers import compare_answers, read_run
from lvad.report.model_card import Exported, model_card
from lvad.report.predictions import PredictionWriter
from lvad.report.recorder import RunRecorder
from lvad.report.runs import read_metrics, update_metrics
from lvad.report.samples_file import rows_before
from lvad.rewards.chat_replies import ReplyCache, _retry_after_s, parse_reply, parse_response
from lvad.rewards.judge import _read_template, read_score
from lvad.text import parse
from lvad.types import AnsweredScene, Prediction, Scene

ANSWER = AnsweredScene(
    "a", "a car", "Action: stop.", (0, 1, 0, 0), (0,) * 21, True, (0.1, 0.9, 0, 0), (), (0, 1, 0, 0), (0,) * 21
)
METRICS = {"test/action_macro_f1": 0.5, "test/reason_macro_f1": 0.25, "val/reward": None, "val/reward_start": 0.125}


@cases("answers.jsonl")
def test_answers(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [break_json(ANSWER._replace(id=f"{i}")._asdict(), rng) for i in range(rng.randrange(1, 4))]
    path.write_bytes(b"\n".join(rows))
    with refused(ValueError, path):
        answered = read_answers(path)
        assert answered == read_answers(write_answers(tmp_path / "again.jsonl", answered))
    with refused(DataError, path):
        read_run(tmp_path, "a")


@cases("metrics.json")
def test_numbers_of_a_run(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "metrics.json"
    broken = break_json(METRICS, rng)
    path.write_bytes(broken)
    write_answers(tmp_path / "answers.jsonl", [ANSWER])
    with refused(DataError, path):
        read_run(tmp_path, "a")
    with refused(DataError, path):
        update_metrics(tmp_path, {"test/x": 1.0})
        assert json.loads(path.read_text())["test/x"] == 1.0
        return
    assert path.read_bytes() == broken


@cases("samples.jsonl")
def test_samples_of_a_run(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "samples.jsonl"
    row = {"step": 4, "id": "a", "completions": [{"text": "a car", "reward": 0.5}]}
    path.write_bytes(b"\n".join([break_json(row, rng), json.dumps(row | {"step": 9}).encode(), b""]))
    with refused(DataError, path):
        assert all(json.loads(kept)["step"] < 9 for kept in rows_before(path, 9))


@cases("model card")
def test_model_cards(tmp_path: Path, rng: random.Random) -> None:
    """Of a run whose ledger and numbers were tampered with."""
    words = [str(rng.choice(LEAVES))[:300] for _ in range(6)]
    exported = Exported(
        "model", "RLOOPolicy", *words[:2], rng.choice((None, words[2])), words[3], True, "float32", words[4],
        "describe", [], [],
    )  # fmt: skip
    (tmp_path / "metrics.json").write_bytes(break_json(METRICS, rng))
    with refused(DataError, tmp_path / "metrics.json"):
        assert "## Use" in model_card(exported, {words[5]: ["a"]}, read_metrics(tmp_path))


@cases("stage.json")
def test_records_of_stages(tmp_path: Path, rng: random.Random) -> None:
    whole = dict.fromkeys(Record._fields, "x") | {"command": ["fit"], "fit_s": 1.0, "test_s": None}
    (tmp_path / RECORD).write_bytes(break_json(whole, rng))
    with refused(DataError, tmp_path / RECORD):
        assert isinstance(read_record(tmp_path), Record)


PIPELINE = """
name: whole
root: logs
stages:
  - {name: one, config: configs/rloo.yaml, overrides: {trainer.max_epochs: 1}}
  - {name: two, config: configs/action_sft.yaml, overrides: {model.init_args.policy.init_args.model: "{one}"}}
compare: {ours: two}
"""


@cases("pipeline files")
def test_pipelines(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(break_bytes(PIPELINE.encode(), rng))
    with refused((DataError, FileNotFoundError)):
        assert read_pipeline(path).stages


@cases("judge replies")
def test_replies_of_a_server(rng: random.Random) -> None:
    body = {
        "id": "x",
        "choices": [{"message": {"role": "assistant", "content": "Score: 0.5"}, "finish_reason": "stop"}],
    }
    with refused(ChatError):
        assert isinstance(parse_response(break_json(body, rng).decode("utf-8", "replace")), str)


@cases("judge scores")
def test_scores_of_a_judge(rng: random.Random) -> None:
    reply = break_bytes(b"<think>0.3 of 10?</think> **Score: 0.75**.", rng).decode("utf-8", "replace")
    with refused(ChatError):
        assert 0 <= parse_reply(reply, read_score) <= 1


@cases("Retry-After headers")
def test_times_to_wait(rng: random.Random) -> None:
    header = break_bytes(rng.choice((b"Wed, 21 Oct 2015 07:28:00 GMT", b"120", b"1.5")), rng).decode("latin-1")
    wait_s = _retry_after_s(header)
    assert wait_s is None or wait_s >= 0


@cases("kept replies")
def test_kept_replies(tmp_path_factory: pytest.TempPathFactory, rng: random.Random) -> None:
    """A damaged one is never believed."""
    replies = ReplyCache(tmp_path_factory.getbasetemp() / "replies")
    request = {"model": "m", "messages": ["a"]}
    replies.put(request, "Score: 1")
    (file,) = replies.folder.rglob("*.json")
    content = json.loads(file.read_text())
    file.write_bytes(break_json(content, rng))
    try:
        is_same = json.loads(file.read_bytes())["reply"] == content["reply"]
    except (ValueError, TypeError, KeyError, RecursionError):
        is_same = False
    if is_same:
        assert replies.get(request) in ("Score: 1", None)
        return
    with pytest.warns(UserWarning, match="is damaged"):
        assert replies.get(request) is None


@cases("judge prompts")
def test_prompts_of_a_judge(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(break_bytes(b"Explanation: {explanation} Reason: {reason} Score:", rng))
    with refused(ValueError, path):
        assert "{reason}" in _read_template(path)


@cases("answer parser")
def test_answers_of_a_model(rng: random.Random) -> None:
    text = b"Action: forward, turn left. Reason: traffic light is green, none. And more"
    answer = parse(break_bytes(text, rng).decode("utf-8", "replace") * rng.choice((1, 1, 1, 50)))
    assert len(answer.actions) == 4
    assert len(answer.reasons) == 21
    assert answer.problems or any(answer.actions)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["action:" + " " * 10**6, "action: " + "a, " * 10**5, "\n" * 10**6, "score " * 10**5])
def test_no_text_takes_long(text: str) -> None:
    parse(text)
    with pytest.raises(ValueError, match="number"):
        read_score(text)


def test_the_name_of_a_frame_may_be_no_utf8(tmp_path: Path) -> None:
    scenes = [Scene("a", (Path("\udcff.jpg"),), "")]
    trainer: Any = SimpleNamespace(
        global_rank=0, is_global_zero=True, world_size=1,
        strategy=SimpleNamespace(barrier=lambda _: None, broadcast=str),
        predict_dataloaders=SimpleNamespace(dataset=SimpleNamespace(scenes=scenes)),
    )  # fmt: skip
    writer, batch, module = (
        PredictionWriter(str(tmp_path / "out"), pictures=False),
        SimpleNamespace(frames=[None]),
        None,
    )
    writer.on_predict_start(trainer, module)
    writer.write_on_batch_end(trainer, module, [Prediction("a", "a bus é", None)], [0], batch, 0, 0)
    writer.on_predict_end(trainer, module)
    (row,) = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert row == {"id": "a", "description": "a bus é", "frames": ["\udcff.jpg"]}


def test_a_checkpoint_sets_nothing_but_the_record_of_the_run() -> None:
    recorder = RunRecorder()
    recorder.load_state_dict({"start": {"val/reward_start": 0.5}, "_folder": "/etc", "run_dir": "/etc"})
    assert (recorder.start, recorder._folder, recorder.run_dir) == ({"val/reward_start": 0.5}, None, None)


def test_runs_that_cannot_be_compared_say_so_in_one_line(tmp_path: Path) -> None:
    """An id of many lines stays one."""
    for name, scene in (("a", "x\n\x1b[2J\ud800"), ("b", "y" * 10**5)):
        (tmp_path / name).mkdir()
        write_answers(tmp_path / name / "answers.jsonl", [ANSWER._replace(id=scene)])
    with pytest.raises(DataError, match="lacks 1 scenes") as refusal:
        compare_answers([read_run(tmp_path / name, name) for name in "ab"])
    one_line(refusal.value)
