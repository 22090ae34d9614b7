"""Protects the page of a local server: which requests it answers, and what the browser lets the page do."""

import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Mapping

from jaxunet.prediction.page import hash_source

SENT_BY = "X-Jaxunet"  # pages of other sites cannot send this header


def refusal(method: str, headers: Mapping[str, str], host: str, address: str) -> str | None:
    """The reason to refuse a request, or None to answer it.

    The Host header stops DNS rebinding: a site whose name points to this server could read its answers. The other
    headers stop sites that make a browser send X-rays here.

    `host`: value of --host, a name or an address. `address`: the IP address that the server listens at.
    """
    name = headers.get("Host", "")
    if not _is_ours(name, host, address):
        return f"this page answers to --host={host} and localhost only."
    if method not in ("GET", "HEAD"):
        origin = headers.get("Origin")
        if headers.get(SENT_BY) != "1" or (origin is not None and origin not in (f"http://{name}", f"https://{name}")):
            return "only the page itself may send X-rays."
    return None


def _is_ours(name: str, host: str, address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(f"//{name}")
        name, _ = parts.hostname or "", parts.port  # any port: a tunnel changes it
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", host.lower()):
        return True
    if not ipaddress.ip_address(address).is_unspecified:  # it listens at one address only
        return False
    try:
        return bool(ipaddress.ip_address(name))  # an address cannot be rebound
    except ValueError:
        return name == socket.gethostname().lower()


def response_headers(page: str) -> dict[str, str]:
    """Headers of every response: the page may run its own script and style and talk to its own server, nothing else.

    `page`: HTML with one `<script>` and one `<style>`.
    """
    policy = ["default-src 'none'", "img-src data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        policy.append(f"{tag}-src {hash_source(text)}")
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "; ".join([*policy, "frame-ancestors 'none'"]),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
