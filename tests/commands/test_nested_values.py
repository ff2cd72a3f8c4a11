"""Null on the command line, for what stands below a class."""

import pytest
from jsonargparse import ArgumentError, ArgumentParser, _typehints
from lightning import LightningModule

from lvad.commands.nested_values import _adapt_class_type, keep_null

POLICY = "--model.init_args.policy.init_args"
CLASSES = [
    "--model", "lvad.modules.RLOOPolicy", "--model.init_args.policy", "lvad.policy.HFPolicy",
    "--model.init_args.reward", "lvad.rewards.BLEU",
]  # fmt: skip
BEFORE = {"images.splitting": "true", "images.longest_edge_px": "512", "completions_at_once": "4"}


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> ArgumentParser:
    monkeypatch.setattr(_typehints, "adapt_class_type", _adapt_class_type)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    return parser


def test_null_is_null(parser: ArgumentParser) -> None:
    keep_null()
    given = [f"{POLICY}.{key}={value}" for key, value in BEFORE.items()]
    nulls = [part for key in ("lora", *BEFORE) for part in (f"{POLICY}.{key}", "null")]
    policy = parser.parse_args([*CLASSES, *given, *nulls, f"{POLICY}.prompts.describe", "null"]).model.init_args.policy
    assert [policy.init_args[key] for key in ("lora", *BEFORE)] == [None] * 4
    assert policy.init_args.prompts.describe == "null"  # a text, as nothing else may stand there


def test_null_within_an_object_is_null(parser: ArgumentParser) -> None:
    keep_null()
    given = [f"{POLICY}.images", "{splitting: null, longest_edge_px: 512}", f"{POLICY}.lora=null", f"{POLICY}.model=x"]
    images = parser.parse_args([*CLASSES, *given]).model.init_args.policy.init_args.images
    assert (images.splitting, images.longest_edge_px) == (None, 512)


def test_jsonargparse_alone_reads_the_text_none(parser: ArgumentParser) -> None:
    """Where this fails, ``lvad.commands.nested_values`` is needed no more."""
    with pytest.raises(ArgumentError):
        parser.parse_args([*CLASSES, f"{POLICY}.lora", "null"])
