"""The endpoint under load, overload, kills and malformed requests.

Each measurement starts `hdrface serve` with the model of `make demo` in its own process, and sends
requests over HTTP.
"""
