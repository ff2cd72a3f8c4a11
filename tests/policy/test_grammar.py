"""The grammar against ``render`` and ``parse``, over characters, toy vocabularies and real tokenizers."""

import itertools
import json
import random
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from lvad.policy.grammar import AnswerGrammar, GrammarState, GrammarStates, TokenGrammar
from lvad.policy.sampling import Sampling, next_token_logps
from lvad.policy.tokens import banned_tokens, token_texts
from lvad.taxonomy import BDD_OIA
from lvad.text import parse, render

END = 0
ENDED = 0
TOY = ["", "Action: ", "none", "stop", "left", ".", ", ", ", left", "Action: stop", "st", "op", " ", "right now", "Z"]
"""Token 0 ends. "forward" and "right" cannot be written; "right now" and "Z" belong to no answer."""
TOY_ANSWERS = {"Action: none.", "Action: stop.", "Action: left.", "Action: stop, left."}


def accepts(grammar, text):
    state = grammar.start
    for char in text:
        successors = grammar.successors(state)
        if char not in successors:
            return False
        state = successors[char]
    return grammar.is_complete(state) and not grammar.successors(state)


def bits(number, size):
    return [number >> i & 1 for i in range(size)]


def round_trips(text, with_reasons=True):
    answer = parse(text)
    if with_reasons:
        return answer.is_valid and render(answer.actions, answer.reasons) == text
    return [p.flaw.name for p in answer.problems] == ["NO_REASON"] and render(answer.actions) == text


def every_completion(grammar, num_tokens):
    """All token sequences that the grammar allows, each with the places it passes."""
    frontier = [([], [], grammar.start(1, num_tokens).states[0])]
    while frontier:
        tokens, places, place = frontier.pop()
        if tokens[-1:] == [END]:
            yield tokens, places
            continue
        for token in grammar.allowed(place).tolist():
            frontier.append(([*tokens, token], [*places, place], grammar.after(place, token)))


def every_sequence(texts, answers, num_tokens):
    """The same by trying all sequences of tokens, without the automaton."""
    for length in range(1, num_tokens):
        for tokens in itertools.product([t for t, text in enumerate(texts) if text], repeat=length):
            if "".join(texts[t] for t in tokens).removeprefix(" ") in answers:
                yield [*tokens, END]


def draw_uniformly(grammar, num, num_tokens, seed=0):
    """The tokens of num completions, the end last, every allowed token as probable as the others."""
    generator = random.Random(seed)
    allowed = cache(lambda place: grammar.allowed(place).tolist())
    for _ in range(num):
        place, drawn = grammar.start(1, num_tokens).states[0], []
        while place.state != ENDED:
            drawn.append(generator.choice(allowed(place)))
            place = grammar.after(place, drawn[-1])
        assert len(drawn) <= num_tokens
        yield drawn


def written(texts, tokens):
    return "".join(texts[t] for t in tokens).strip()


