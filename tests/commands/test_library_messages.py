"""What the libraries say at every start is brought to what helps."""

import logging
import warnings

import pytest

from lvad.commands.library_messages import filter_library_messages


@pytest.fixture
def _as_before(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        yield


@pytest.mark.usefixtures("_as_before")
def test_a_warning_is_one_line_without_a_line_of_source():
    filter_library_messages()
    assert warnings.formatwarning(UserWarning("ALARM far:\n the KL"), UserWarning, "file.py", 3) == (
        "lvad: warning: ALARM far: the KL\n"
    )


@pytest.mark.usefixtures("_as_before")
def test_other_products_are_not_advertised(caplog):
    filter_library_messages()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, logger.name):
        logger.info("\U0001f4a1 Tip: For seamless cloud logging, try installing [litlogger]")
        logger.info("GPU available: False")
    assert caplog.messages == ["GPU available: False"]
