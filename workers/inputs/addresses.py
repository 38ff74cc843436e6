"""Which addresses a reference may be fetched from: public unicast ones, and no others.

The standard library's `is_global` changed between patch releases of Python, so the networks are spelled out
and `is_global` is only asked as well. Source: the IANA special-purpose address registries for IPv4 and IPv6,
plus the clouds' service addresses that lie in public space.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_REFUSED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network, unspecified
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; metadata of Alibaba Cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, a service address in public space
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # multicast tunnelling relays
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
)

# IPv6 has handed out global unicast space from this block only. What lies outside is refused without being
# named: loopback, unspecified, IPv4-mapped and -compatible, NAT64, discard, unique local, link-local,
# site-local, multicast.
_IPV6_UNICAST = IPv6Network("2000::/3")

# ISATAP (RFC 5214, section 6.1): an interface identifier of 0000:5efe or 0200:5efe carries an IPv4 address.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def parse_address(text: str) -> Address | None:
    """The address, or None where `text` is none or names a scope (`fe80::1%eth0`)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if isinstance(address, IPv6Address) and address.scope_id else address


def is_public(address: Address) -> bool:
    """Whether `address` is a public unicast address that embeds no other address."""
    if isinstance(address, IPv6Address) and (
        address not in _IPV6_UNICAST or (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP
    ):
        return False
    return address.is_global and not any(address in network for network in _REFUSED)


def is_loopback(address: Address) -> bool:
    """Whether `address` is 127.0.0.0/8 or ::1; an IPv4-mapped form is neither."""
    return address.is_loopback and not (isinstance(address, IPv6Address) and address.ipv4_mapped is not None)
