"""Who asks: clients as limits tell them apart."""

import ipaddress
from functools import lru_cache

from starlette.types import Scope


def client_of(scope: Scope) -> str:
    """Return whom a request counts for."""
    return client_at((scope.get("client") or ("",))[0])


@lru_cache(1024)  # asked for with each connection, of which strangers can open thousands a second
def client_at(host: str) -> str:
    """Return whom an address counts for: itself, or with IPv6 its /64, of which one machine can take any address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
