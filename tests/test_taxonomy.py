"""Label sets: the release's index order, files that are read as they were written, and files that are refused."""

import copy
import pickle

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lvad.policy.grammar import AnswerGrammar, TokenGrammar
from lvad.taxonomy import BDD_OIA, FILE, Action, Reason, Taxonomy, dump_taxonomy, find_taxonomy, load_taxonomy
from lvad.text import Flaw, mirror_text, parse, render

FORWARD, STOP, LEFT, RIGHT = range(4)
LANES = load_taxonomy("lanes")
SMALL = """
name: small
actions:
  - {name: go, mirror: back}
  - {name: back, mirror: go, aliases: [return]}
reasons:
  - {key: clear, text: all clear, action: go, mirror: shut}
  - {key: shut, text: shut, action: back, mirror: clear}
"""


def test_sizes_and_groups():
    assert BDD_OIA.action_names == ("forward", "stop", "left", "right")
    assert BDD_OIA.num_reasons == 21
    groups = [FORWARD] * 3 + [STOP] * 6 + [LEFT] * 3 + [RIGHT] * 3 + [LEFT] * 3 + [RIGHT] * 3
    assert [reason.action for reason in BDD_OIA.reasons] == groups
    assert [reason.supports for reason in BDD_OIA.reasons] == [True] * 15 + [False] * 6
    assert len(BDD_OIA.reason_index) == len({reason.text for reason in BDD_OIA.reasons}) == BDD_OIA.num_reasons
    assert BDD_OIA.floor == "always stop"
    assert BDD_OIA.exclusive == ((FORWARD, STOP),)


def test_keys_stand_in_the_order_of_the_release(shared_data):
    key = (shared_data / "bddoia_annotations" / "OFFICIAL_LABEL_README.txt").read_text()
    found = sorted(BDD_OIA.reason_index, key=lambda name: key.index(name))
    assert found == [reason.key for reason in BDD_OIA.reasons]


@pytest.mark.parametrize("taxonomy", [BDD_OIA, LANES], ids=lambda taxonomy: taxonomy.name)
def test_mirror_partners_say_the_same_of_the_other_side(taxonomy):
    for texts, partners in (
        (taxonomy.action_names, taxonomy.mirrored_actions),
        (taxonomy.reason_texts, taxonomy.mirrored_reasons),
    ):
        assert tuple(mirror_text(text) for text in texts) == tuple(texts[i] for i in partners)


@pytest.mark.parametrize("taxonomy", [BDD_OIA, LANES], ids=lambda taxonomy: taxonomy.name)
def test_a_set_is_itself_again_from_its_file_and_between_processes(taxonomy, tmp_path):
    assert find_taxonomy(tmp_path) is None
    (tmp_path / FILE).write_text(dump_taxonomy(taxonomy), encoding="utf-8")
    for again in (find_taxonomy(tmp_path), pickle.loads(pickle.dumps(taxonomy)), copy.deepcopy(taxonomy)):
        assert again == taxonomy
        assert hash(again) == hash(taxonomy)
        assert again.differences(taxonomy) == []


def test_differences_are_named():
    assert LANES.differences(BDD_OIA) == [
        "actions of 'lanes' alone: 'wait', 'left lane', 'right lane'",
        "actions of 'bdd_oia' alone: 'forward', 'stop', 'left', 'right'",
        "reasons of 'lanes' alone: 'red light', 'person crossing', 'free left lane', 'free right lane'",
        "reasons of 'bdd_oia' alone: 'follow traffic', 'road is clear', 'traffic light is green', 'obstacle: car' "
        "and 15 more",
    ]
    one, other = Action("a", 0), Action("b", 1)
    sets = [
        Taxonomy("x", actions, [Reason("k", "k", 0, True, 0)])
        for actions in ([one, other], [other._replace(mirror=0), one._replace(mirror=1)])
    ]
    assert sets[0].differences(sets[1]) == ["actions in another order"]
    renamed = Taxonomy("other", LANES.actions, LANES.reasons)
    assert LANES.differences(renamed) == ["name differ"]


def action(**changed):
    first = {"name": "go", "mirror": "back"} | changed
    return {
        "actions": [first, {"name": "back", "mirror": first["name"]}],
        "reasons": [{"key": "shut", "text": "shut", "action": "back"}],
    }


