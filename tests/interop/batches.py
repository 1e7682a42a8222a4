"""Record batches and message sets written and read by librdkafka. A server that answers what a producer or consumer asks stands in for
the broker, as one of a time that knows record batches (format 2) or messages of format 1 or 0. ../tests/batch_oracles.rs runs it.

    batches.py write FOLDER SCRIPT...   writes the records of each script in one Produce request for each format that can hold them, codec
                                        and level, and keeps their data, as librdkafka sent it, in FOLDER/FORMAT.SCRIPT.CODEC.LEVEL
                                        ("default" without a level); format 2 as the idempotent producer 77 in epoch 3, the scripts one
                                        after the other
    batches.py read FOLDER              serves every file of the folder, by the format its name begins with, and prints for each
                                        `file NAME` and its records as agents do (README.md)
    batches.py keep FOLDER              writes the files of crates/protocol/tests/data/librdkafka

By hand: python3 -m venv env && env/bin/pip install confluent-kafka==2.16.1 && env/bin/python -B batches.py keep FOLDER
"""

import contextlib
import io
import json
import pathlib
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from agent import show, unhex

PATIENCE = 60
# What the server says it speaks: APIs and their highest versions. librdkafka picks the format by Produce and Fetch, lz4 by
# FindCoordinator, zstd by Produce 7 and Fetch 10.
OFFERS = {
    2: {0: 7, 1: 10, 3: 1, 10: 1, 18: 0, 22: 1},
    1: {0: 2, 1: 2, 3: 1, 10: 0, 18: 0},
    0: {0: 1, 1: 1, 3: 1, 10: 0, 18: 0},
}
# The levels librdkafka takes; for zstd too no setting lets more than 12 through.
LEVELS = {"none": [], "gzip": range(10), "snappy": [], "lz4": range(13), "zstd": range(13)}
# What one answer to Fetch holds at most, but for its last file.
ANSWER = 8 << 20


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

    def array(self):
        return range(self.number("i"))


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


class Server:
    """One broker, which leads partition 0 of every topic: it keeps what is sent there, and serves the files it was given by topic."""

    def __init__(self, format, files=None):
        self.offer, self.kept, self.files = OFFERS[format], [], files or {}
        self.ends = {topic: end(data) for topic, data in self.files.items()}
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def address(self):
        return f"127.0.0.1:{self.port}"

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        # librdkafka closes its connections as it likes, with requests under way.
        with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as stream:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
            return self.metadata(request)
        if api == 10:
            throttle, message = (struct.pack(">i", 0), struct.pack(">h", -1)) if version >= 1 else (b"", b"")
            return throttle + struct.pack(">h", 0) + message + self.broker()
        if api == 22:
            return struct.pack(">ihqh", 0, 0, 77, 3)
        if api == 0:
            return self.produce(version, request)
        if api == 1:
            return self.fetch(version, request)
        raise ValueError(f"API {api} version {version} is not offered")

    def broker(self):
        return struct.pack(">i", 1) + text("127.0.0.1") + struct.pack(">i", self.port)

    def metadata(self, request):
        # All topics are asked for with an array of length -1.
        topics = [request.bytes("h").decode() for _ in request.array()]
        answer = struct.pack(">i", 1) + self.broker() + struct.pack(">hii", -1, 1, len(topics))
        for topic in topics:
            partition = struct.pack(">ihiiiiii", 1, 0, 0, 1, 1, 1, 1, 1)
            answer += struct.pack(">h", 0) + text(topic) + b"\0" + partition
        return answer

    def produce(self, version, request):
        if version >= 3:
            request.bytes("h")
        request.number("h"), request.number("i")
        answer = b""
        for _ in request.array():
            topic = request.bytes("h").decode()
            for _ in request.array():
                partition = request.number("i")
                self.kept.append(request.bytes("i"))
                answer += struct.pack(">i", 1) + text(topic) + struct.pack(">iihq", 1, partition, 0, 0)
                answer += struct.pack(">q", -1) if version >= 2 else b""
                answer += struct.pack(">q", 0) if version >= 5 else b""
        return answer + (struct.pack(">i", 0) if version >= 1 else b"")

    def fetch(self, version, request):
        request.number("i"), request.number("i"), request.number("i")
        if version >= 3:
            request.number("i")
        if version >= 4:
            request.number("b")
        if version >= 7:
            request.number("i"), request.number("i")
        answer, sent, topics = b"", 0, request.array()
        for _ in topics:
            topic = request.bytes("h").decode()
            answer += text(topic)
            partitions = request.array()
            answer += struct.pack(">i", len(partitions))
            for _ in partitions:
                partition = request.number("i")
                if version >= 9:
                    request.number("i")
                offset = request.number("q")
                if version >= 5:
                    request.number("q")
                request.number("i")
                data = self.files[topic] if offset < self.ends[topic] and sent < ANSWER else b""
                sent += len(data)
                answer += struct.pack(">ihq", partition, 0, self.ends[topic])
                answer += struct.pack(">q", self.ends[topic]) if version >= 4 else b""
                answer += struct.pack(">q", 0) if version >= 5 else b""
                answer += struct.pack(">i", -1) if version >= 4 else b""
                answer += struct.pack(">i", len(data)) + data
        if sent == 0:
            time.sleep(0.01)
        head = struct.pack(">i", 0) if version >= 1 else b""
        head += struct.pack(">hi", 0, 0) if version >= 7 else b""
        return head + struct.pack(">i", len(topics)) + answer


