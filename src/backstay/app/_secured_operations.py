"""Who may call an operation, in OpenAPI: what the Authorize button of the documentation asks for."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from fastapi import FastAPI

from backstay.app._oauth_forms import TOKEN_PATH
from backstay.app._operation_ids import documented_operations
from backstay.app._principals import identify
from backstay.app._route_policies import list_calls, needs_principal, scopes_of
from backstay.app.installation import Installation

__all__ = ["describe_security"]

_Json: TypeAlias = dict[str, Any]

_LOGIN: Final = "Login"
_API_KEY: Final = "ApiKey"
_CHALLENGE: Final = {
    "WWW-Authenticate": {
        "description": "What is wrong with the credentials, as RFC 6750 has it.",
        "schema": {"type": "string"},
    }
}


def describe_security(document: _Json, app: FastAPI) -> None:
    """Add who may call the operations, and how they show who they are."""
    installation: Installation | None = getattr(app.state, "backstay", None)
    if installation is None or installation.identity_options is None:
        return
    schemes = _find_schemes(installation)
    scopes: dict[str, str] = {}
    for (path, method), context in documented_operations(app.routes):
        calls = list(list_calls(context.dependant))
        operation = document["paths"][path][method]
        needed = scopes_of(calls)
        scopes |= dict.fromkeys(needed, "")
        if needs_principal(calls):
            operation["security"] = [{name: list(needed)} for name in schemes]
            _describe_refusals(operation["responses"], needed)
        elif identify in calls:
            operation["security"] = [{}, *({name: []} for name in schemes)]
    if _LOGIN in schemes:
        schemes[_LOGIN]["flows"]["password"]["scopes"] = dict(sorted(scopes.items()))
    document["components"]["securitySchemes"] = schemes


def _find_schemes(installation: Installation) -> _Json:
    options, schemes = installation.identity_options, {}
    if options is not None and options.accounts is not None:
        url = f"{installation.settings.server.root_path}{TOKEN_PATH}"
        flow = {"tokenUrl": url, "refreshUrl": url, "scopes": {}}
        schemes[_LOGIN] = {"type": "oauth2", "flows": {"password": flow}}
    if options is not None and options.takes_api_keys:
        described = "An API key, sent as a bearer token."
        schemes[_API_KEY] = {"type": "http", "scheme": "bearer", "description": described}
    return schemes


def _describe_refusals(responses: _Json, scopes: tuple[str, ...]) -> None:
    refused = {"description": "The caller is not known.", "headers": _CHALLENGE}
    responses.setdefault("401", refused)
    if scopes:
        lacking = {"description": f"The caller lacks one of the scopes: {' '.join(scopes)}."}
        responses.setdefault("403", {**lacking, "headers": _CHALLENGE})
