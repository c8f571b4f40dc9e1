"""The lint of migrations: which lock an operation takes on PostgreSQL, what waits, and how to do without.

It needs no database: upgrade() is run against nothing and its SQL is read. downgrade() is not looked at.
"""

from backstay.db.migrations.lint._lint import Finding, LintReport, lint
from backstay.db.migrations.lint._rules import RULES, Lock, Rule

__all__ = ["RULES", "Finding", "LintReport", "Lock", "Rule", "lint"]
