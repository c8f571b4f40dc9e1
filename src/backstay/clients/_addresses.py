"""Which addresses are public: those that a caller may make this service connect to.

`ipaddress.is_global` is not enough: it says True for NAT64 and 6to4 forms of private addresses, for
multicast, and for addresses at which clouds keep credentials.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

__all__ = ["is_public"]

_UNICAST: Final = IPv6Network("2000::/3")
_REFUSED: Final = (
    IPv6Network("2001::/23"),  # Teredo, ORCHID and other protocol assignments
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4, which carries any IPv4 address
    IPv6Network("3fff::/20"),  # documentation
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv4Network("168.63.129.16/32"),  # Azure's own services on every virtual machine
)


def is_public(address: str) -> bool:
    """Return whether an address belongs to the public internet; False when it is none."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if not parsed.is_global or parsed.is_multicast or parsed.is_reserved or _is_refused(parsed):
        return False
    # Everything else in IPv6, IPv4-mapped and NAT64 addresses too, is not routed or means another address.
    return isinstance(parsed, IPv4Address) or parsed in _UNICAST


def _is_refused(address: IPv4Address | IPv6Address) -> bool:
    return any(network.version == address.version and address in network for network in _REFUSED)
