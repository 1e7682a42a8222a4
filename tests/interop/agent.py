"""librdkafka as an agent of the interop matrix. The protocol is in README.md beside this file."""

import json
import sys
import time

import confluent_kafka
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Producer, TopicPartition

PATIENCE = 60
QUEUE = 200_000


class Agent:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.failures = []

    def write(self, command):
        topic, producer, opened = command["topic"], None, 0
        self.failures = []
        with open(command["script"], encoding="ascii") as script:
            for line in script:
                step = json.loads(line)
                kind = step["op"]
                if kind == "producer":
                    self.finish(producer)
                    transactional_id = f"{topic}-{opened}" if step["transactional"] else None
                    opened += 1
                    producer = Producer(self.producer_settings(command, transactional_id))
                    if transactional_id:
                        producer.init_transactions(PATIENCE)
                elif kind == "record":
                    self.send(producer, topic, step)
                elif kind == "flush":
                    self.finish(producer)
                elif kind == "begin":
                    producer.begin_transaction()
                elif kind == "commit":
                    producer.commit_transaction(PATIENCE)
                elif kind == "abort":
                    producer.abort_transaction(PATIENCE)
                else:
                    raise ValueError(line)
        self.finish(producer)

    def send(self, producer, topic, step):
        def delivered(error, _message):
            if error is not None:
                self.failures.append(str(error))

        place = {} if step["partition"] is None else {"partition": step["partition"]}
        producer.produce(
            topic,
            value=unhex(step["value"]),
            key=unhex(step["key"]),
            timestamp=step["timestamp"],
            headers=[(bytes.fromhex(name).decode(), unhex(value)) for name, value in step["headers"]],
            on_delivery=delivered,
            **place,
        )

    def finish(self, producer):
        if producer is not None and producer.flush(PATIENCE) > 0:
            raise TimeoutError("records are not delivered")
        if self.failures:
            raise RuntimeError(self.failures[0])

    def producer_settings(self, command, transactional_id):
        settings = {
            "bootstrap.servers": self.bootstrap,
            "compression.codec": command["codec"],
            "enable.idempotence": command["idempotent"],
            "acks": "all",
            "linger.ms": 20,
            "batch.size": 256 * 1024,
            "message.max.bytes": 8 * 1024 * 1024,
            "queue.buffering.max.messages": QUEUE,
            # Java's choice of a partition by the key; librdkafka's own default is another one.
            "partitioner": "murmur2_random",
            "topic.metadata.refresh.fast.interval.ms": 50,
            "enable.metrics.push": False,
        }
        if command["level"] is not None:
            settings["compression.level"] = command["level"]
        if transactional_id:
            settings["transactional.id"] = transactional_id
        return settings

    def read(self, command, out):
        topic, ends = command["topic"], dict(enumerate(command["ends"]))
        # A consumer that has read another topic looks for this one's leaders up to a second later; a new one does at once.
        consumer = Consumer(self.consumer_settings(command["isolation"]))
        # All logs begin at 0. "The beginning" would be looked up half a second late.
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        deadline = time.monotonic() + PATIENCE
        # The end of a partition is an event of its own: control records move the position without a record to show for it.
        open_partitions = {partition for partition, end in ends.items() if end > 0}
        while open_partitions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the end of {sorted(open_partitions)} of {topic} is out of reach")
            for message in consumer.consume(5000, 0.02):
                error = message.error()
                if error is None:
                    show(message, out)
                elif error.code() != KafkaError._PARTITION_EOF:
                    if not error.retriable() and error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise KafkaException(error)
                elif message.offset() >= ends[message.partition()]:
                    open_partitions.discard(message.partition())
        consumer.close()

    def consumer_settings(self, isolation):
        return {
            "bootstrap.servers": self.bootstrap,
            "group.id": "interop",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "check.crcs": True,
            "fetch.wait.max.ms": 20,
            "enable.metrics.push": False,
        }


def show(message, out):
    headers = ",".join(f"[{quoted(name.encode())},{quoted(value)}]" for name, value in message.headers() or [])
    # Message format 0 has no times.
    kind, timestamp = message.timestamp()
    timestamp = -1 if kind == TIMESTAMP_NOT_AVAILABLE else timestamp
    out.write(
        f'{{"partition":{message.partition()},"offset":{message.offset()},"timestamp":{timestamp},'
        f'"key":{quoted(message.key())},"value":{quoted(message.value())},"headers":[{headers}]}}\n'
    )


def quoted(data):
    return "null" if data is None else f'"{data.hex()}"'


def unhex(text):
    return None if text is None else bytes.fromhex(text)


def main():
    agent = Agent(sys.argv[1])
    out = sys.stdout
    version = confluent_kafka.libversion()[0]
    print("ready " + json.dumps({"name": "librdkafka", "version": version}), flush=True)
    for line in sys.stdin:
        name, _, command = line.partition(" ")
        try:
            command = json.loads(command)
            if name == "write":
                agent.write(command)
            elif name == "read":
                agent.read(command, out)
            else:
                raise ValueError(line)
            out.write("done\n")
        except Exception as failure:  # every failure is an answer
            reason = repr(failure).encode("ascii", "replace").decode()
            out.write(f"failed {reason}\n")
        out.flush()


if __name__ == "__main__":
    main()
