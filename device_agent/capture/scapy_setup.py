"""What Scapy's modules need once in this process, before the capture modules use them."""

import logging

from scapy.data import MANUFDB

logging.getLogger("scapy").setLevel(logging.ERROR)
"""Its notes on damaged records are errors or counters here."""

MANUFDB.d.clear()
"""The table of vendor names takes 10 MB on every device and names nothing that is asked for here."""