@pytest.fixture(scope="module")
def embedded(vlm_folder):
    """Texts, grammar with reasons and tokenizer of the embedded captioner's vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(vlm_folder)
    texts = token_texts(
        tokenizer, banned_tokens(tokenizer, AutoConfig.from_pretrained(vlm_folder), (tokenizer.eos_token_id,))
    )
    return texts, TokenGrammar(AnswerGrammar(), texts, tokenizer.eos_token_id), tokenizer


def test_characters_accept_every_set_of_actions_and_each_pair_of_reasons():
    without, both = AnswerGrammar(with_reasons=False), AnswerGrammar()
    for number in range(1 << BDD_OIA.num_actions):
        assert accepts(without, render(bits(number, BDD_OIA.num_actions)))
        assert accepts(without, " " + render(bits(number, BDD_OIA.num_actions)))
    for pair in itertools.product(range(BDD_OIA.num_reasons), repeat=2):
        reasons = [int(i in pair) for i in range(BDD_OIA.num_reasons)]
        assert accepts(both, render((0, 1, 0, 1), reasons))
    assert accepts(both, render((0,) * 4, (0,) * 21))
    assert accepts(both, render((1,) * 4, (1,) * 21))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "Action: .", "Action: stop", "Action: stop. ", "Action: left, stop.", "Action: stop, stop.",
        "Action: none, stop.", "Action: stop, none.", "Action: stop. Reason: road is clear.", "action: stop.",
        "  Action: stop.", "Action: stop , left.", "Action: stop,left.", "Action: sto.", "Action: right, .",
    ],
)  # fmt: skip
def test_characters_refuse_what_render_does_not_write(text):
    assert not accepts(AnswerGrammar(with_reasons=False), text)


def test_no_language_without_reasons_lies_in_the_other():
    assert not accepts(AnswerGrammar(), "Action: stop.")
    assert not accepts(AnswerGrammar(), "Action: stop. Reason: traffic sign, road is clear.")
    assert not accepts(AnswerGrammar(), "Action: stop. Reason: none, traffic sign.")
    assert accepts(AnswerGrammar(), "Action: stop. Reason: road is clear, traffic sign.")


@pytest.mark.parametrize("num_tokens", [3, 4, 5, 6])
def test_allowed_sequences_are_those_that_write_an_answer_in_time(num_tokens):
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    allowed = sorted(tokens for tokens, _ in every_completion(grammar, num_tokens))
    assert allowed == sorted(every_sequence(TOY, TOY_ANSWERS, num_tokens))
    assert len({tuple(tokens) for tokens in allowed}) == len(allowed)


def test_shortest_answer_by_hand():
    # "Action: stop" + "." + end.
    assert TokenGrammar(AnswerGrammar(False), TOY, END).shortest == 3
    # "Action: " + "none" + "." + end, without the whole "Action: stop".
    assert TokenGrammar(AnswerGrammar(False), TOY[:8], END).shortest == 4


def test_too_small_a_budget_is_named():
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    with pytest.raises(ValueError, match=r"max_new_tokens must be >= 3, .*, got 2"):
        grammar.start(1, 2)


def test_a_vocabulary_that_cannot_write_an_answer_is_named():
    with pytest.raises(ValueError, match="cannot write an answer"):
        TokenGrammar(AnswerGrammar(False), ["", "Action: ", "none", "stop"], END)
    with pytest.raises(ValueError, match="cannot write an answer"):
        TokenGrammar(AnswerGrammar(), TOY, END)


def markov_logps(table, grammar, sequences, law):
    """float64[N] of a toy model whose logits, V of them, depend on the token before (the end's row: none)."""
    sums = []
    for tokens, places in sequences:
        before = torch.tensor([END, *tokens[:-1]])
        banned = GrammarStates(grammar, places).banned(torch.device("cpu"))
        logps = next_token_logps(table[before], law, banned)
        sums.append(logps.gather(1, torch.tensor(tokens)[:, None]).sum())
    return torch.stack(sums)


@pytest.mark.parametrize("num_tokens", [3, 5, 7])
@pytest.mark.parametrize("law", [Sampling(), Sampling(1.7), Sampling(1.5, 2), Sampling(top_p=0.7)])
def test_masked_probabilities_of_all_answers_sum_to_one(num_tokens, law):
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    table = torch.randn(len(TOY), len(TOY), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    logps = markov_logps(table, grammar, list(every_completion(grammar, num_tokens)), law)
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_masked_gradient_is_that_of_finite_differences():
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    sequences = list(every_completion(grammar, 5))
    rewards = torch.linspace(-1, 2, len(sequences), dtype=torch.float64) ** 2
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(len(TOY), len(TOY), dtype=torch.float64, generator=generator, requires_grad=True)

    def expected_reward(table):
        return (markov_logps(table, grammar, sequences, Sampling(1.3)).exp() * rewards).sum()

    assert torch.autograd.gradcheck(expected_reward, table)
    (gradient,) = torch.autograd.grad(expected_reward(table), table)
    assert gradient[:, TOY.index("Z")].eq(0).all()  # a token that is never allowed is not pushed
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(TOY), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_tokens", [400, 60])
def test_ten_thousand_random_answers_parse_and_read_back(embedded, num_tokens):
    texts, grammar, _ = embedded
    answers = {written(texts, row) for row in draw_uniformly(grammar, 5_000, num_tokens)}
    assert len(answers) > 500
    assert all(round_trips(text) for text in answers)
    said = [parse(text) for text in answers]
    assert {name for a in said for name, flag in zip(BDD_OIA.action_names, a.actions, strict=True) if flag} == set(
        BDD_OIA.action_names
    )
    assert {name for a in said for name, flag in zip(BDD_OIA.reason_texts, a.reasons, strict=True) if flag} == set(
        BDD_OIA.reason_texts
    )


def test_every_budget_from_the_shortest_on_is_kept(embedded):
    texts, grammar, tokenizer = embedded
    for num_tokens in range(grammar.shortest, grammar.shortest + 12):
        for row in draw_uniformly(grammar, 50, num_tokens, seed=num_tokens):
            assert round_trips(written(texts, row))
    whole = {written(texts, row) for row in draw_uniformly(grammar, 200, grammar.shortest)}
    # Not a cut one: whatever is drawn, the shortest budget leaves the fewest tokens that write an answer.
    assert all(len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= grammar.shortest - 1 for text in whole)


def test_every_real_label_set_is_allowed_as_the_tokenizer_writes_it(shared_data, embedded):
    texts, grammar, tokenizer = embedded
    actions_alone = TokenGrammar(AnswerGrammar(False), texts, tokenizer.eos_token_id)
    seen = set()
    for split in ("train", "val", "test"):
        rows = json.loads((shared_data / "bddoia_annotations" / f"gt_4a_21r_{split}.json").read_text())
        seen |= {(tuple(row["actions"]), tuple(row["reason"])) for row in rows.values()}
    assert len(seen) == 907
    for actions, reasons in seen:
        for law, text in ((grammar, render(actions, reasons)), (actions_alone, render(actions))):
            tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            replayed = law.replay(torch.tensor([[tokens]]), torch.ones(1, 1, len(tokens), dtype=torch.bool), 999)
            assert [place.num_left for place in replayed.states] == list(range(999, 999 - len(tokens), -1))


def test_replay_gives_the_places_in_the_order_of_the_mask():
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    tokens = torch.tensor([[[8, 5, END, 9, 9], [1, 3, 7, 5, END]]])  # "Action: stop.", "Action: stop, left."
    mask = torch.tensor([[[True] * 3 + [False] * 2, [True] * 5]])
    places = grammar.replay(tokens, mask, 6).states
    assert [place.num_left for place in places] == [6, 5, 4, 6, 5, 4, 3, 2]
    assert places[0] == places[3]
    assert places[1].state == places[5].state  # "Action: stop" in one token or in two


@pytest.mark.parametrize(
    ("tokens", "num_tokens", "message"),
    [
        ([1, 4, 6, 3, 5, END], 9, "completion 0 of scene 0, token 2"),  # "left, " is followed by nothing
        ([8, END], 9, "completion 0 of scene 0, token 1: token 0 leads to no answer with 8 tokens left"),
        ([1, 9, 10, 5, END], 4, "completion 0 of scene 0, token 1"),
    ],
)
def test_replay_names_what_the_grammar_cannot_have_drawn(tokens, num_tokens, message):
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    with pytest.raises(ValueError, match=message):
        grammar.replay(torch.tensor([[tokens]]), torch.ones(1, 1, len(tokens), dtype=torch.bool), num_tokens)


def test_what_has_ended_may_only_end():
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    grammar_states = grammar.start(2, 3)
    for tokens in ([8, 8], [5, 5], [END, END], [11, 12]):
        grammar_states = grammar_states.after(torch.tensor(tokens))
    assert grammar_states.banned(torch.device("cpu")).int().tolist() == [[0] + [1] * (len(TOY) - 1)] * 2


def odd_tokenizer():
    """A byte-level vocabulary: all bytes, halves of characters, a whole answer, two ids for one text, 49k fillers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    whole = [word.replace(" ", "Ġ") for word in ("Action: stop. Reason: traffic sign.", " Action: none.", "Reason: n")]
    whole += ["Ã©", "ðŁĺ", "ĠĠ", "Ċ", "top.", "Action:ĠstopÃ", *(f"Ġword{i}" for i in range(48_800))]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(alphabet + whole)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_tokens([AddedToken("Action: left", special=False), AddedToken(" Reason: traffic", special=False)])
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<pad>", "stop", "<end_of_utterance>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end_of_utterance>", pad_token="<pad>")


def test_odd_tokens_write_nothing_but_answers():
    tokenizer = odd_tokenizer()
    vocabulary, end = 49_280, tokenizer.eos_token_id
    config = SimpleNamespace(text_config=SimpleNamespace(vocab_size=vocabulary))
    texts = token_texts(tokenizer, banned_tokens(tokenizer, config, (end,)))
    assert len(texts) == vocabulary
    special = tokenizer.convert_tokens_to_ids("stop")
    assert texts[end] == texts[special] == texts[vocabulary - 1] == ""
    grammar = TokenGrammar(AnswerGrammar(), texts, end)
    assert grammar.shortest == 2  # the whole answer, and the end
    opening = {texts[t] for t in grammar.allowed(grammar.start(1, 999).states[0]).tolist()}
    assert opening == {"A", " ", "Action: stop. Reason: traffic sign.", " Action: none.", "Action: left"}
    for row in draw_uniformly(grammar, 500, 700):
        text = written(texts, row)
        assert round_trips(text)
        assert tokenizer.decode(row, skip_special_tokens=True).strip() == text


def test_a_place_with_a_full_budget_allows_each_token_of_its_state():
    grammar = TokenGrammar(AnswerGrammar(False), TOY, END)
    start = grammar.start(1, 50).states[0]
    assert {TOY[t] for t in grammar.allowed(start).tolist()} == {"Action: ", "Action: stop", " "}
    # Three tokens are "Action: stop", ".", end; with four there is room for the space or the parts.
    assert {TOY[t] for t in grammar.allowed(GrammarState(start.state, 3)).tolist()} == {"Action: stop"}
    assert {TOY[t] for t in grammar.allowed(GrammarState(start.state, 4)).tolist()} == {"Action: ", "Action: stop", " "}
