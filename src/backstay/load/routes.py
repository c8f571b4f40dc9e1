"""Which of the service's routes a request goes to: `/products/7` counts for `/products/{product_id}`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Route", "RouteTable"]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path of the service.

    Args:
        method: In capitals.
        template: The path with its parameters in braces.
        pattern: A regular expression that the whole of such a path matches.
        is_documented: Whether the OpenAPI document has it.
        takes_key: Whether it takes an idempotency key.
    """

    method: str
    template: str
    pattern: str
    is_documented: bool = True
    takes_key: bool = False

    @property
    def name(self) -> str:
        """What reports and thresholds call it, such as `GET /products/{product_id}`."""
        return f"{self.method} {self.template}"


class RouteTable:
    """Finds the template of a path; where two fit, the one that was declared first, as the service does."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = [(route, re.compile(route.pattern)) for route in routes]

    def find_template(self, method: str, url: str) -> str:
        """Return the template, or the path itself, without its query, when the service has no such route."""
        route = self.find_route(method, url)
        return urlsplit(url).path if route is None else route.template

    def find_route(self, method: str, url: str) -> Route | None:
        """Return the route; None when the service has no such one."""
        path = urlsplit(url).path
        for route, pattern in self._routes:
            if route.method == method and pattern.fullmatch(path):
                return route
        return None
