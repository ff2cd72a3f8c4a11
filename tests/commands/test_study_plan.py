"""Plans of studies: what is shared, what each stage is told, and what is wrong with a file."""

import pytest
import yaml

from lvad.assets import CONFIGS
from lvad.commands.study_plan import make_plan, read_study, repeat_args
from lvad.errors import DataError

SFT = {"name": "sft", "config": "mine.yaml", "overrides": {"data.split.budget": "{budget}"}}
RLOO = {"name": "rloo", "config": "mine.yaml", "test": False, "overrides": {"model.steps": 5}}
ANSWERS = {
    "name": "answers",
    "config": "mine.yaml",
    "overrides": {"data.split.budget": "{budget}", "model.of": "{rloo}"},
}
REWARD = {"name": "reward", "config": "mine.yaml", "test": False, "overrides": {"data.split.budget": "{budget}"}}
TUNED = {**RLOO, "overrides": {"model.reward": "{reward}"}}
ARMS = {"sft": [SFT], "rloo": [RLOO, ANSWERS], "tuned": [REWARD, TUNED, ANSWERS]}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Reads a study with some keys changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("a: 1\n")

    def read(arms=None, files=None, **changed):
        for name, stages in {**ARMS, **(arms or {})}.items():
            content = stages if isinstance(stages, dict) else {"stages": stages}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        files = {name: f"{name}.yaml" for name in {**ARMS, **(arms or {})}} if files is None else files
        content = {"budgets": [10, 20], "seeds": [0, 1], "arms": files, "name": "n", "root": "r", **changed}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return read_study(tmp_path / "s.yaml")

    return read


def short(folder):
    return str(folder.relative_to("r/n")).rpartition("-")[0]


def test_what_does_not_depend_on_the_budget_is_done_once_per_seed(study):
    plan = make_plan(study(), seeds=[0])
    assert [short(folder) for folder in plan.jobs] == [
        "n10/seed-0/sft", "n20/seed-0/sft",
        "shared/seed-0/rloo", "n10/seed-0/answers", "n20/seed-0/answers",
        "n10/seed-0/reward", "n10/seed-0/rloo", "n10/seed-0/answers",
        "n20/seed-0/reward", "n20/seed-0/rloo", "n20/seed-0/answers",
    ]  # fmt: skip
    assert len(make_plan(study()).jobs) == 22
    assert [(cell.arm, cell.budget) for cell in plan.cells] == [
        (arm, budget) for arm in ("sft", "rloo", "tuned") for budget in (10, 20)
    ]
    shared = next(folder for folder in plan.jobs if "shared" in str(folder))
    assert [folder for folder, job in plan.jobs.items() if shared in job.inputs] == list(plan.jobs)[3:5]


def test_arms_that_ask_for_the_same_share_it(study):
    again = {"name": "first", "config": "mine.yaml", "overrides": {"data.split.budget": "{budget}"}}
    plan = make_plan(study({"more": [RLOO, {**again, "name": "sft", "test": True}], "other": [again]}), seeds=[0])
    by_arm = {(cell.arm, cell.budget): cell for cell in plan.cells}
    assert by_arm["more", 10].folder == by_arm["sft", 10].folder
    assert by_arm["other", 10].folder != by_arm["sft", 10].folder  # another name: another folder
    assert by_arm["more", 10].chain[0] == by_arm["rloo", 10].chain[0]


def test_a_stage_is_told_its_budget_seed_and_inputs(study):
    seeded = {**SFT, "overrides": {"data.split.budget": "{budget}", "data.name": "s{seed}-n{budget}"}}
    plan = make_plan(study({"sft": [seeded]}), ["sft", "tuned"], [10], [7])
    told = [" ".join(job.command) for job in plan.jobs.values()]
    assert "--seed_everything 7 --data.seed 7 --data.split.budget 10 --data.name s7-n10 --trainer.logger" in told[0]
    reward, rloo = list(plan.jobs)[1:3]
    assert f"--model.reward {reward}/model" in told[2]
    assert f"--model.of {rloo}/model" in told[3]
    place = {"save_dir": "r/n/n10", "name": "seed-7", "version": rloo.name}
    assert all(f"--trainer.logger.init_args.{key} {value}" in told[2] for key, value in place.items())


