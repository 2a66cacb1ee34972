"""Where packets come from: capture files, streams and live interfaces. The only place of the agent that uses Scapy."""
