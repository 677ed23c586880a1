"""The endpoint under load, overload, kills and malformed requests.

Each measurement starts `hdrface serve` with the demo's model (`make demo` leaves it) in a process
of its own, and asks it over HTTP.
"""
