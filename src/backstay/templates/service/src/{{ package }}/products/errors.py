"""What can go wrong with products; callers tell the errors apart by `code`."""

from backstay.errors import ConflictError, InvalidInputError, NotFoundError


class ProductNotFoundError(NotFoundError):
    """There is no such product."""

    code = "product_not_found"


class UnknownCategoryError(InvalidInputError):
    """A product names a category that does not exist."""

    code = "unknown_category"


class DuplicateSkuError(ConflictError):
    """Two products would have the same SKU."""

    code = "duplicate_sku"
