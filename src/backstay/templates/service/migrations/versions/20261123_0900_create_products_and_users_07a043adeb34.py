"""Create products, users, and the tables of backstay: idempotency keys, logins, the outbox."""

import backstay.db.types
import sqlalchemy as sa
from alembic import op

revision: str = "07a043adeb34"
down_revision: str | tuple[str, ...] | None = None
branch_labels: tuple[str, ...] | None = None
depends_on: str | tuple[str, ...] | None = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "categories",
        sa.Column("slug", backstay.db.types.String(40), nullable=False),
        sa.Column("name", backstay.db.types.String(120), nullable=False),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_categories")),
    )
    op.create_table(
        "users",
        sa.Column("user_id", backstay.db.types.Uuid(), nullable=False),
        sa.Column("email", backstay.db.types.String(254), nullable=False),
        sa.Column("name", backstay.db.types.String(120), nullable=False),
        sa.Column("password_hash", backstay.db.types.String(200), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("is_verified", sa.Boolean(), nullable=False),
        sa.Column("version", backstay.db.types.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("updated_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "products",
        sa.Column("product_id", backstay.db.types.Uuid(), nullable=False),
        sa.Column("sku", backstay.db.types.String(40), nullable=False),
        sa.Column("name", backstay.db.types.String(120), nullable=False),
        sa.Column("price", backstay.db.types.Numeric(10, 2), nullable=False),
        sa.Column("category_slug", backstay.db.types.String(40), nullable=False),
        sa.Column("version", backstay.db.types.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("updated_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.CheckConstraint("price >= 0", name=op.f("ck_products_price_not_negative")),
        sa.ForeignKeyConstraint(
            ["category_slug"], ["categories.slug"], name=op.f("fk_products_category_slug_categories")
        ),
        sa.PrimaryKeyConstraint("product_id", name=op.f("pk_products")),
        sa.UniqueConstraint("sku", name=op.f("uq_products_sku")),
    )
    with op.batch_alter_table("products", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_products_category_slug"), ["category_slug"], unique=False)
        batch_op.create_index(batch_op.f("ix_products_name"), ["name"], unique=False)
    op.create_table(
        "backstay_idempotency",
        sa.Column("owner", backstay.db.types.String(200), nullable=False),
        sa.Column("method", backstay.db.types.String(10), nullable=False),
        sa.Column("route", backstay.db.types.String(500), nullable=False),
        sa.Column("key", backstay.db.types.String(255), nullable=False),
        sa.Column("fingerprint", backstay.db.types.String(64), nullable=False),
        sa.Column("status", backstay.db.types.Integer(), nullable=True),
        sa.Column("headers", backstay.db.types.JSON(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "method", "route", "key", name=op.f("pk_backstay_idempotency")),
    )
    with op.batch_alter_table("backstay_idempotency", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_backstay_idempotency_created_at"), ["created_at"], unique=False)
    op.create_table(
        "backstay_outbox",
        sa.Column("id", backstay.db.types.Uuid(), nullable=False),
        sa.Column("topic", backstay.db.types.String(200), nullable=False),
        sa.Column("payload", backstay.db.types.String(), nullable=False),
        sa.Column("created_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backstay_outbox")),
    )
    with op.batch_alter_table("backstay_outbox", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_backstay_outbox_topic"), ["topic"], unique=False)
    op.create_table(
        "backstay_one_time_tokens",
        sa.Column("digest", backstay.db.types.String(64), nullable=False),
        sa.Column("purpose", backstay.db.types.String(32), nullable=False),
        sa.Column("subject", backstay.db.types.String(255), nullable=False),
        sa.Column("bound_to", backstay.db.types.String(64), nullable=False),
        sa.Column("created_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("expires_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("used_at", backstay.db.types.UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_backstay_one_time_tokens")),
    )
    with op.batch_alter_table("backstay_one_time_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_backstay_one_time_tokens_expires_at"), ["expires_at"], unique=False
        )
    op.create_table(
        "backstay_sessions",
        sa.Column("id", backstay.db.types.String(32), nullable=False),
        sa.Column("subject", backstay.db.types.String(255), nullable=False),
        sa.Column("client_id", backstay.db.types.String(255), nullable=False),
        sa.Column("scopes", backstay.db.types.JSON(), nullable=False),
        sa.Column("created_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("expires_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("revoked_at", backstay.db.types.UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backstay_sessions")),
    )
    with op.batch_alter_table("backstay_sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_backstay_sessions_expires_at"), ["expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_backstay_sessions_subject"), ["subject"], unique=False)
    op.create_table(
        "backstay_refresh_tokens",
        sa.Column("digest", backstay.db.types.String(64), nullable=False),
        sa.Column("session_id", backstay.db.types.String(32), nullable=False),
        sa.Column("created_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("expires_at", backstay.db.types.UTCDateTime(), nullable=False),
        sa.Column("used_at", backstay.db.types.UTCDateTime(), nullable=True),
        sa.Column("successor_sealed", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["backstay_sessions.id"],
            name=op.f("fk_backstay_refresh_tokens_session_id_backstay_sessions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_backstay_refresh_tokens")),
    )
    with op.batch_alter_table("backstay_refresh_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_backstay_refresh_tokens_expires_at"), ["expires_at"], unique=False
        )
        batch_op.create_index(
            "ix_backstay_refresh_tokens_sealed",
            ["used_at"],
            unique=False,
            postgresql_where=sa.text("successor_sealed IS NOT NULL"),
            sqlite_where=sa.text("successor_sealed IS NOT NULL"),
        )
        batch_op.create_index(
            batch_op.f("ix_backstay_refresh_tokens_session_id"), ["session_id"], unique=False
        )


def downgrade() -> None:
    """Take the change back."""
    with op.batch_alter_table("backstay_refresh_tokens", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_backstay_refresh_tokens_session_id"))
        batch_op.drop_index(
            "ix_backstay_refresh_tokens_sealed",
            postgresql_where=sa.text("successor_sealed IS NOT NULL"),
            sqlite_where=sa.text("successor_sealed IS NOT NULL"),
        )
        batch_op.drop_index(batch_op.f("ix_backstay_refresh_tokens_expires_at"))
    op.drop_table("backstay_refresh_tokens")
    with op.batch_alter_table("backstay_sessions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_backstay_sessions_subject"))
        batch_op.drop_index(batch_op.f("ix_backstay_sessions_expires_at"))
    op.drop_table("backstay_sessions")
    with op.batch_alter_table("backstay_one_time_tokens", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_backstay_one_time_tokens_expires_at"))
    op.drop_table("backstay_one_time_tokens")
    with op.batch_alter_table("backstay_outbox", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_backstay_outbox_topic"))
    op.drop_table("backstay_outbox")
    with op.batch_alter_table("backstay_idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_backstay_idempotency_created_at"))
    op.drop_table("backstay_idempotency")
    with op.batch_alter_table("products", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_products_name"))
        batch_op.drop_index(batch_op.f("ix_products_category_slug"))
    op.drop_table("products")
    op.drop_table("users")
    op.drop_table("categories")
