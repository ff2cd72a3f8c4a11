"""Class paths of earlier configurations."""

import importlib

import pytest

from lvad.errors import MOVED as OLD


@pytest.mark.parametrize("path", sorted(OLD))
def test_an_earlier_name_is_refused_with_the_present_one(path):
    old_room, _, name = path.rpartition(".")
    with pytest.raises(AttributeError, match=rf"lvad\.\w+\.{name} is now {OLD[path]}: "):
        getattr(importlib.import_module(old_room), name)
    room, _, kind = OLD[path].rpartition(".")
    assert hasattr(importlib.import_module(room), kind)
