import java.io.PrintStream;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Which subtask reads which partition, as Flink's own classes say.
 *
 * <p>The first word names the class to ask: source (KafkaSourceEnumerator) or classic (KafkaTopicPartitionAssigner). The second is a file
 * of topics, one a line. A line of the answer is a topic, a parallelism, and the owners of {@link #PARTITIONS}, separated by tabs.
 */
public final class Owners {
    private static final int[] WIDTHS = {1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 64, 127, 128, 1000, 32768};
    private static final int[] PARTITIONS = {0, 1, 2, 3, 5, 11, 63, 127, 999, 65535};

    private interface Rule {
        int owner(String topic, int partition, int parallelism) throws ReflectiveOperationException;
    }

    public static void main(String[] words) throws Exception {
        Rule rule = words[0].equals("source") ? source() : classic();
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        out.print("topic\tparallelism");
        for (int partition : PARTITIONS) {
            out.print("\t" + partition);
        }
        out.print("\n");
        for (String topic : Files.readAllLines(Path.of(words[1]), StandardCharsets.UTF_8)) {
            for (int width : WIDTHS) {
                out.print(topic + "\t" + width);
                for (int partition : PARTITIONS) {
                    out.print("\t" + rule.owner(topic, partition, width));
                }
                out.print("\n");
            }
        }
        out.flush();
    }

    private static Rule source() throws ReflectiveOperationException {
        Class<?> partitions = Class.forName("org.apache.kafka.common.TopicPartition");
        Class<?> enumerator = Class.forName("org.apache.flink.connector.kafka.source.enumerator.KafkaSourceEnumerator");
        Method method = enumerator.getDeclaredMethod("getSplitOwner", partitions, int.class);
        method.setAccessible(true);
        return (topic, partition, parallelism) -> {
            Object of = partitions.getConstructor(String.class, int.class).newInstance(topic, partition);
            return (int) method.invoke(null, of, parallelism);
        };
    }

    private static Rule classic() throws ReflectiveOperationException {
        Class<?> assigner = Class.forName("org.apache.flink.streaming.connectors.kafka.internals.KafkaTopicPartitionAssigner");
        Method method = assigner.getMethod("assign", String.class, int.class, int.class);
        return (topic, partition, parallelism) -> (int) method.invoke(null, topic, partition, parallelism);
    }
}
