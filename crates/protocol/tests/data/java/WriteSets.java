// Writes the .set files of this folder with Kafka's own client library, no broker needed. The newest library that can
// still write message formats 0 and 1 is that of Kafka 3.9:
//
//   java -cp 'kafka-clients-3.9.1.jar:lz4-java-1.8.0.jar:snappy-java-1.1.10.5.jar:zstd-jni-1.5.6-4.jar:slf4j-api-1.7.36.jar' \
//        WriteSets.java .
//
// and, given files instead of a folder, reads them (batches of format 2 as well) and prints each record that Kafka
// finds there. Given `levels` and a folder, it writes there a set of each format, codec and level, and prints of each
// batch the file, the codec, the last offset and the CRC.
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.LongFunction;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.utils.BufferSupplier;
import org.apache.kafka.common.utils.ByteBufferOutputStream;

public class WriteSets {
    static final int RECORDS = 700;

    public static void main(String[] args) throws Exception {
        if (args[0].equals("levels")) {
            levels(Path.of(args[1]));
            return;
        }
        if (!Files.isDirectory(Path.of(args[0]))) {
            for (String file : args) read(Path.of(file));
            return;
        }
        Path to = Path.of(args[0]);
        Compression[] codecs = {
            Compression.gzip().build(), Compression.snappy().build(), Compression.lz4().build() };
        for (byte magic = 0; magic <= 1; magic++) {
            write(to.resolve("v" + magic + "-none.set"), set(magic, Compression.NONE, 500, 12, false));
            for (Compression codec : codecs)
                write(to.resolve("v" + magic + "-" + codec.type().name + ".set"), set(magic, codec, 500, RECORDS, false));
            write(to.resolve("v" + magic + "-one.set"), set(magic, codecs[0], 500, 1, false));
            write(to.resolve("v" + magic + "-produced.set"), set(magic, codecs[2], 0, 12, false));
            write(to.resolve("v" + magic + "-compacted.set"), compacted(set(magic, codecs[0], 500, 40, false)));
        }
        write(to.resolve("v1-append-none.set"), set((byte) 1, Compression.NONE, 500, 12, true));
        write(to.resolve("v1-append-gzip.set"), set((byte) 1, codecs[0], 500, 12, true));
        ByteArrayOutputStream mixed = new ByteArrayOutputStream();
        mixed.write(set((byte) 0, codecs[2], 500, 5, false));
        mixed.write(set((byte) 0, Compression.NONE, 505, 2, false));
        mixed.write(set((byte) 1, codecs[1], 507, 5, false));
        mixed.write(set((byte) 2, codecs[0], 512, 5, false));
        mixed.write(set((byte) 1, Compression.NONE, 517, 2, false));
        write(to.resolve("mixed.set"), mixed.toByteArray());
    }

    // The records of `set` with the values of `varied`, which fill several blocks of each codec.
    static void levels(Path to) throws Exception {
        Map<String, Compression> all = new LinkedHashMap<>();
        all.put("none-0", Compression.NONE);
        all.put("snappy-0", Compression.snappy().build());
        all.put("gzip-0", Compression.gzip().build());
        all.put("lz4-0", Compression.lz4().build());
        for (int level = 1; level <= 9; level++)
            all.put("gzip-" + level, Compression.gzip().level(level).build());
        for (int level = 1; level <= 17; level++)
            all.put("lz4-" + level, Compression.lz4().level(level).build());
        for (byte magic = 0; magic <= 1; magic++) {
            for (Map.Entry<String, Compression> each : all.entrySet()) {
                String name = "v" + magic + "-" + each.getKey();
                byte[] set = set(magic, each.getValue(), 500, RECORDS, false, WriteSets::varied);
                write(to.resolve(name), set);
                for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(set)).batches())
                    System.out.println(name + " " + batch.compressionType().name + " " + batch.lastOffset()
                        + " " + String.format("%08x", batch.checksum()));
            }
        }
    }

    // Values that take a codec some work.
    static byte[] varied(long o) {
        byte[] value = new byte[600];
        for (int i = 0; i < value.length; i++) value[i] = (byte) ((i * (i + o)) >> 5);
        return value;
    }

    static byte[] same(long o) {
        byte[] value = new byte[50];
        Arrays.fill(value, (byte) o);
        return value;
    }

    static byte[] set(byte magic, Compression compression, long base, int records, boolean append) {
        return set(magic, compression, base, records, append, WriteSets::same);
    }

    // The record at offset o: time 1700000000000 + o (or, set by the broker, 1700000099000), key "key-o" (null when
    // o % 5 == 4), value of 50 bytes o, or another (null when o % 7 == 6).
    static byte[] set(byte magic, Compression compression, long base, int records, boolean append,
            LongFunction<byte[]> value) {
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(
            new ByteBufferOutputStream(1 << 20), magic, compression,
            append ? TimestampType.LOG_APPEND_TIME : TimestampType.CREATE_TIME,
            base, 1_700_000_099_000L, RecordBatch.NO_PRODUCER_ID, RecordBatch.NO_PRODUCER_EPOCH,
            RecordBatch.NO_SEQUENCE, false, false, RecordBatch.NO_PARTITION_LEADER_EPOCH, 1 << 20);
        for (long o = base; o < base + records; o++) {
            byte[] key = o % 5 == 4 ? null : ("key-" + o).getBytes(StandardCharsets.UTF_8);
            builder.append(1_700_000_000_000L + o, key, o % 7 == 6 ? null : value.apply(o));
        }
        return bytes(builder.build().buffer());
    }

    // What the log cleaner leaves of a set if every third offset and the last two stay away.
    static byte[] compacted(byte[] set) {
        MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(set));
        ByteBuffer out = ByteBuffer.allocate(1 << 20);
        MemoryRecords.RecordFilter filter = new MemoryRecords.RecordFilter(0, 0) {
            @Override protected BatchRetentionResult checkBatchRetention(RecordBatch batch) {
                return new BatchRetentionResult(BatchRetention.DELETE_EMPTY, false);
            }
            @Override protected boolean shouldRetainRecord(RecordBatch batch, Record record) {
                return record.offset() % 3 != 0 && record.offset() < 538;
            }
        };
        records.filterTo(new TopicPartition("t", 0), filter, out, 1 << 20, BufferSupplier.create());
        out.flip();
        return bytes(out);
    }

    static void read(Path file) throws Exception {
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file));
        StringBuilder out = new StringBuilder();
        for (RecordBatch batch : MemoryRecords.readableRecords(bytes).batches()) {
            batch.ensureValid();
            for (Record record : batch) {
                record.ensureValid();
                out.append(file.getFileName()).append(' ').append(batch.magic());
                out.append(' ').append(batch.lastOffset());
                out.append(' ').append(record.offset()).append(' ').append(record.timestamp());
                out.append(' ').append(record.hasKey() ? hex(record.key()) : "null");
                out.append(' ').append(record.hasValue() ? hex(record.value()) : "null");
                for (Header header : record.headers()) {
                    out.append(' ').append(header.key()).append('=');
                    out.append(header.value() == null ? "null" : hex(ByteBuffer.wrap(header.value())));
                }
                out.append('\n');
            }
        }
        System.out.print(out);
    }

    static void write(Path file, byte[] bytes) throws Exception {
        Files.write(file, bytes);
    }

    static String hex(ByteBuffer buffer) {
        return "x" + HexFormat.of().formatHex(bytes(buffer));
    }

    static byte[] bytes(ByteBuffer buffer) {
        byte[] out = new byte[buffer.remaining()];
        buffer.duplicate().get(out);
        return out;
    }
}
