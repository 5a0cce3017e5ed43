"""Serving's rules on values: no sockets, clocks or randomness of their own."""