def test_a_folder_is_named_by_what_it_holds(study):
    first = make_plan(study())
    moved = make_plan(study(root="elsewhere"))
    assert [folder.parts[1:] for folder in moved.jobs] == [folder.parts[1:] for folder in first.jobs]
    more = make_plan(study({"z": [{**SFT, "overrides": {"a": 1}}]}))
    assert set(first.jobs) < set(more.jobs)
    changed = make_plan(study({"rloo": [{**RLOO, "overrides": {"model.steps": 6}}, ANSWERS]}))
    assert len(set(first.jobs) - set(changed.jobs)) == 2 * 1 + 4  # rloo of two seeds, answers of two seeds and budgets


def test_a_part_of_a_study_is_chosen_down_to_one_cell(study):
    plan = make_plan(study(), ["rloo"], [10], [1])
    assert [(cell.arm, cell.budget, cell.seed) for cell in plan.cells] == [("rloo", 10, 1)]
    assert repeat_args("s.yaml", plan.cells) == [
        "study", "--config", "s.yaml", "--arms", "rloo", "--budgets", "10", "--seeds", "1",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"no arm 'x' in the study; there are \['sft', 'rloo', 'tuned'\]"):
        make_plan(study(), ["x"])


def test_an_arm_with_budgets_of_its_own_runs_at_no_other(study):
    few = study(files={"sft": "sft.yaml", "tuned": {"file": "tuned.yaml", "budgets": [20]}})
    assert [(cell.arm, cell.budget) for cell in make_plan(few, seeds=[0]).cells] == [
        ("sft", 10), ("sft", 20), ("tuned", 20),
    ]  # fmt: skip
    assert len(make_plan(few, budgets=[10, 30], seeds=[0]).cells) == 2
    with pytest.raises(DataError, match="nothing to run"):
        make_plan(few, ["tuned"], [10])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": [1]}, "unknown key 'budget'"),
        ({"budgets": []}, r"budgets: must be a list of int, got \[\]"),
        ({"budgets": [1, "a"]}, "budgets: must be a list of int"),
        ({"budgets": [True]}, "budgets: must be a list of int"),
        ({"seeds": [0, 0]}, "seeds: has a value twice"),
        ({"seeds": [-1, 0]}, "seeds: must not be negative"),
        ({"files": {}}, "arms: must be a mapping of names to files"),
        ({"files": {"sft": {"file": "sft.yaml", "at": 1}}}, "arms, 'sft': must be a file, or a mapping of"),
        ({"files": {"sft": {"file": "sft.yaml", "budgets": 3}}}, "arms, 'sft', budgets: must be a list of int, got 3"),
        ({"references": ["x"]}, r"references: 'x' is no arm; there are \['sft', 'rloo', 'tuned'\]"),
        ({"parallel": 0}, "parallel: must be at least 1, got 0"),
        ({"threads": "2"}, "threads: must be int, got '2'"),
        ({"name": "a/b"}, "name: 'a/b' is no folder's name"),
        ({"estimates": {"mine.yaml": "long"}}, "estimates: 'mine.yaml' must be seconds, got 'long'"),
        (
            {"arms": {"sft": {"stages": [SFT], "result": "x"}}},
            "result: 'x' is no stage with a test; those with one are",
        ),
        ({"arms": {"sft": [{**SFT, "test": False}]}}, "result: 'sft' is no stage with a test"),
        ({"arms": {"sft": {"stages": [SFT], "budgets": [1]}}}, "sft.yaml: unknown key 'budgets'"),
        ({"arms": {"sft": [{**SFT, "overrides": {"a": "{budgt}"}}]}}, r"refers to an unknown stage \{budgt\}"),
        ({"arms": {"sft": [{**SFT, "name": "seed"}]}}, "stage 'seed': its name has a meaning of its own"),
        ({"arms": {"sft": [{**SFT, "overrides": {"seed_everything": 1}}]}}, "which the pipeline sets"),
    ],
)
def test_a_mistake_in_a_file_is_named(study, changed, message):
    with pytest.raises(DataError, match=message):
        study(**changed)


def test_a_file_that_is_not_there_is_named(study):
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        study(files={"sft": "nothing.yaml"})


def test_the_shipped_arms_spend_the_budget_in_every_stage_that_has_labels():
    shipped = read_study(CONFIGS / "study/label_efficiency.yaml")
    assert shipped.budgets == [25, 50, 100, 200]
    assert len(shipped.seeds) >= 5
    plan = make_plan(shipped, seeds=[0], budgets=[100])
    for job in plan.jobs.values():
        spends = "--data.split.budget 100" in " ".join(job.command)
        # RLOO has no labels but those of its reward.
        assert spends != job.config.removeprefix("configs/study/").startswith("rloo")
