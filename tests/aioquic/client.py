"""A QUIC client that is not ours (aioquic), at the command of a test.

    client.py MODE PORT ALPN DIR

Files of DIR named q0, q1, … are questions, one for each stream; the answer to q0 is written to a0. What
happened is told as one line of JSON. Its modes are the functions below of that name.
"""

import asyncio
import hashlib
import json
import pathlib
import socket
import ssl
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from cryptography.hazmat.primitives.serialization import Encoding

HOST = "127.0.0.1"
PATIENCE = 60
MODE, PORT, ALPN, DIR = sys.argv[1], int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4])


class Client(QuicConnectionProtocol):
    """Keeps what came, by stream."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.came, self.ended, self.resets, self.stops = {}, set(), {}, {}
        self.handshake = None
        self.terminated = None
        self.changed = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self.came.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.end_stream:
                self.ended.add(event.stream_id)
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        elif isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, ConnectionTerminated):
            self.terminated = f"{event.error_code} {event.reason_phrase}"
        self.changed.set()

    async def until(self, what, look):
        """Waits until `look` finds something."""
        deadline = time.monotonic() + PATIENCE
        while not (found := look()):
            assert self.terminated is None, f"{what}: the connection ended: {self.terminated}"
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), max(0.0, deadline - time.monotonic()))
        return found

    def begin(self, data, end=True):
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, data, end)
        return stream

    async def answer(self, stream):
        def whole():
            assert stream not in self.resets, f"stream {stream} was reset"
            return stream in self.ended

        await self.until(f"the answer on stream {stream}", whole)
        return bytes(self.came.get(stream, b""))

    def fingerprint(self):
        shown = self._quic.tls._peer_certificate.public_bytes(Encoding.DER)
        return ":".join(f"{byte:02X}" for byte in hashlib.sha256(shown).digest())


def dial(**more):
    """A connection to the edge. Who that is, the test checks by the certificate's fingerprint."""
    config = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE)
    config.server_name = "localhost"
    config.session_ticket = more.pop("ticket", None)
    return connect(HOST, PORT, configuration=config, create_protocol=Client, **more)


def questions():
    return sorted(DIR.glob("q*"), key=lambda path: int(path.name[1:]))


async def ask():
    """All questions at once; each stream's half is closed before its answer is read."""
    async with dial() as client:
        streams = [(path, client.begin(path.read_bytes())) for path in questions()]
        client.transmit()
        for path, stream in streams:
            (DIR / f"a{path.name[1:]}").write_bytes(await client.answer(stream))
        return {"fingerprint": client.fingerprint(), "alpn": client.handshake.alpn_protocol}


async def reset():
    """Sends one question, and when the answer has begun, breaks both halves off."""
    async with dial() as client:
        stream = client.begin(questions()[0].read_bytes(), end=False)
        client.transmit()
        await client.until("an answer begins", lambda: client.came.get(stream))
        client._quic.reset_stream(stream, 7)
        client._quic.stop_stream(stream, 7)
        client.transmit()
        # That the edge has it: another stream is answered.
        await client.ping()
        return {}


async def await_reset():
    """Sends one question and waits for the stream to be broken off."""
    async with dial() as client:
        stream = client.begin(questions()[0].read_bytes(), end=False)
        client.transmit()
        await client.until("a reset", lambda: stream in client.resets and stream in client.stops)
        # The connection lives on.
        await client.ping()
        came = len(client.came.get(stream, b""))
        return {"reset": client.resets[stream], "stop": client.stops[stream], "came": came}


def record(client, sent):
    """Has what it sends before anything was received kept in `sent`."""
    transport, receive = client._transport, client.datagram_received
    heard = []

    class Recorder:
        def sendto(self, data, addr):
            if not heard:
                sent.append(bytes(data))
            transport.sendto(data, addr)

        def __getattr__(self, name):
            return getattr(transport, name)

    def received(data, addr):
        heard.append(True)
        receive(data, addr)

    client._transport, client.datagram_received = Recorder(), received


async def early():
    """Connects for a ticket, and again with the first question in the first flight, whose datagrams are
    then sent once more from elsewhere, while the connection is there and when it is over."""
    tickets, sent = [], []
    async with dial(session_ticket_handler=tickets.append) as client:
        await client.until("a ticket", lambda: tickets)
        first = client.handshake.early_data_accepted
    path, other = questions()
    async with dial(ticket=tickets[0], wait_connected=False) as client:
        record(client, sent)
        start = time.monotonic()
        stream = client.begin(path.read_bytes())
        client.transmit()
        flight = len(sent)
        (DIR / "a0").write_bytes(await client.answer(stream))
        answered = time.monotonic() - start
        await client.until("the handshake", lambda: client.handshake)
        accepted = client.handshake.early_data_accepted
        resumed = client.handshake.session_resumed
        replay(sent)
        await client.ping()
    # Over for the edge, too: it keeps what is closed for three of its timeouts.
    await asyncio.sleep(1)
    replies = replay(sent)
    # With the same ticket, as one who stole it would: a new connection, but no early data.
    async with dial(ticket=tickets[0], wait_connected=False) as client:
        stolen = client.begin(other.read_bytes())
        client.transmit()
        await client.until("the handshake", lambda: client.handshake)
        again = client.handshake.early_data_accepted
        # What was refused is sent again once the handshake has shown who sends it.
        (DIR / "a1").write_bytes(await client.answer(stolen))
    return {
        "first": first,
        "accepted": accepted,
        "resumed": resumed,
        "again": again,
        "flight": flight,
        "replies": replies,
        "answered_ms": answered * 1e3,
    }


async def resume():
    """Connects for a ticket, and again with it, to an edge that takes no early data."""
    tickets = []
    async with dial(session_ticket_handler=tickets.append) as client:
        await client.until("a ticket", lambda: tickets)
    async with dial(ticket=tickets[0], wait_connected=False) as client:
        stream = client.begin(questions()[0].read_bytes())
        client.transmit()
        (DIR / "a0").write_bytes(await client.answer(stream))
        return {"accepted": client.handshake.early_data_accepted}


def replay(datagrams):
    """Sends them from a new socket; how many datagrams come back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        for datagram in datagrams:
            thief.sendto(datagram, (HOST, PORT))
        thief.settimeout(1)
        count = 0
        try:
            while count < 100:
                thief.recv(65536)
                count += 1
        except TimeoutError:
            pass
        return count


async def refused():
    """Is refused with an ALPN that the edge does not speak; what it is told."""
    try:
        async with dial() as client:
            return {"refused": None, "alpn": client.handshake.alpn_protocol}
    except ConnectionError as error:
        return {"refused": str(error)}


modes = {f.__name__: f for f in (ask, reset, await_reset, early, resume, refused)}
print(json.dumps(asyncio.run(asyncio.wait_for(modes[MODE](), 2 * PATIENCE))))
