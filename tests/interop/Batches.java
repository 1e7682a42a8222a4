// Record batches written and read by Kafka's own classes; no broker takes part. ../tests/batch_oracles.rs runs it.
//
//   Batches write FOLDER SCRIPT...   writes the records of each script as one batch for each codec and level, to
//                                    FOLDER/SCRIPT.CODEC.LEVEL ("default" without a level)
//   Batches read FOLDER              reads every file of the folder and prints, for each: `file NAME`, a line about each batch, and its
//                                    records as agents do (README.md)
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedWriter;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.utils.ByteBufferOutputStream;

public class Batches {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final HexFormat HEX = HexFormat.of();

    public static void main(String[] arguments) throws Exception {
        Path folder = Path.of(arguments[1]);
        switch (arguments[0]) {
            case "write" -> {
                for (String script : List.of(arguments).subList(2, arguments.length)) write(folder, Path.of(script));
            }
            case "read" -> read(folder);
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static void write(Path folder, Path script) throws Exception {
        List<JsonNode> records = new ArrayList<>();
        for (String line : Files.readAllLines(script)) {
            JsonNode step = JSON.readTree(line);
            if (step.get("op").asText().equals("record")) records.add(step);
        }
        for (Map.Entry<String, Compression> way : ways().entrySet()) {
            MemoryRecordsBuilder builder = new MemoryRecordsBuilder(
                new ByteBufferOutputStream(1 << 16), (byte) 2, way.getValue(), TimestampType.CREATE_TIME,
                500L, RecordBatch.NO_TIMESTAMP, 77L, (short) 3, 21, true, false, 4, 1 << 30);
            for (JsonNode record : records) {
                List<Header> headers = new ArrayList<>();
                for (JsonNode header : record.get("headers")) {
                    String name = new String(HEX.parseHex(header.get(0).asText()), StandardCharsets.UTF_8);
                    headers.add(new RecordHeader(name, bytes(header.get(1))));
                }
                builder.append(record.get("timestamp").asLong(), bytes(record.get("key")), bytes(record.get("value")),
                    headers.toArray(new Header[0]));
            }
            ByteBuffer buffer = builder.build().buffer();
            byte[] batch = new byte[buffer.remaining()];
            buffer.get(batch);
            Files.write(folder.resolve(script.getFileName() + "." + way.getKey()), batch);
        }
    }

    private static Map<String, Compression> ways() {
        Map<String, Compression> ways = new LinkedHashMap<>();
        ways.put("none.default", Compression.NONE);
        ways.put("snappy.default", Compression.snappy().build());
        ways.put("gzip.default", Compression.gzip().build());
        ways.put("lz4.default", Compression.lz4().build());
        ways.put("zstd.default", Compression.zstd().build());
        for (int level = 1; level <= 9; level++) ways.put("gzip." + level, Compression.gzip().level(level).build());
        for (int level = 1; level <= 17; level++) ways.put("lz4." + level, Compression.lz4().level(level).build());
        IntStream.concat(IntStream.of(-131072, -50, -7, -1), IntStream.rangeClosed(1, 22))
            .forEach(level -> ways.put("zstd." + level, Compression.zstd().level(level).build()));
        return ways;
    }

    private static void read(Path folder) throws Exception {
        Writer out = new BufferedWriter(
            new OutputStreamWriter(new FileOutputStream(FileDescriptor.out), StandardCharsets.US_ASCII), 1 << 16);
        List<Path> files;
        try (Stream<Path> found = Files.list(folder)) {
            files = found.sorted().toList();
        }
        for (Path file : files) {
            out.write("file " + file.getFileName() + "\n");
            ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file));
            int length = 0;
            for (MutableRecordBatch batch : MemoryRecords.readableRecords(bytes).batches()) {
                batch.ensureValid();
                length += batch.sizeInBytes();
                out.write("batch magic " + batch.magic() + " " + batch.compressionType().name
                    + " offsets " + batch.baseOffset() + " to " + batch.lastOffset() + " count " + batch.countOrNull()
                    + " producer " + batch.producerId() + " " + batch.producerEpoch() + " sequence " + batch.baseSequence()
                    + " to " + batch.lastSequence() + " leader epoch " + batch.partitionLeaderEpoch()
                    + " transactional " + batch.isTransactional() + " control " + batch.isControlBatch()
                    + " latest " + batch.maxTimestamp() + "\n");
                for (org.apache.kafka.common.record.internal.Record record : batch) {
                    record.ensureValid();
                    print(record, out);
                }
            }
            if (length != bytes.capacity()) throw new IllegalStateException(file + " has bytes after its batches");
        }
        out.flush();
    }

    private static void print(org.apache.kafka.common.record.internal.Record record, Writer out) throws Exception {
        out.write("{\"partition\":0,\"offset\":" + record.offset() + ",\"timestamp\":" + record.timestamp()
            + ",\"key\":" + hex(record.key()) + ",\"value\":" + hex(record.value()) + ",\"headers\":[");
        String comma = "";
        for (Header header : record.headers()) {
            out.write(comma + "[" + hex(ByteBuffer.wrap(header.key().getBytes(StandardCharsets.UTF_8))) + ","
                + (header.value() == null ? "null" : hex(ByteBuffer.wrap(header.value()))) + "]");
            comma = ",";
        }
        out.write("]}\n");
    }

    private static byte[] bytes(JsonNode hex) {
        return hex.isNull() ? null : HEX.parseHex(hex.asText());
    }

    private static String hex(ByteBuffer buffer) {
        if (buffer == null) return "null";
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return "\"" + HEX.formatHex(bytes) + "\"";
    }
}
