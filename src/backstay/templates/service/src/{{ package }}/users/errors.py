"""What can go wrong with users; callers tell the errors apart by `code`."""

from backstay.errors import ConflictError, NotFoundError


class UserNotFoundError(NotFoundError):
    """There is no such user."""

    code = "user_not_found"


class EmailTakenError(ConflictError):
    """Another user has this email address."""

    code = "email_taken"
