// Kafka's Java client as an agent of the interop matrix. The protocol is in README.md beside this file.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

public class Agent {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final HexFormat HEX = HexFormat.of();
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private final String bootstrap;
    private final Map<String, KafkaConsumer<byte[], byte[]>> consumers = new HashMap<>();

    private Agent(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] arguments) throws Exception {
        Agent agent = new Agent(arguments[0]);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8), 1 << 16);
        Writer out = new BufferedWriter(
            new OutputStreamWriter(new FileOutputStream(FileDescriptor.out), StandardCharsets.US_ASCII), 1 << 16);
        out.write("ready {\"name\":\"Java\",\"version\":\"" + AppInfoParser.getVersion() + "\"}\n");
        out.flush();
        for (String line; (line = in.readLine()) != null; ) {
            int space = line.indexOf(' ');
            try {
                JsonNode command = JSON.readTree(line.substring(space + 1));
                switch (line.substring(0, space)) {
                    case "write" -> agent.write(command);
                    case "read" -> agent.read(command, out);
                    default -> throw new IllegalArgumentException(line);
                }
                out.write("done\n");
            } catch (Exception failure) {
                failure.printStackTrace();
                out.write("failed " + failure.toString().replaceAll("[^ -~]", " ") + "\n");
            }
            out.flush();
        }
        // Threads of clients are not waited for.
        System.exit(0);
    }

    private void write(JsonNode command) throws Exception {
        String topic = command.get("topic").asText();
        KafkaProducer<byte[], byte[]> producer = null;
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        int opened = 0;
        try (BufferedReader script = Files.newBufferedReader(Path.of(command.get("script").asText()))) {
            for (String line; (line = script.readLine()) != null; ) {
                JsonNode step = JSON.readTree(line);
                switch (step.get("op").asText()) {
                    case "producer" -> {
                        if (producer != null) producer.close(PATIENCE);
                        String id = step.get("transactional").asBoolean() ? topic + "-" + opened : null;
                        opened++;
                        producer = new KafkaProducer<>(settings(command, id));
                        if (id != null) producer.initTransactions();
                    }
                    case "record" -> sent.add(producer.send(record(topic, step)));
                    case "flush" -> finish(producer, sent);
                    case "begin" -> producer.beginTransaction();
                    case "commit" -> producer.commitTransaction();
                    case "abort" -> producer.abortTransaction();
                    default -> throw new IllegalArgumentException(line);
                }
            }
            finish(producer, sent);
        } finally {
            if (producer != null) producer.close(PATIENCE);
        }
    }

    private static void finish(KafkaProducer<byte[], byte[]> producer, List<Future<RecordMetadata>> sent) throws Exception {
        producer.flush();
        for (Future<RecordMetadata> written : sent) written.get();
        sent.clear();
    }

    private Properties settings(JsonNode command, String transactionalId) {
        String codec = command.get("codec").asText();
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.serializer", ByteArraySerializer.class.getName());
        settings.put("value.serializer", ByteArraySerializer.class.getName());
        settings.put("compression.type", codec);
        if (!command.get("level").isNull()) {
            settings.put("compression." + codec + ".level", command.get("level").asInt());
        }
        settings.put("enable.idempotence", command.get("idempotent").asBoolean());
        settings.put("acks", "all");
        settings.put("linger.ms", 20);
        settings.put("batch.size", 256 * 1024);
        settings.put("max.request.size", 8 * 1024 * 1024);
        settings.put("enable.metrics.push", false);
        if (transactionalId != null) settings.put("transactional.id", transactionalId);
        return settings;
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, JsonNode step) {
        List<Header> headers = new ArrayList<>();
        for (JsonNode header : step.get("headers")) {
            String name = new String(HEX.parseHex(header.get(0).asText()), StandardCharsets.UTF_8);
            headers.add(new RecordHeader(name, bytes(header.get(1))));
        }
        Integer partition = step.get("partition").isNull() ? null : step.get("partition").asInt();
        long timestamp = step.get("timestamp").asLong();
        return new ProducerRecord<>(topic, partition, timestamp, bytes(step.get("key")), bytes(step.get("value")), headers);
    }

    private void read(JsonNode command, Writer out) throws Exception {
        String topic = command.get("topic").asText();
        Map<TopicPartition, Long> ends = new HashMap<>();
        for (int partition = 0; partition < command.get("ends").size(); partition++) {
            ends.put(new TopicPartition(topic, partition), command.get("ends").get(partition).asLong());
        }
        KafkaConsumer<byte[], byte[]> consumer = consumers.computeIfAbsent(command.get("isolation").asText(), this::consumer);
        consumer.assign(ends.keySet());
        // All logs begin at 0. A consumer that is assigned the same topic again would go on where it was.
        ends.keySet().forEach(partition -> consumer.seek(partition, 0));
        Set<TopicPartition> open = new HashSet<>(ends.keySet());
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (true) {
            open.removeIf(partition -> consumer.position(partition) >= ends.get(partition));
            if (open.isEmpty()) return;
            if (System.nanoTime() > deadline) throw new IllegalStateException("the end of " + open + " is out of reach");
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) print(record, out);
        }
    }

    private KafkaConsumer<byte[], byte[]> consumer(String isolation) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("value.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("isolation.level", isolation);
        settings.put("check.crcs", true);
        settings.put("fetch.max.wait.ms", 100);
        settings.put("max.poll.records", 5000);
        settings.put("enable.metrics.push", false);
        return new KafkaConsumer<>(settings);
    }

    private static void print(ConsumerRecord<byte[], byte[]> record, Writer out) throws Exception {
        out.write("{\"partition\":" + record.partition() + ",\"offset\":" + record.offset()
            + ",\"timestamp\":" + record.timestamp() + ",\"key\":" + hex(record.key()) + ",\"value\":" + hex(record.value())
            + ",\"headers\":[");
        String comma = "";
        for (Header header : record.headers()) {
            String name = hex(header.key().getBytes(StandardCharsets.UTF_8));
            out.write(comma + "[" + name + "," + hex(header.value()) + "]");
            comma = ",";
        }
        out.write("]}\n");
    }

    private static byte[] bytes(JsonNode hex) {
        return hex.isNull() ? null : HEX.parseHex(hex.asText());
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? "null" : "\"" + HEX.formatHex(bytes) + "\"";
    }
}
