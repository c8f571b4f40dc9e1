"""The people of a load test: Locust's fast user, whose requests can be found again in the service's logs."""

import re
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from geventhttpclient.useragent import ConnectionError as AnswerError
from locust import FastHttpUser
from locust.contrib.fasthttp import FastHttpSession, FastResponse, ResponseContextManager
from locust.env import Environment
from locust.exception import RescheduleTask

from backstay.errors import BackstayError
from backstay.json import JSONDecodeError, loads
from backstay.load.routes import Route, RouteTable

__all__ = ["FailedRequestError", "LoadEnvironment", "ServiceUser"]

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class FailedRequestError(AnswerError, RescheduleTask, BackstayError):
    """A request was answered with a status of 400 or more, or not at all.

    Locust counts it where it happens. `response.raise_for_status()` raises it: the task ends there, the user
    waits and goes on with the next one.

    Its message has the status, the `code` of a problem document and the id of the first such request, which
    is in the service's log; never what the answer said otherwise.
    """

    def __init__(self, message: str, *, response: FastResponse | None = None) -> None:
        Exception.__init__(self, message)
        self.response = response

    def __str__(self) -> str:
        return str(self.args[0])

    # Locust's reports show and group errors by their repr.
    __repr__ = __str__


class LoadEnvironment(Environment):
    """One run of a load test, and what its requests are called.

    Args:
        routes: The service's routes, in the order in which it looks for one.
        request_id_header: The header by which the service takes a request's id.
        options: What Locust's own environment takes.
    """

    def __init__(
        self, routes: Sequence[Route] = (), *, request_id_header: str = "X-Request-ID", **options: Any
    ) -> None:
        super().__init__(**options)
        self.route_table = RouteTable(routes)
        self.request_id_header = request_id_header
        self._run = token_hex(3)
        self._count = 0
        self._first_ids: dict[tuple[str, str, str], str] = {}

    def next_request_id(self) -> str:
        """Return an id that no other request has, such as `load-3fa2b1-17`."""
        self._count += 1
        return f"load-{self._run}-{self._count}"

    def find_first_id(self, kind: tuple[str, str, str], request_id: str) -> str:
        """Return the id of the first request that failed in this way, which may be this one."""
        return self._first_ids.setdefault(kind, request_id)


class ServiceUser(FastHttpUser):
    """Somebody who uses the service; subclass it, and give it tasks and a `wait_time`.

    `self.client` is Locust's own fast client, which keeps its connection. Each of its requests carries an id
    of its own, also as its `Idempotency-Key` where the route takes one, counts for the route that its path
    belongs to, and fails with a `FailedRequestError`. It waits
    10 seconds for a connection and 30 for an answer, and checks certificates; `connection_timeout`,
    `network_timeout` and `insecure` change that.
    """

    abstract = True
    insecure = False
    connection_timeout = 10.0
    network_timeout = 30.0

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        labels = environment if isinstance(environment, LoadEnvironment) else LoadEnvironment()
        self.client = _Session(
            labels,
            base_url=self.host,
            request_event=environment.events.request,
            user=self,
            insecure=self.insecure,
            client_pool=self.client_pool,
            ssl_context_factory=self.ssl_context_factory,
            network_timeout=self.network_timeout,
            connection_timeout=self.connection_timeout,
            max_redirects=self.max_redirects,
            max_retries=self.max_retries,
            concurrency=self.concurrency,
            headers=self.default_headers,
            proxy_host=self.proxy_host,
            proxy_port=self.proxy_port,
        )


class _Session(FastHttpSession):
    """Locust's session; what it sends can be found again, what it could not get says why."""

    def __init__(self, labels: LoadEnvironment, **options: Any) -> None:
        super().__init__(**options)
        self._labels = labels

    def request(
        self, method: str, url: str, name: str | None = None, *arguments: Any, **options: Any
    ) -> ResponseContextManager:
        """Send a request; see Locust's own description of the options."""
        name = name or self.request_name or self._labels.route_table.find_template(method, url)
        request_id = self._labels.next_request_id()
        headers = {self._labels.request_id_header: request_id}
        route = self._labels.route_table.find_route(method, url)
        if route is not None and route.takes_key:
            headers["Idempotency-Key"] = request_id
        options["headers"] = headers | dict(options.get("headers") or {})
        return super().request(method, url, name, *arguments, **options)

    def _send_request_safe_mode(self, method: str, url: str, **options: Any) -> FastResponse:
        response: FastResponse = super()._send_request_safe_mode(method, url, **options)
        error = getattr(response, "error", None)
        if error is not None:
            reason = _describe(response, error)
            path = url.removeprefix(self.base_url or "")
            kind = (method, self._labels.route_table.find_template(method, path), reason)
            first = self._labels.find_first_id(kind, options["headers"][self._labels.request_id_header])
            explained = FailedRequestError(f"{reason}, first in request {first}", response=response)
            # Locust reads it back where it reports and raises.
            response.__dict__["error"] = explained
        return response


def _describe(response: FastResponse, error: Exception) -> str:
    """Return the status and the problem's code, or the error's type when there was no answer."""
    if not response.status_code:
        return f"no answer, {type(error).__name__}"
    return " ".join(filter(None, (str(response.status_code), _read_code(response))))


def _read_code(response: FastResponse) -> str | None:
    """Return the code of a problem document; what it says besides may be somebody's data."""
    content_type = response.headers.get("content-type") if response.headers else None
    if not str(content_type).startswith("application/problem+json"):
        return None
    try:
        problem = loads(response.content)
    except JSONDecodeError:
        return None
    code = problem.get("code") if isinstance(problem, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None
