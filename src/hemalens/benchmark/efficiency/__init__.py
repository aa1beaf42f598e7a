"""The protocol `efficiency`: parameters, multiply-adds, latency, throughput and memory of networks and bundles.

Begin with `measure`. `networks` makes what is measured, `timing` times it in rounds, each network in its own process.
"""
