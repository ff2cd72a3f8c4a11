"""Class paths of earlier configurations."""

import importlib

import pytest

import lvad.modules


@pytest.mark.parametrize("name", sorted(lvad.modules._MOVED))
def test_an_earlier_name_is_refused_with_the_present_one(name):
    present = lvad.modules._MOVED[name]
    with pytest.raises(AttributeError, match=rf"lvad\.modules\.{name} is now {present}: "):
        getattr(lvad.modules, name)
    room, _, kind = present.rpartition(".")
    assert hasattr(importlib.import_module(room), kind)
