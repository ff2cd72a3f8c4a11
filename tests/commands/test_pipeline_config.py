"""Plans of pipelines: what a file means, which command lines it gives, and what makes a stage stale."""

import pytest
import yaml

from lvad.assets import CONFIGS
from lvad.commands.pipeline_config import Record, expected_record, fit_args, read_pipeline, references, why_stale
from lvad.commands.yaml_files import read_yaml
from lvad.errors import DataError

REWARD_KEY = "model.init_args.reward.init_args.model"
STAGES = [
    {"name": "reward", "config": "mine.yaml", "test": False},
    {
        "name": "rloo",
        "config": "mine.yaml",
        "overrides": {REWARD_KEY: "{reward}", "data.split.num_scenes": {"train": 16}},
    },
]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Reads a pipeline with some keys changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("seed_everything: 0\n")

    def read(given=None, **changed):
        content = {"stages": STAGES, "compare": {"pipeline": "rloo"}, "name": "n", "root": "r", **changed}
        path = tmp_path / "pipeline.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_pipeline(path, **(given or {}))

    return read


def test_a_stage_is_one_command_line_into_its_own_folder(plan):
    pipeline = plan()
    assert fit_args(pipeline, pipeline.stages[1]) == [
        "fit", "--config", "mine.yaml", f"--{REWARD_KEY}", "r/n/reward/model",
        "--data.split.num_scenes", '{"train": 16}',
        "--trainer.logger", "lvad.report.board.TensorBoard", "--trainer.logger.init_args.save_dir", "r",
        "--trainer.logger.init_args.name", "n", "--trainer.logger.init_args.version", "rloo",
    ]  # fmt: skip


def test_the_command_line_wins_over_the_file(plan):
    pipeline = plan({"seed": 7, "name": "other", "root": None}, seed=3)
    assert (pipeline.seed, str(pipeline.folder)) == (7, "r/other")
    args = fit_args(pipeline, pipeline.stages[0])
    assert [args[args.index(key) + 1] for key in ("--seed_everything", "--data.seed")] == ["7", "7"]
    assert "--seed_everything" not in fit_args(plan(), pipeline.stages[0])


def test_references_are_found_inside_of_mappings_too(plan):
    stages = [*STAGES, {"name": "last", "config": "mine.yaml", "overrides": {"a": {"b": ["{rloo}", "{reward}"]}}}]
    pipeline = plan(stages=stages)
    assert references(pipeline.stages[2]) == ["rloo", "reward"]
    assert '{"b": ["r/n/rloo/model", "r/n/reward/model"]}' in fit_args(pipeline, pipeline.stages[2])


def test_a_stage_is_stale_if_anything_that_made_it_changed(plan, tmp_path):
    pipeline = plan()
    rloo = pipeline.stages[1]
    records = {"reward": Record([], "", {}, finished="monday")}
    known = expected_record(pipeline, rloo, records)
    assert known.inputs == {"reward": "monday"}
    assert why_stale(known._replace(finished="tuesday", fit_s=1.0), known) == ""
    assert why_stale(None, known) == "it has not run yet"

    anew = expected_record(pipeline, rloo, {"reward": records["reward"]._replace(finished="friday")})
    assert why_stale(known, anew) == "reward ran anew"
    seeded = expected_record(plan(seed=1), rloo, records)
    assert why_stale(known, seeded) == "its command line changed: --seed_everything 1 --data.seed 1"
    assert why_stale(seeded, known) == "its command line changed: fewer options"
    (tmp_path / "mine.yaml").write_text("seed_everything: 1\n")
    assert why_stale(known, expected_record(pipeline, rloo, records)) == "its configuration file changed"


def stage(**changed):
    return [STAGES[0], {**STAGES[1], **changed}]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stage": []}, "unknown key 'stage'; it takes"),
        ({"stages": []}, r"stages: must be a list of stages, got \[\]"),
        ({"stages": ["reward"]}, r"stages\[0\]: must be a mapping of .*, got 'reward'"),
        ({"stages": [{"name": "a"}]}, r"stages\[0\]: no 'config'; it takes"),
        ({"stages": stage(configs="x")}, r"stages\[1\]: unknown key 'configs'"),
        ({"stages": stage(test="yes")}, r"stages\[1\].test: must be bool, got 'yes'"),
        ({"stages": stage(overrides=["a"])}, r"stages\[1\].overrides: must be dict"),
        ({"stages": stage(name="reward")}, "stage 'reward': its name is given twice"),
        ({"stages": stage(name="a/b")}, "stage 'a/b': its name must be letters"),
        ({"stages": stage(name="replaced")}, "stage 'replaced': its name must be letters"),
        ({"stages": stage(overrides={"a": "{reword}"})}, r"unknown stage \{reword\}; there are \['reward', 'rloo'\]"),
        ({"stages": STAGES[::-1]}, r"stage 'rloo': refers to \{reward\}, which does not come before it"),
        ({"stages": stage(overrides={"a": "{rloo}"})}, r"refers to \{rloo\}, which does not come before it"),
        ({"stages": stage(overrides={"trainer.logger": False})}, "overrides 'trainer.logger', which the pipeline sets"),
        ({"seed": "x"}, r"seed: must be int \| None, got 'x'"),
        ({"seed": True}, r"seed: must be int \| None, got True"),
        ({"name": "a/b"}, "name: 'a/b' is no folder's name"),
        ({"name": ""}, "name: '' is no folder's name"),
        ({"name": ".."}, r"name: '\.\.' is no folder's name"),
        ({"compare": ["rloo"]}, "compare: must be dict"),
        ({"compare": {"arm": "reward"}}, "compare, 'arm': 'reward' is no stage with a test"),
    ],
)
def test_a_mistake_in_the_file_is_named(plan, changed, message):
    with pytest.raises(DataError, match=message):
        plan(**changed)


def test_a_missing_configuration_and_a_file_that_is_no_yaml_are_named(plan, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration at 'nothing\.yaml'"):
        plan(stages=stage(config="nothing.yaml"))
    (tmp_path / "bad.yaml").write_text("stages: [\n")
    with pytest.raises(DataError, match=r"bad\.yaml: is not YAML"):
        read_pipeline(tmp_path / "bad.yaml")


def inputs_of(pipeline):
    return {stage.name: references(stage) for stage in pipeline.stages}


def test_the_shipped_pipeline_has_every_arm_at_the_same_labels():
    pipeline = read_pipeline(CONFIGS / "pipeline.yaml")
    wanted = {"rloo": [], "reader": ["rloo"], "two_stage": ["rloo"], "captioner": [], "action_sft": []}
    assert inputs_of(pipeline) == wanted
    assert set(pipeline.compare.values()) == wanted.keys() - {"rloo"}
    budgets = {
        stage.name: (stage.overrides | read_yaml(CONFIGS / stage.config.removeprefix("configs/"))["data"]["split"])[
            "budget"
        ]
        for stage in pipeline.stages
    }
    assert budgets == {"rloo": 0, "reader": 100, "two_stage": 100, "captioner": 100, "action_sft": 100}


def test_the_pipeline_with_a_tuned_reward_is_the_papers():
    pipeline = read_pipeline(CONFIGS / "pipeline_tuned_reward.yaml")
    assert inputs_of(pipeline) == {"reward": [], "rloo": ["reward"], "two_stage": ["rloo"], "action_sft": []}
    assert pipeline.compare == {"pipeline": "two_stage", "sft baseline": "action_sft"}
