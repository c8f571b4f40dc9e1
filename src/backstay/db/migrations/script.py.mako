"""${docstring}"""
% if imports:

${imports}
% endif

revision: str = ${literal(up_revision)}
down_revision: str | tuple[str, ...] | None = ${literal(down_revision)}
branch_labels: tuple[str, ...] | None = ${literal(branch_labels)}
depends_on: str | tuple[str, ...] | None = ${literal(depends_on)}


def upgrade() -> None:
    """Apply the change."""
% if upgrades:
${upgrades}
% endif


def downgrade() -> None:
    """Take the change back."""
% if downgrades:
${downgrades}
% endif
