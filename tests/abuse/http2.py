"""A minimal HTTP/2 client (RFC 9113) for plain TCP with prior knowledge.

It keeps to the server's flow control, reads only when it is told to, and compresses nothing, so
that an attack decides itself what is sent and when.
"""

import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
FRAME_BYTES_MAX = 16384
WINDOW_BYTES_DEFAULT = 65535


def frame(kind, flags, stream, payload=b""):
    """Returns a frame's bytes."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value, prefix_bits, first):
    """Encodes an integer as HPACK does (RFC 7541, 5.1)."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([first | value])
    encoded, value = bytearray([first | limit]), value - limit
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes(encoded + bytes([value]))


def text(value):
    """Encodes a string literal without Huffman coding."""
    return integer(len(value), 7, 0) + value


def literal(name, value):
    """Encodes a header field that enters no table."""
    return b"\x00" + text(name.encode()) + text(value.encode())


def indexed_literal(static_name, value):
    """Encodes a header field that enters the dynamic table, its name by a static index."""
    return integer(static_name, 6, 0x40) + text(value)


class Connection:
    """One connection. The streams it opens have odd numbers from 1."""

    def __init__(self, sock, initial_window=None):
        self.sock = sock
        self.streams_max = 100
        self.window = WINDOW_BYTES_DEFAULT
        self.stream_window = WINDOW_BYTES_DEFAULT
        self.windows = {}
        self.reset = set()
        self.closed = False
        self.has_settings = False
        self.next_stream = 1
        self.received = b""
        self.unsent = bytearray(PREFACE)
        settings = b"" if initial_window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, initial_window)
        self.unsent += frame(SETTINGS, 0, 0, settings)
        self.flush()

    def request(self, method, path, headers=(), end=True):
        """Queues a request's HEADERS frame and returns the number of its stream."""
        fields = [(":method", method), (":scheme", "http"), (":authority", "registry"), (":path", path), *headers]
        block = b"".join(literal(name, value) for name, value in fields)
        return self.request_block(block, end)

    def request_block(self, block, end=True):
        """Queues a HEADERS frame with this header block."""
        stream = self.next_stream
        self.next_stream += 2
        self.windows[stream] = self.stream_window
        self.unsent += frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)
        return stream

    def send_data(self, stream, byte_count):
        """Queues so many bytes of a body, or as many as the windows allow; returns how many."""
        allowed = max(0, min(byte_count, self.window, self.windows.get(stream, 0)))
        for begin in range(0, allowed, FRAME_BYTES_MAX):
            self.unsent += frame(DATA, 0, stream, b" " * min(FRAME_BYTES_MAX, allowed - begin))
        self.window -= allowed
        self.windows[stream] = self.windows.get(stream, 0) - allowed
        return allowed

    def ping(self):
        """Sends a PING and what is queued; a closed connection is only marked so."""
        self.unsent += frame(PING, 0, 0, b"liveness")
        self.flush()

    def flush(self, seconds=5):
        """Sends what is queued, as far as the peer takes it in this time; the rest stays queued."""
        until = time.monotonic() + seconds
        while self.unsent and not self.closed and time.monotonic() < until:
            self.sock.settimeout(seconds)
            try:
                del self.unsent[: self.sock.send(self.unsent)]
            except TimeoutError:
                return
            except OSError:
                self.closed = True

    def receive(self, seconds):
        """Reads once, waiting at most so long, and takes in the complete frames."""
        self.sock.settimeout(seconds)
        try:
            got = self.sock.recv(1 << 18)
        except (TimeoutError, BlockingIOError):
            return
        except OSError:
            got = b""
        self.closed = self.closed or not got
        self.received += got
        while len(self.received) >= 9:
            length = int.from_bytes(self.received[:3], "big")
            if len(self.received) < 9 + length:
                break
            kind, flags, stream = struct.unpack(">BBI", self.received[3:9])
            self._take(kind, flags, stream & 0x7FFFFFFF, self.received[9 : 9 + length])
            self.received = self.received[9 + length :]
        self.flush()

    def _take(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self.unsent += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            self._grow(stream, int.from_bytes(payload, "big") & 0x7FFFFFFF)
        elif kind == RST_STREAM:
            self.reset.add(stream)
        elif kind == GOAWAY:
            self.closed = True

    def _take_settings(self, payload):
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                for stream in self.windows:
                    self.windows[stream] += value - self.stream_window
                self.stream_window = value
            elif name == MAX_CONCURRENT_STREAMS:
                self.streams_max = value
        self.has_settings = True
        self.unsent += frame(SETTINGS, ACK, 0)

    def _grow(self, stream, byte_count):
        if stream == 0:
            self.window += byte_count
        else:
            self.windows[stream] = self.windows.get(stream, 0) + byte_count

    def close(self):
        """Closes the connection without a GOAWAY."""
        self.sock.close()
