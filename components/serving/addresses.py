"""Which addresses only this machine reaches."""

import ipaddress
import socket


def is_loopback(address: str) -> bool:
    """Return whether an IP address is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_local(host: str) -> bool:
    """Return whether only this machine reaches a name or an address."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(is_loopback(str(address[4][0])) for address in found)


def is_any(host: str) -> bool:
    """Return whether a server that listens there listens on every address of its machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
