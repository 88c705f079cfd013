"""A simple helper: a dictionary of bans and one regex, answers flushed line by line."""

import re
import sys

BANNED = {}
PROBE = re.compile(r"/w[o0]{2}tw[o0]{2}t", re.IGNORECASE)

for line in sys.stdin:
    channel, address, method, url, _ = line.split(" ", 4)
    if address in BANNED or PROBE.search(url):
        BANNED[address] = True
        sys.stdout.write(channel + " OK\n")
    else:
        sys.stdout.write(channel + " ERR\n")
    sys.stdout.flush()