def reason(**changed):
    first = {"key": "clear", "text": "all clear", "action": "go", "mirror": "shut"} | changed
    return {"reasons": [first, {"key": "shut", "text": "shut", "action": "back", "mirror": "clear"}]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (action(mirror="away"), r"mirror of action 'go' names the action 'away', but there are \['go', 'back'\]"),
        (action(mirror="go"), "action 'back' has the mirror partner 'go', whose own is 'go': each must be the other's"),
        (action(aliases=["back"]), "action 'back' is named twice"),
        (action(name="back"), "action name 'back' is named twice"),
        (action(name="go. now"), "action 'go. now' must have no full stop and no comma"),
        (action(aliases=["a,b"]), "action 'a,b' must have no full stop and no comma"),
        (action(name="none"), "not be 'none'"),
        (action(name="Go"), "action 'Go' must be in lower case with single spaces: write 'go'"),
        (action(name=True), "name must be a text, got True; put it in quotes"),
        (action(symbol="star"), "action 'go': symbol must be one of .*got 'star'"),
        (action(sign="x"), r"action 1 has \['sign'\], known are"),
        (reason(text="shut"), "reason 'shut' is named twice"),
        (reason(key="shut"), "reason key 'shut' is named twice"),
        (reason(text="all  clear"), "write 'all clear'"),
        (reason(text="all clear."), "must have no full stop"),
        (reason(action="fly"), r"reason 'clear' names the action 'fly', but there are \['go', 'back'\]"),
        (reason(mirror="open"), "mirror of reason 'clear' names the reason 'open'"),
        (reason(action="back"), "reason 'clear': its mirror partner 'shut' must be one for the mirror partner"),
        (reason(supports="no"), "supports must be true or false, got 'no'"),
        ({"reasons": []}, "there must be at least one reason"),
        ({"actions": "go"}, "actions must be a list, got 'go'"),
        ({"constant": "fly"}, "constant names the action 'fly'"),
        ({"exclusive": [["go"]]}, "exclusive must hold pairs of actions"),
        ({"contradictions": [{"says": "x", "reasons": ["clear"]}]}, r"a contradiction lacks \['against'\]"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(changed, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(SMALL) | changed))
    with pytest.raises(ValueError, match=rf"^label set {file}: (?s:.)*{message}"):
        load_taxonomy(str(file))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "name: !!python/object:os.system {}", "x: 2026-99-99", "\0"])
def test_what_is_no_label_set_is_refused(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^label set {file}: "):
        load_taxonomy(str(file))


def test_what_is_not_there_is_named():
    with pytest.raises(
        ValueError, match=r"no label set at 'bddoia': give a .yaml file, or one of \['bdd_oia', 'lanes'"
    ):
        load_taxonomy("bddoia")


def test_more_actions_than_sets_can_be_scored_are_refused():
    actions = [Action(f"a{i}", i) for i in range(11)]
    with pytest.raises(ValueError, match="at most 10 actions, got 11: every set of them is scored"):
        Taxonomy("many", actions, [Reason("k", "k", 0, True, 0)])


names = st.lists(
    st.text(alphabet="abn :/-é日", min_size=1, max_size=6).map(lambda text: " ".join(text.split())).filter(
        lambda text: text and text != "none"
    ),
    min_size=1,
    max_size=5,
    unique=True,
)  # fmt: skip


@given(names, names, st.data())
def test_every_answer_in_any_label_set_is_read_as_it_was_written(actions, texts, data):
    taxonomy = Taxonomy(
        "any",
        [Action(name, i) for i, name in enumerate(actions)],
        [Reason(f"r{i}", text, 0, True, i) for i, text in enumerate(texts)],
    )
    flags = [tuple(data.draw(st.integers(0, 1)) for _ in part) for part in (actions, texts)]
    answer = parse(render(*flags, taxonomy), taxonomy)
    assert (answer.actions, answer.reasons, answer.problems) == (*flags, ())


def test_answers_of_another_set_are_unknown():
    answer = parse("Action: stop, forward. Reason: red light.", LANES)
    assert answer.actions == (1, 0, 0)  # "stop" is an alias of "wait"
    assert answer.reasons == (1, 0, 0, 0, 0, 0)
    assert [problem.flaw for problem in answer.problems] == [Flaw.UNKNOWN_ACTION]
    assert {p.flaw for p in parse("Action: wait. Reason: red light.").problems} == {
        Flaw.UNKNOWN_ACTION,
        Flaw.UNKNOWN_REASON,
    }


def test_what_is_drawn_over_the_grammar_of_a_set_is_one_of_its_answers():
    """A uniform walk over single characters: whatever comes out parses, and every label comes up."""
    texts = ["", *sorted(AnswerGrammar(True, LANES).alphabet)]
    grammar = TokenGrammar(AnswerGrammar(True, LANES), texts, 0)
    generator = torch.Generator().manual_seed(0)
    actions, reasons = set(), set()
    for _ in range(60):
        said, grammar_states = "", grammar.start(1, 300)
        while True:
            allowed = grammar.allowed(grammar_states.states[0])
            token = allowed[torch.randint(len(allowed), (1,), generator=generator)]
            if token == 0:
                break
            said += texts[int(token)]
            grammar_states = grammar_states.after(token)
        answer = parse(said, LANES)
        assert answer.is_valid, said
        assert said.strip() == render(answer.actions, answer.reasons, LANES)
        actions |= {i for i, flag in enumerate(answer.actions) if flag}
        reasons |= {i for i, flag in enumerate(answer.reasons) if flag}
    assert actions == set(range(3))
    assert reasons == set(range(6))
