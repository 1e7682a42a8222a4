import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.KafkaSinkBuilder;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Flink's own connector, from topic to topic without change, exactly once, a checkpoint a second, until the end of what is there.
 *
 * <p>Options are pairs of words: --bootstrap, --from, --to, --checkpoints (a folder), --parallelism, --profile default|tuned. Only values
 * are copied: a record of the input has nothing else.
 */
public final class CopyJob {
    /** Bytes as they are. */
    private static final class Same implements SerializationSchema<byte[]> {
        private static final long serialVersionUID = 1L;

        @Override
        public byte[] serialize(byte[] value) {
            return value;
        }
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int at = 0; at + 1 < words.length; at += 2) {
            options.put(words[at].substring(2), words[at + 1]);
        }
        boolean tuned = options.get("profile").equals("tuned");
        Configuration configuration = new Configuration();
        configuration.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        configuration.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, "file://" + options.get("checkpoints"));
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment(configuration);
        environment.setParallelism(Integer.parseInt(options.get("parallelism")));
        environment.enableCheckpointing(1000, CheckpointingMode.EXACTLY_ONCE);
        if (tuned) {
            environment.getConfig().enableObjectReuse();
        }

        KafkaSource<byte[]> source = KafkaSource.<byte[]>builder()
            .setBootstrapServers(options.get("bootstrap"))
            .setTopics(options.get("from"))
            .setGroupId(options.get("to"))
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setBounded(OffsetsInitializer.latest())
            .setDeserializer(KafkaRecordDeserializationSchema.valueOnly(ByteArrayDeserializer.class))
            .build();
        KafkaSinkBuilder<byte[]> sink = KafkaSink.<byte[]>builder()
            .setBootstrapServers(options.get("bootstrap"))
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix(options.get("to"))
            // Flink's default, an hour, is more than a broker allows by default.
            .setProperty("transaction.timeout.ms", "600000")
            .setRecordSerializer(KafkaRecordSerializationSchema.<byte[]>builder()
                .setTopic(options.get("to"))
                .setValueSerializationSchema(new Same())
                .build());
        if (tuned) {
            sink.setProperty("batch.size", "262144").setProperty("linger.ms", "10");
        }
        environment.fromSource(source, WatermarkStrategy.noWatermarks(), "in").sinkTo(sink.build());
        environment.execute("copy");
    }
}
