"""The table of users."""

from uuid import UUID

from backstay import Model, TimestampMixin, VersionMixin
from backstay.db.model import new_id
from backstay.db.types import String
from sqlalchemy.orm import Mapped, mapped_column


class User(VersionMixin, TimestampMixin, Model):
    """Someone who uses the service."""

    user_id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    password_hash: Mapped[str] = mapped_column(String(200))
    is_admin: Mapped[bool] = mapped_column(default=False)
    is_active: Mapped[bool] = mapped_column(default=True)
    is_verified: Mapped[bool] = mapped_column(default=False)
