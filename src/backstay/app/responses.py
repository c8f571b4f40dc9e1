"""Responses for what has no declared type."""

from starlette.responses import JSONResponse as StarletteJSONResponse

from backstay import json

__all__ = ["JSONResponse"]


class JSONResponse(StarletteJSONResponse):
    """Answer with anything that `backstay.json` can say: dates, decimals, UUIDs, models, arrays.

    Return one where a route has no declared type. Never set it as `default_response_class` or
    `response_class`: either one switches off FastAPI's own, faster path for declared types.
    """

    def render(self, content: object) -> bytes:
        """Return `content` as JSON.

        Raises:
            JSONEncodeError: JSON has no word for it, such as NaN.
        """
        return json.dumps(content)
