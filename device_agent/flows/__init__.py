"""Packets in, flow records out: header parsing, the flow meter and its windows. No I/O, no clock."""
