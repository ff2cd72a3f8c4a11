"""Audit a reward before a policy is trained on it.

A policy maximises whatever the reward prefers, and that is not always what is true: all reasons at once, the same text
three times, words in any order, left taken for right. An audit compares the right texts of labelled scenes with such
probes, and finds out for each probe whether the reward scores it lower.
"""

from lvad.audit.run import run_audit
from lvad.audit.verdict import Audit, ProbeResult

__all__ = ["Audit", "ProbeResult", "run_audit"]