def end(data):
    """The offset after the last record of a batch or a message set."""
    at = 0
    while at < len(data):
        offset, size = struct.unpack_from(">qi", data, at)
        if data[at + 16] >= 2:
            offset += struct.unpack_from(">i", data, at + 23)[0]
        at += 12 + size
    return offset + 1


class Writer:
    """A producer in one format, codec and level, and the server it writes to."""

    def __init__(self, format, codec, level=None, **settings):
        self.server, self.format = Server(format), format
        if level is not None:
            settings["compression.level"] = level
        self.producer = Producer({
            "bootstrap.servers": self.server.address(),
            "compression.codec": codec,
            # Flush ends the waiting.
            "linger.ms": 60_000,
            "topic.metadata.refresh.fast.interval.ms": 20,
            **settings,
        })
        # The partition is known before the first record, so that flush finds all records in its queue.
        self.producer.list_topics("t", PATIENCE)

    def write(self, file, records):
        """Records are (timestamp, key, value, headers)."""
        failures = []
        for timestamp, key, value, headers in records:
            self.producer.produce(
                "t",
                key=key,
                value=value,
                timestamp=timestamp,
                headers=headers,
                partition=0,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        left, kept = self.producer.flush(PATIENCE), self.server.kept
        if failures or left > 0 or len(kept) != 1:
            raise SystemExit(f"{file}: {failures}, {left} not delivered, {len(kept)} batches")
        file.write_bytes(kept.pop())


def ways(format):
    for codec, levels in LEVELS.items():
        if format == 2 or codec != "zstd":
            yield from ((codec, level) for level in [None, *levels])


def write(folder, scripts):
    shapes = {}
    for script in scripts:
        steps = [json.loads(line) for line in script.read_text(encoding="ascii").splitlines()]
        shapes[script.name] = [
            (
                step["timestamp"],
                unhex(step["key"]),
                unhex(step["value"]),
                [(bytes.fromhex(name).decode(), unhex(value)) for name, value in step["headers"]],
            )
            for step in steps
            if step["op"] == "record"
        ]

    def write_all(format, codec, level):
        writer = Writer(format, codec, level, **({"enable.idempotence": True} if format == 2 else {}))
        for shape, records in shapes.items():
            if format < 2 and any(headers for *_, headers in records):
                continue
            writer.write(folder / f"{format}.{shape}.{codec}.{'default' if level is None else level}", records)

    # A producer spends most of its time waiting: for half a second if its id is not answered at once.
    with ThreadPoolExecutor(8) as pool:
        for writer in [pool.submit(write_all, format, *way) for format in OFFERS for way in ways(format)]:
            writer.result()


def read(folder):
    names = sorted(file.name for file in folder.iterdir())
    for format in OFFERS:
        files = {name: (folder / name).read_bytes() for name in names if name.startswith(f"{format}.")}
        if files:
            consume(Server(format, files))


def consume(server):
    consumer = Consumer({
        "bootstrap.servers": server.address(),
        "group.id": "batches",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "check.crcs": True,
        "topic.metadata.refresh.fast.interval.ms": 20,
    })
    printed = {topic: io.StringIO() for topic in server.files}
    consumer.assign([TopicPartition(topic, 0, 0) for topic in printed])
    deadline, ended = time.monotonic() + PATIENCE, set()
    while len(ended) < len(printed):
        if time.monotonic() > deadline:
            raise SystemExit(f"the end of {sorted(printed.keys() - ended)} is out of reach")
        for message in consumer.consume(5000, 0.02):
            error = message.error()
            if error is None:
                show(message, printed[message.topic()])
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.topic())
            else:
                raise KafkaException(error)
    consumer.close()
    for topic, lines in printed.items():
        sys.stdout.write(f"file {topic}\n{lines.getvalue()}")


def keep(folder):
    """Record i: time 1700000000000 + i, key "key-i" (null when i % 5 == 4), value of 100 bytes i (null when i % 7 == 6), and in format 2
    for i % 3 == 0 the headers h=i, h=null and \u00e9="". Batches of format 2 whose name ends in "idempotent" are of producer 77
    in epoch 3."""

    def records(format, count):
        for i in range(count):
            key = None if i % 5 == 4 else f"key-{i}".encode()
            value = None if i % 7 == 6 else bytes([i % 256]) * 100
            headers = [("h", str(i).encode()), ("h", None), ("\u00e9", b"")] if format == 2 and i % 3 == 0 else []
            yield 1_700_000_000_000 + i, key, value, headers

    for format in OFFERS:
        for codec in LEVELS if format == 2 else ["none", "gzip", "snappy", "lz4"]:
            name = f"{codec}.batch" if format == 2 else f"v{format}-{codec}.set"
            Writer(format, codec).write(folder / name, records(format, 12 if codec == "none" else 400))
    Writer(2, "none", **{"enable.idempotence": True}).write(folder / "none-idempotent.batch", records(2, 3))
    for codec, level in [("gzip", 9), ("zstd", 12)]:
        Writer(2, codec, level).write(folder / f"{codec}-level-{level}.batch", records(2, 400))


def main(verb, folder, *scripts):
    folder = pathlib.Path(folder)
    if verb == "write":
        write(folder, map(pathlib.Path, scripts))
    elif verb == "read":
        read(folder)
    elif verb == "keep":
        keep(folder)
    else:
        raise ValueError(verb)


main(*sys.argv[1:])
