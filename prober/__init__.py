"""Verification: challenges that look like questions, scored against a reference."""
