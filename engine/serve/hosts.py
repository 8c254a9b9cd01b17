"""Which names the page answers to. A page of another site can give its own name the address 127.0.0.1 (DNS rebinding); its browser then takes
ours for that site's own server and lets it read what it likes. The Host header still says that name, so only known names are answered.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import ConfigError

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names given with --allow-host, lower case, IPv6 addresses in brackets. ConfigError for anything but names, addresses and `*.NAME`."""
    checked = []
    for name in names:
        plain = name.removeprefix("*.").strip("[]").lower()
        if not plain or any(sign in plain for sign in "*/@ ") or (":" in plain and not _is_address(plain)):
            raise ConfigError(
                f"--allow-host must be a name like tracker.example.org or *.example.org, without scheme and port, got {name!r}"
            )
        checked.append(("*." if name.startswith("*.") else "") + (f"[{plain}]" if ":" in plain else plain))
    return tuple(checked)


class KnownHosts:
    """Answers 400 to requests and WebSockets for any host but the local ones, the bound one and `allowed`.

    bound: the address that is listened on. Where it stands for all addresses (0.0.0.0, ::), every address is answered: rebinding takes a name.
    """

    def __init__(self, app: ASGIApp, bound: str, allowed: Sequence[str] = ()) -> None:
        self._app = app
        self._every_address = _is_address(bound) and ipaddress.ip_address(bound).is_unspecified
        self._checked = TrustedHostMiddleware(app, [*LOCAL, f"[{bound}]" if ":" in bound else bound.lower(), *allowed], www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._every_address and scope["type"] in ("http", "websocket") and _is_address(host_of(Headers(scope=scope).get("host", ""))):
            await self._app(scope, receive, send)
        else:
            await self._checked(scope, receive, send)


def host_of(authority: str) -> str:
    """The name in NAME or NAME:PORT, lower case, an IPv6 address in brackets; empty where there is none."""
    try:
        name = urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name


def same_origin(headers: Headers, allowed: Sequence[str]) -> bool:
    """Whether the page that opens a WebSocket is ours: its origin is the host that was asked, or one of `allowed` (a proxy may rename the host)."""
    origin = headers.get("origin")
    if origin is None:
        return True
    authority = origin.split("://", 1)[-1]
    name = host_of(authority)
    return authority == headers.get("host") or any(
        name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:])) for pattern in allowed
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
