"""Connections through the proxy that the environment names: HTTP's CONNECT, and SOCKS."""
