"""Says at the end how many cases were run."""

import pytest
from hostile import ran


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per reader, and the sum."""
    if ran:
        terminalreporter.section("fuzz cases")
        for reader, number in sorted(ran.items()):
            terminalreporter.write_line(f"{number:6} {reader}")
        terminalreporter.write_line(f"{sum(ran.values()):6} in all")
