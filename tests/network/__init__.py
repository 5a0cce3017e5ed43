"""Tests with real processes and sockets."""
