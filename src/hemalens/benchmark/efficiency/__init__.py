"""The protocol `efficiency`: parameters, multiply-adds, latency, throughput and memory of networks and bundles.

Begin with `measure`. `config` holds the settings, `networks` what is measured, `timing` runs it in rounds in which
networks take turns, and measures peak memory in a process of its own.
"""
