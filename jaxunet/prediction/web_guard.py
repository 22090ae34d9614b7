"""Keeps a page that a local program serves to itself: who may ask, and what the browser lets the page do."""

import base64
import hashlib
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Mapping

SENT_BY = "X-Jaxunet"  # a header that pages of other sites cannot send without being allowed to, which none is


def refusal(method: str, headers: Mapping[str, str], host: str, address: str) -> str | None:
    """Why a request is refused, if it is.

    With a name of its own that leads here, another site could read what this one says (DNS rebinding); without, it
    could still make a browser send something.

    Args:
      method, headers: of the request.
      host: the name or address that the program was told to listen at.
      address: where that led to.
    """
    name = headers.get("Host", "")
    if not _is_ours(name, host, address):
        return f"this page answers to --host={host} and localhost only."
    if method not in ("GET", "HEAD"):
        origin = headers.get("Origin")
        if headers.get(SENT_BY) != "1" or (origin is not None and urllib.parse.urlsplit(origin).netloc != name):
            return "only the page itself may ask."
    return None


def _is_ours(name: str, host: str, address: str) -> bool:
    try:
        name = urllib.parse.urlsplit(f"//{name}").hostname or ""  # without the port, which a tunnel changes
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", host.lower()):
        return True
    if not ipaddress.ip_address(address).is_unspecified:  # it does not listen everywhere
        return False
    try:
        return bool(ipaddress.ip_address(name))  # an address cannot be made to lead elsewhere, as a name can
    except ValueError:
        return name == socket.gethostname().lower()


def response_headers(page: str) -> dict[str, str]:
    """For every answer: the page may run its own script and style, talk to its own server, and nothing else.

    Args:
      page: HTML with one `<script>` and one `<style>`.
    """
    policy = ["default-src 'none'", "img-src data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        policy.append(f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "; ".join([*policy, "frame-ancestors 'none'"]),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
