import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.Callback;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Kafka's Java client in the comparison. The contract that all peers share is ../README.md. */
public final class Peer {
    private static final VarHandle LONGS =
        MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    private static final String[] HEADER_NAMES = {"trace-id", "source", "schema"};
    private static final OperatingSystemMXBean SYSTEM =
        (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final Properties options = new Properties();
    private final String topic;
    private final int partitions;
    private final int valueSize;
    private final long warm;
    private final long window;
    private final long total;
    private final boolean keys;
    private final boolean tuned;

    private long records;
    private long bytes;
    private long checksum;
    private long mark;
    private boolean begun;
    private boolean ended;
    private long beginCpu;
    private long beginTime;
    private long endCpu;
    private long endTime;

    private Peer(String[] words) {
        for (int at = 0; at + 1 < words.length; at += 2) {
            options.setProperty(words[at].substring(2), words[at + 1]);
        }
        topic = options.getProperty("topic");
        partitions = (int) number("partitions", 1);
        valueSize = (int) number("value-size", 100);
        warm = number("warm", 0);
        window = number("records", 0);
        total = warm + window + number("tail", 0);
        keys = options.getProperty("shape", "plain").equals("keys");
        tuned = options.getProperty("profile", "tuned").equals("tuned");
        mark = warm;
        if (warm == 0) {
            reach();
        }
    }

    private long number(String name, long otherwise) {
        String text = options.getProperty(name);
        return text == null ? otherwise : Long.parseLong(text);
    }

    private static long word(byte[] b) {
        int n = b.length;
        if (n < 8) {
            return n;
        }
        long mixed = (long) LONGS.get(b, 0)
            ^ Long.rotateLeft((long) LONGS.get(b, (n - 8) / 2), 23)
            ^ Long.rotateLeft((long) LONGS.get(b, n - 8), 41);
        return mixed * 0x9E3779B97F4A7C15L + n;
    }

    private void part(byte[] b) {
        bytes += b.length;
        checksum += word(b);
    }

    private void value(byte[] b) {
        if (b.length != valueSize) {
            throw new IllegalStateException("a value of " + b.length + " bytes");
        }
        part(b);
        records++;
        if (records >= mark) {
            reach();
        }
    }

    private void reach() {
        if (!begun) {
            begun = true;
            mark = warm + window;
            beginCpu = SYSTEM.getProcessCpuTime();
            beginTime = System.nanoTime();
        } else {
            if (!ended) {
                ended = true;
                endCpu = SYSTEM.getProcessCpuTime();
                endTime = System.nanoTime();
            }
            mark = Long.MAX_VALUE;
        }
    }

    private void finish() throws IOException {
        if (records != total || !ended) {
            throw new IllegalStateException(records + " records instead of " + total);
        }
        report(String.format(
            "\"records\":%d,\"bytes\":%d,\"checksum\":\"%016x\",\"window_records\":%d,\"cpu_ns\":%d,\"wall_ns\":%d",
            records, bytes, checksum, window, endCpu - beginCpu, endTime - beginTime));
    }

    private void report(String fields) throws IOException {
        long peak = 0;
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                peak = Long.parseLong(line.replaceAll("[^0-9]", ""));
            }
        }
        System.out.println("{\"peer\":\"java\",\"mode\":\"" + options.getProperty("mode", "") + "\",\"rss_kib\":" + peak + "," + fields + "}");
        if (options.getProperty("hold", "").equals("true")) {
            System.in.read();
        }
    }

    private KafkaConsumer<byte[], byte[]> consumer() {
        Properties config = new Properties();
        config.put("bootstrap.servers", options.getProperty("bootstrap"));
        config.put("key.deserializer", ByteArrayDeserializer.class.getName());
        config.put("value.deserializer", ByteArrayDeserializer.class.getName());
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "earliest");
        if (tuned) {
            config.put("max.poll.records", "100000");
            config.put("receive.buffer.bytes", "-1");
            config.put("enable.metrics.push", "false");
        }
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config);
        List<TopicPartition> assigned = new ArrayList<>();
        for (int p = 0; p < partitions; p++) {
            assigned.add(new TopicPartition(topic, p));
        }
        consumer.assign(assigned);
        consumer.seekToBeginning(assigned);
        return consumer;
    }

    private void consume() throws IOException {
        KafkaConsumer<byte[], byte[]> consumer = consumer();
        while (records < total) {
            ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofMillis(1000));
            for (TopicPartition tp : polled.partitions()) {
                for (ConsumerRecord<byte[], byte[]> record : polled.records(tp)) {
                    if (keys) {
                        part(record.key());
                        for (Header header : record.headers()) {
                            bytes += header.key().length();
                            part(header.value());
                        }
                    }
                    value(record.value());
                }
            }
        }
        finish();
        consumer.close();
    }

    private KafkaProducer<byte[], byte[]> producer(int linger) {
        Properties config = new Properties();
        config.put("bootstrap.servers", options.getProperty("bootstrap"));
        config.put("key.serializer", ByteArraySerializer.class.getName());
        config.put("value.serializer", ByteArraySerializer.class.getName());
        config.put("acks", "all");
        config.put("enable.idempotence", "true");
        config.put("compression.type", options.getProperty("codec", "none"));
        if (tuned) {
            config.put("linger.ms", Integer.toString(linger));
            config.put("batch.size", Integer.toString(partitions >= 100 ? 64 << 10 : 512 << 10));
            config.put("buffer.memory", Integer.toString(64 << 20));
            config.put("send.buffer.bytes", "-1");
            config.put("enable.metrics.push", "false");
        }
        return new KafkaProducer<>(config);
    }

    private final AtomicReference<Exception> failure = new AtomicReference<>();
    private final Callback done = (metadata, exception) -> {
        if (exception != null) {
            failure.compareAndSet(null, exception);
        }
    };

    private byte[][] values() throws IOException {
        byte[] all = Files.readAllBytes(Path.of(options.getProperty("values")));
        byte[][] values = new byte[all.length / valueSize][];
        for (int at = 0; at < values.length; at++) {
            values[at] = Arrays.copyOfRange(all, at * valueSize, (at + 1) * valueSize);
        }
        return values;
    }

    private int next;
    private int partition;

    private void write(KafkaProducer<byte[], byte[]> producer, byte[][] values, long[] sums, long count) throws Exception {
        for (long index = 0; index < count; index++) {
            byte[] value = values[next];
            checksum += sums[next];
            next = next + 1 == values.length ? 0 : next + 1;
            ProducerRecord<byte[], byte[]> record;
            if (keys) {
                RecordHeaders headers = new RecordHeaders();
                for (int h = 0; h < 3; h++) {
                    headers.add(new RecordHeader(HEADER_NAMES[h], Arrays.copyOfRange(value, 16 + 8 * h, 24 + 8 * h)));
                    bytes += HEADER_NAMES[h].length() + 8;
                }
                bytes += 16;
                record = new ProducerRecord<>(topic, partition, Arrays.copyOf(value, 16), value, headers);
            } else {
                record = new ProducerRecord<>(topic, partition, null, value);
            }
            bytes += value.length;
            records++;
            partition = partition + 1 == partitions ? 0 : partition + 1;
            producer.send(record, done);
        }
        producer.flush();
        if (failure.get() != null) {
            throw failure.get();
        }
    }

    private void produce() throws Exception {
        byte[][] values = values();
        long[] sums = new long[values.length];
        for (int at = 0; at < sums.length; at++) {
            sums[at] = word(values[at]);
            if (keys) {
                sums[at] += word(Arrays.copyOf(values[at], 16));
                for (int h = 0; h < 3; h++) {
                    sums[at] += word(Arrays.copyOfRange(values[at], 16 + 8 * h, 24 + 8 * h));
                }
            }
        }
        KafkaProducer<byte[], byte[]> producer = producer(5);
        write(producer, values, sums, warm);
        begun = false;
        ended = false;
        reach();
        write(producer, values, sums, window);
        reach();
        write(producer, values, sums, total - warm - window);
        finish();
        producer.close();
    }

    private void latency() throws Exception {
        KafkaProducer<byte[], byte[]> producer = producer(0);
        KafkaConsumer<byte[], byte[]> consumer = consumer();
        byte[][] values = values();
        long step = 1_000_000_000L / number("rate", 1000);
        long epoch = System.nanoTime();
        Thread writer = new Thread(() -> {
            long start = System.nanoTime();
            for (long index = 0; index < total; index++) {
                long wait;
                while ((wait = start + step * index - System.nanoTime()) > 0) {
                    LockSupport.parkNanos(wait);
                }
                byte[] value = values[(int) (index % values.length)].clone();
                LONGS.set(value, 0, System.nanoTime() - epoch);
                producer.send(new ProducerRecord<>(topic, (int) (index % partitions), null, value), done);
            }
            producer.flush();
        });
        writer.start();
        long[] nanos = new long[(int) window];
        long seen = 0;
        while (seen < total) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(1000))) {
                if (seen >= warm) {
                    nanos[(int) (seen - warm)] = System.nanoTime() - epoch - (long) LONGS.get(record.value(), 0);
                }
                seen++;
            }
        }
        writer.join();
        if (failure.get() != null) {
            throw failure.get();
        }
        Arrays.sort(nanos);
        report(String.format(java.util.Locale.ROOT,
            "\"records\":%d,\"window_records\":%d,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f",
            seen, nanos.length, at(nanos, 500), at(nanos, 990), at(nanos, 999)));
        producer.close();
        consumer.close();
    }

    private static double at(long[] sorted, int permille) {
        return sorted[(int) Math.min(sorted.length - 1, (long) sorted.length * permille / 1000)] / 1000.0;
    }

    public static void main(String[] words) throws Exception {
        Peer peer = new Peer(words);
        switch (peer.options.getProperty("role")) {
            case "consume" -> peer.consume();
            case "produce" -> peer.produce();
            case "latency" -> peer.latency();
            default -> throw new IllegalArgumentException("no such role");
        }
    }
}
