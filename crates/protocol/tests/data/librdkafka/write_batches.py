"""Writes the .batch and .set files of this folder with librdkafka, no broker needed:

    python3 -m venv env && env/bin/pip install confluent-kafka==2.16.1 && env/bin/python write_batches.py .

A server that answers what a producer asks stands in for the broker, as one of a time that takes record batches (format 2) or
messages of format 1 or 0. What it keeps is the record data of the Produce requests, as librdkafka sent it.

Record i: time 1700000000000 + i, key "key-i" (null when i % 5 == 4), value of 100 bytes i (null when i % 7 == 6), and in format 2
for i % 3 == 0 the headers h=i, h=null and \u00e9="". Batches of format 2 whose name ends in "idempotent" are of producer 77 in
epoch 3.
"""

import pathlib
import socket
import struct
import sys
import threading
import time

from confluent_kafka import Producer, libversion

TOPIC = "t"
PATIENCE = 30
# What the server says it speaks: APIs and their highest versions. librdkafka picks the format by Produce and Fetch, lz4 by
# FindCoordinator, zstd by Produce 7 and Fetch 10.
OFFERS = {
    2: {0: 7, 1: 10, 3: 1, 10: 1, 18: 0, 22: 1},
    1: {0: 2, 1: 2, 3: 1, 10: 0, 18: 0},
    0: {0: 1, 1: 1, 3: 1, 10: 0, 18: 0},
}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, form):
        (value,) = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def bytes(self, form):
        length = self.number(form)
        if length < 0:
            return None
        self.at += length
        return self.data[self.at - length : self.at]


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


class Server:
    """One broker, which leads partition 0 of every topic, and keeps what is sent there."""

    def __init__(self, offer):
        self.offer, self.kept, self.offset = offer, [], 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile("rb") as stream:
            while len(head := stream.read(4)) == 4:
                request = Reader(stream.read(struct.unpack(">i", head)[0]))
                api, version, correlation = request.number("h"), request.number("h"), request.number("i")
                request.bytes("h")
                answer = struct.pack(">i", correlation) + self.answer(api, version, request)
                connection.sendall(struct.pack(">i", len(answer)) + answer)

    def answer(self, api, version, request):
        if api == 18:
            known = b"".join(struct.pack(">hhh", api, 0, most) for api, most in sorted(self.offer.items()))
            # A version that is not offered is answered in version 0, with UNSUPPORTED_VERSION (KIP-511).
            return struct.pack(">hi", 35 if version > 0 else 0, len(self.offer)) + known
        if api == 3:
            broker = struct.pack(">ii", 1, 0) + text("127.0.0.1") + struct.pack(">i", self.port)
            broker += struct.pack(">h", -1) if version >= 1 else b""
            controller = struct.pack(">i", 0) if version >= 1 else b""
            topic = struct.pack(">ih", 1, 0) + text(TOPIC) + (b"\0" if version >= 1 else b"")
            partition = struct.pack(">ihiiiiii", 1, 0, 0, 0, 1, 0, 1, 0)
            return broker + controller + topic + partition
        if api == 22:
            return struct.pack(">ihqh", 0, 0, 77, 3)
        if api == 0:
            return self.produce(version, request)
        raise ValueError(f"API {api} version {version} is not offered")

    def produce(self, version, request):
        if version >= 3:
            request.bytes("h")
        request.number("h"), request.number("i")
        for _ in range(request.number("i")):
            request.bytes("h")
            for _ in range(request.number("i")):
                partition = request.number("i")
                self.kept.append(request.bytes("i"))
        answer = struct.pack(">i", 1) + text(TOPIC) + struct.pack(">iihq", 1, partition, 0, self.offset)
        self.offset += 1000
        if version >= 2:
            answer += struct.pack(">q", -1)
        if version >= 5:
            answer += struct.pack(">q", 0)
        if version >= 1:
            answer += struct.pack(">i", 0)
        return answer


def produce(file, format, codec, records, **settings):
    server = Server(OFFERS[format])
    settings = {
        "bootstrap.servers": f"127.0.0.1:{server.port}",
        "compression.codec": codec,
        # All records are queued before the first batch is made.
        "linger.ms": 2000,
        "batch.num.messages": records,
        **settings,
    }
    failures = []
    producer = Producer(settings)
    for i in range(records):
        headers = [("h", str(i).encode()), ("h", None), ("\u00e9", b"")] if format == 2 and i % 3 == 0 else []
        producer.produce(
            TOPIC,
            key=None if i % 5 == 4 else f"key-{i}".encode(),
            value=None if i % 7 == 6 else bytes([i % 256]) * 100,
            timestamp=1_700_000_000_000 + i,
            headers=headers,
            partition=0,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
    end = time.monotonic() + PATIENCE
    while len(producer) > 0 and time.monotonic() < end:
        producer.poll(0.1)
    if failures or len(producer) > 0 or len(server.kept) != 1:
        raise SystemExit(f"{file}: {failures}, {len(producer)} not delivered, {len(server.kept)} batches")
    file.write_bytes(server.kept[0])
    print(file, len(server.kept[0]))


def main(folder):
    print("librdkafka", libversion()[0])
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        produce(folder / f"{codec}.batch", 2, codec, 12 if codec == "none" else 400)
    produce(folder / "none-idempotent.batch", 2, "none", 3, **{"enable.idempotence": True})
    produce(folder / "gzip-level-9.batch", 2, "gzip", 400, **{"compression.level": 9})
    produce(folder / "zstd-level-12.batch", 2, "zstd", 400, **{"compression.level": 12})
    for format in [0, 1]:
        for codec in ["none", "gzip", "snappy", "lz4"]:
            produce(folder / f"v{format}-{codec}.set", format, codec, 12 if codec == "none" else 400)


main(pathlib.Path(sys.argv[1]))
