"""What the libraries say at every start is brought to what helps."""

import logging
import sys
import warnings

import pytest

from lvad.commands.terminal import progress_bar, quieten
from lvad.report.progress import Bar, PlainLines


@pytest.fixture
def _as_before(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        yield


@pytest.mark.usefixtures("_as_before")
def test_a_warning_is_one_line_without_a_line_of_source():
    quieten()
    assert warnings.formatwarning(UserWarning("ALARM far:\n the KL"), UserWarning, "file.py", 3) == (
        "lvad: warning: ALARM far: the KL\n"
    )


@pytest.mark.usefixtures("_as_before")
def test_other_products_are_not_advertised(caplog):
    quieten()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, logger.name):
        logger.info("\U0001f4a1 Tip: For seamless cloud logging, try installing [litlogger]")
        logger.info("GPU available: False")
    assert caplog.messages == ["GPU available: False"]


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, Bar), (False, PlainLines)])
def test_a_bar_only_where_it_can_move(is_terminal, kind, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert type(progress_bar()) is kind
