"""Errors that a user can mend are one line; lvad's own faults keep their traceback."""

import pytest

from lvad.cli import main
from lvad.commands.error_messages import error_line, innermost_message, report_user_errors
from lvad.commands.global_options import GLOBAL_OPTIONS, global_option_args, parse_global_options

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lvad.modules.RLOOPolicy':
        Parser key "kl":
          Does not validate against any of the Union subtypes
          Errors:
            - Problem with given class_path 'lvad.objectives.regularisation.KL':
                Option 'betta' is not accepted
            - Expected a <class 'NoneType'>
          Given value: NestedArg(key='betta', val='0.1')
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='kl.betta', val='0.1')"""


NO_INT = "Parser key \"data.batch_size\":\n  Expected a <class 'int'>. Got value: few"
CASES = [
    (NESTED, "model.kl: Option 'betta' is not accepted; did you mean 'beta'?"),
    (NO_INT, "data.batch_size: must be int, got few"),
    (
        "unrecognized arguments: --data.batchsize 3",
        "unrecognized arguments: --data.batchsize 3; did you mean '--data.batch_size'?",
    ),
    (
        "Subcommand 'fit' does not accept option 'modle.class_path'",
        "Option 'modle.class_path' is not accepted; did you mean 'model'?",
    ),
    ("any other\n  message", "any other message"),
]


@pytest.mark.parametrize(("message", "line"), CASES)
def test_the_innermost_sentence_and_what_was_meant(message, line):
    from lvad.objectives.regularisation import KL  # noqa: F401  # as it is imported where the message arises

    assert innermost_message(message, ["data.batch_size", "model"]) == line


NO_CLASS_PATH = """Parser key "model":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'lvad.modules.ActionSFT':
        Parser key "objective":

          - Expected a path but {name} either not accessible or invalid
          - Expected a dot import path string: {name}
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='objective', val='{name}')"""


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (
            "MinimumRisk",
            "lvad.modules.MinimumRisk is now lvad.objectives.MinimumRiskBLEU: write that in the configuration",
        ),
        ("MinimumRiskBLEU", "did you mean 'lvad.objectives.MinimumRiskBLEU'?"),
        ("Rehearsals", "did you mean 'lvad.objectives.Rehearsal'?"),
    ],
)
def test_a_bare_class_name_is_refused_with_the_full_path(name, meant):
    import lvad.objectives  # noqa: F401  # as it is imported where the message arises

    line = f"model.objective: must be the full path of a class, got {name}; {meant}"
    assert innermost_message(NO_CLASS_PATH.format(name=name)) == line


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(28, "No space left on device"), "make room on the disk"),
        (RuntimeError("Early stopping conditioned on metric `val/x` which is not available."), "reach a validation"),
        (NotADirectoryError(20, "Not a directory", "logs"), "name another folder"),
        (RuntimeError("Input type (float) and weight type (bf16) should be the same"), "bf16-mixed"),
    ],
)
def test_what_libraries_refuse_is_one_line_with_a_remedy(error, part, capsys):
    @report_user_errors
    def command():
        raise error

    assert command() == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("lvad: error: ")
    assert part in said


def test_misconfiguration_is_the_users_to_mend():
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    @report_user_errors
    def command():
        raise MisconfigurationException("`enable_checkpointing=False` but found `ModelCheckpoint`")

    assert command() == 1


@pytest.mark.parametrize("kind", [TypeError, KeyError, NotImplementedError, RecursionError, AssertionError])
def test_a_fault_of_lvad_keeps_its_traceback(kind):
    @report_user_errors
    def command():
        raise kind("x")

    with pytest.raises(kind):
        command()


def test_debug_lets_every_error_through():
    @report_user_errors
    def command():
        raise ValueError("x")

    parse_global_options(["--debug"])
    try:
        with pytest.raises(ValueError, match="x"):
            command()
    finally:
        parse_global_options([])


def test_flags_stand_anywhere_and_are_handed_on():
    given = ["fit", "--key_host", "a.org", "--safe", "--config", "x", "--key_host=b.org"]
    try:
        assert parse_global_options(given) == ["fit", "--config", "x"]
        assert GLOBAL_OPTIONS.key_hosts == ["a.org", "b.org"]
        assert global_option_args() == ["--safe", "--key_host", "a.org", "--key_host", "b.org"]
    finally:
        parse_global_options([])


def test_the_note_with_the_traceback_is_said():
    error = RuntimeError("some library")
    error.add_note("traceback: logs/x/traceback.txt")
    assert error_line(error) == "some library (RuntimeError; traceback: logs/x/traceback.txt)"


@pytest.mark.parametrize(
    ("command", "typed"), [("fit", "lvad fit --config configs/rloo.yaml"), ("predict", "lvad predict street.jpg")]
)
def test_without_arguments_it_says_what_to_type(command, typed, capsys):
    assert main([command]) == 2
    assert typed in capsys.readouterr().err
