"""Proof that a reward means something, before a policy is trained on it.

A policy maximises whatever the judge likes, and what the judge likes is easily not what is true: all reasons at once,
the same text three times, words in any order, a side taken for the other. An audit sets the right text of labelled
scenes against such probes, and says of each whether the reward tells them apart.
"""

from lvad.audit.run import run_audit
from lvad.audit.verdict import Audit, ProbeResult

__all__ = ["Audit", "ProbeResult", "run_audit"]
