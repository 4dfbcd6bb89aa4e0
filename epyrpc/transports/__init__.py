"""Transports: frames of bytes from end to end."""
