// Writes the .batch files of this folder with Kafka's own client library, no broker needed:
//
//   java -cp 'kafka-clients-4.3.1.jar:lz4-java-1.10.2.jar:snappy-java-1.1.10.7.jar:zstd-jni-1.5.6-10.jar:slf4j-api-1.7.36.jar' \
//        WriteBatches.java .
//
// and, given files instead of a folder, reads batches and prints what Kafka finds in them.
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.Arrays;
import java.util.function.LongPredicate;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.utils.BufferSupplier;
import org.apache.kafka.common.utils.ByteBufferOutputStream;

public class WriteBatches {
    public static void main(String[] args) throws Exception {
        if (!Files.isDirectory(Path.of(args[0]))) {
            for (String file : args) read(Path.of(file));
            return;
        }
        Path to = Path.of(args[0]);
        write(to.resolve("none.batch"), Compression.NONE, 3);
        write(to.resolve("gzip.batch"), Compression.gzip().build(), 400);
        write(to.resolve("snappy.batch"), Compression.snappy().build(), 400);
        write(to.resolve("lz4.batch"), Compression.lz4().build(), 700);
        write(to.resolve("zstd.batch"), Compression.zstd().build(), 400);
        MemoryRecords marker = MemoryRecords.withEndTransactionMarker(
            1000L, 1_700_000_000_000L, 4, 77L, (short) 3, new EndTransactionMarker(ControlRecordType.ABORT, 12));
        Files.write(to.resolve("abort.batch"), bytes(marker.buffer()));

        // What a broker makes of batches: the time of the append, and what the cleaner leaves.
        MemoryRecordsBuilder appended = new MemoryRecordsBuilder(
            new ByteBufferOutputStream(1 << 20), (byte) 2, Compression.lz4().build(), TimestampType.LOG_APPEND_TIME,
            500L, 1_700_000_099_000L, RecordBatch.NO_PRODUCER_ID, RecordBatch.NO_PRODUCER_EPOCH,
            RecordBatch.NO_SEQUENCE, false, false, 4, 1 << 20);
        fill(appended, 20);
        Files.write(to.resolve("append.batch"), bytes(appended.build().buffer()));
        byte[] whole = Files.readAllBytes(to.resolve("gzip.batch"));
        Files.write(to.resolve("compacted.batch"), cleaned(whole, 0, o -> o % 3 != 0 && o < 890));
        Files.write(to.resolve("emptied.batch"), cleaned(whole, 0, o -> false));
        Files.write(to.resolve("horizon.batch"), cleaned(whole, 86_400_000, o -> o % 100 < 50));
    }

    // What the log cleaner leaves of a batch, at 1700000500000, if only some offsets stay. If tombstones are among them,
    // it notes when those may go: after the retention.
    static byte[] cleaned(byte[] batch, long retention, LongPredicate stays) {
        ByteBuffer out = ByteBuffer.allocate(1 << 20);
        MemoryRecords.RecordFilter filter = new MemoryRecords.RecordFilter(1_700_000_500_000L, retention) {
            @Override protected BatchRetentionResult checkBatchRetention(RecordBatch batch) {
                return new BatchRetentionResult(BatchRetention.RETAIN_EMPTY, false);
            }
            @Override protected boolean shouldRetainRecord(RecordBatch batch, Record record) {
                return stays.test(record.offset());
            }
        };
        MemoryRecords.readableRecords(ByteBuffer.wrap(batch)).filterTo(filter, out, BufferSupplier.create());
        out.flip();
        return bytes(out);
    }

    // Record i: time 1700000000000 + i, key "key-i" (null when i % 5 == 4), value of 100 bytes (null when i % 7 == 6),
    // and for i % 3 == 0 the headers h=i, h=null and é="".
    static void write(Path file, Compression compression, int records) throws Exception {
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(
            new ByteBufferOutputStream(1 << 20), (byte) 2, compression, TimestampType.CREATE_TIME,
            500L, RecordBatch.NO_TIMESTAMP, 77L, (short) 3, 21, true, false, 4, 1 << 20);
        fill(builder, records);
        Files.write(file, bytes(builder.build().buffer()));
    }

    static void fill(MemoryRecordsBuilder builder, int records) {
        for (int i = 0; i < records; i++) {
            byte[] key = i % 5 == 4 ? null : ("key-" + i).getBytes(StandardCharsets.UTF_8);
            byte[] value = new byte[100];
            Arrays.fill(value, (byte) i);
            Header[] headers = i % 3 != 0 ? new Header[0] : new Header[] {
                new RecordHeader("h", Integer.toString(i).getBytes(StandardCharsets.UTF_8)),
                new RecordHeader("h", (byte[]) null),
                new RecordHeader("\u00e9", new byte[0]) };
            builder.append(1_700_000_000_000L + i, key, i % 7 == 6 ? null : value, headers);
        }
    }

    static void read(Path file) throws Exception {
        for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(file))).batches()) {
            batch.ensureValid();
            long hash = 7;
            int count = 0;
            for (Record record : batch) {
                record.ensureValid();
                count++;
                hash = hash * 31 + record.offset();
                hash = hash * 31 + record.timestamp();
                hash = hash * 31 + (record.hasKey() ? record.key().hashCode() : 1);
                hash = hash * 31 + (record.hasValue() ? record.value().hashCode() : 2);
                for (Header header : record.headers())
                    hash = hash * 31 + header.key().hashCode() + Arrays.hashCode(header.value());
            }
            System.out.println(file.getFileName() + " " + batch + " records=" + count + " hash=" + hash);
        }
    }

    static byte[] bytes(ByteBuffer buffer) {
        byte[] out = new byte[buffer.remaining()];
        buffer.duplicate().get(out);
        return out;
    }
}
