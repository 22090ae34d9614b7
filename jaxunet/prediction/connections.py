"""Connections to the page: idle and slow ones keep nobody out, and all uploads together fit into memory."""

import time
from typing import Any

from waitress.channel import HTTPChannel

MOST_HELD = 2**28  # bytes of all uploads in memory; above it, one at a time still comes in
_PATIENCE, _SLOWEST = 10, 20_000  # seconds for the beginning of a request, then bytes per second
OPTIONS: dict[str, Any] = {  # of waitress
    "connection_limit": 500,  # an open connection without an upload costs some KiB
    "channel_timeout": 30,  # seconds without a byte
    "cleanup_interval": 5,
    "recv_bytes": 2**17,
    "asyncore_use_poll": True,
    "outbuf_high_watermark": 2**31,  # bytes; above it, a thread would wait for a browser that reads slowly
}


class Connection(HTTPChannel):
    """Closes if a request comes in too slowly. An upload waits while those of others fill the memory."""

    _since, _bytes = 0.0, 0  # of the request that is coming in, or was the last

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self._since, self._bytes = time.monotonic(), 0
        self._bytes += len(data)
        return bool(super().received(data))

    def readable(self) -> bool:
        if self.request is None or self._has_room():
            self.will_close |= self.request is not None and self._is_slow()
            return bool(super().readable())
        self._since = time.monotonic()  # waiting does not count as slow
        return False

    def _is_slow(self) -> bool:
        return time.monotonic() - self._since > _PATIENCE + self._bytes / _SLOWEST

    def _has_room(self) -> bool:
        """Whether this upload may go on: there is room, or no upload is complete and this one is the largest."""
        channels = list(self.server.active_channels.values())
        if sum(channel._bytes for channel in channels if channel.request is not None or channel.requests) < MOST_HELD:
            return True
        coming = [channel for channel in channels if channel.request is not None]
        complete = any(channel.requests for channel in channels)
        return not complete and self is max(coming, key=lambda channel: channel._bytes)
