// franz-go in the comparison. The contract that all peers share is ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type options struct {
	bootstrap, topic, role, mode, values, codec, profile, shape string
	partitions, valueSize, rate                                 int
	warm, records, tail                                         int64
	hold                                                        bool
}

func parse(words []string) options {
	o := options{partitions: 1, valueSize: 100, codec: "none", profile: "tuned", shape: "plain", rate: 1000}
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		check(err)
		return n
	}
	for at := 0; at+1 < len(words); at += 2 {
		value := words[at+1]
		switch words[at] {
		case "--bootstrap":
			o.bootstrap = value
		case "--topic":
			o.topic = value
		case "--role":
			o.role = value
		case "--mode":
			o.mode = value
		case "--values":
			o.values = value
		case "--codec":
			o.codec = value
		case "--profile":
			o.profile = value
		case "--shape":
			o.shape = value
		case "--partitions":
			o.partitions = int(number(value))
		case "--value-size":
			o.valueSize = int(number(value))
		case "--rate":
			o.rate = int(number(value))
		case "--warm":
			o.warm = number(value)
		case "--records":
			o.records = number(value)
		case "--tail":
			o.tail = number(value)
		case "--hold":
			o.hold = value == "true"
		case "--threads", "--batch-records":
		default:
			check(fmt.Errorf("no such option: %s", words[at]))
		}
	}
	return o
}

func (o options) total() int64 { return o.warm + o.records + o.tail }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "franz:", err)
		os.Exit(1)
	}
}

func word(b []byte) uint64 {
	n := len(b)
	if n < 8 {
		return uint64(n)
	}
	mixed := binary.LittleEndian.Uint64(b) ^
		bits.RotateLeft64(binary.LittleEndian.Uint64(b[(n-8)/2:]), 23) ^
		bits.RotateLeft64(binary.LittleEndian.Uint64(b[n-8:]), 41)
	return mixed*0x9E3779B97F4A7C15 + uint64(n)
}

type usage struct {
	cpu time.Duration
	at  time.Time
}

func now() usage {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return usage{time.Duration(u.Utime.Nano() + u.Stime.Nano()), time.Now()}
}

type meter struct {
	o                    options
	mark, records, bytes int64
	checksum             uint64
	begun, ended         bool
	begin, end           usage
}

func newMeter(o options) *meter {
	m := &meter{o: o, mark: o.warm}
	if o.warm == 0 {
		m.reach()
	}
	return m
}

func (m *meter) part(b []byte) {
	m.bytes += int64(len(b))
	m.checksum += word(b)
}

func (m *meter) value(b []byte) {
	if len(b) != m.o.valueSize {
		check(fmt.Errorf("a value of %d bytes", len(b)))
	}
	m.part(b)
	m.records++
	if m.records >= m.mark {
		m.reach()
	}
}

func (m *meter) reach() {
	if !m.begun {
		m.begun, m.begin, m.mark = true, now(), m.o.warm+m.o.records
	} else {
		if !m.ended {
			m.ended, m.end = true, now()
		}
		m.mark = 1 << 62
	}
}

func (m *meter) finish() {
	if m.records != m.o.total() {
		check(fmt.Errorf("%d records instead of %d", m.records, m.o.total()))
	}
	if !m.begun || !m.ended {
		check(errors.New("the window was not reached"))
	}
	report(m.o, fmt.Sprintf(`"records":%d,"bytes":%d,"checksum":"%016x","window_records":%d,"cpu_ns":%d,"wall_ns":%d`,
		m.records, m.bytes, m.checksum, m.o.records, (m.end.cpu-m.begin.cpu).Nanoseconds(), m.end.at.Sub(m.begin.at).Nanoseconds()))
}

func report(o options, fields string) {
	status, err := os.ReadFile("/proc/self/status")
	check(err)
	var peak int64
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			peak, err = strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			check(err)
		}
	}
	fmt.Printf("{\"peer\":\"franz-go\",\"mode\":%q,\"rss_kib\":%d,%s}\n", o.mode, peak, fields)
	if o.hold {
		bufio.NewReader(os.Stdin).ReadByte()
	}
}

var headerNames = [3]string{"trace-id", "source", "schema"}

// values gives out the values of the file again and again.
type values struct {
	bytes    []byte
	size, at int
	keys     bool
	records  int64
	checksum uint64
	sums     []uint64
}

func load(o options) *values {
	bytes, err := os.ReadFile(o.values)
	check(err)
	v := &values{bytes: bytes, size: o.valueSize, keys: o.shape == "keys"}
	for at := 0; at < len(bytes); at += v.size {
		value := bytes[at : at+v.size]
		sum := word(value)
		if v.keys {
			sum += word(value[:16]) + word(value[16:24]) + word(value[24:32]) + word(value[32:40])
		}
		v.sums = append(v.sums, sum)
	}
	return v
}

func (v *values) next() []byte {
	at := v.at
	v.at++
	if v.at == len(v.sums) {
		v.at = 0
	}
	v.records++
	v.checksum += v.sums[at]
	return v.bytes[at*v.size : (at+1)*v.size]
}

func (v *values) contentBytes() int64 {
	more := 0
	if v.keys {
		more = 16
		for _, name := range headerNames {
			more += len(name) + 8
		}
	}
	return v.records * int64(v.size+more)
}

func assignment(o options) map[string]map[int32]kgo.Offset {
	partitions := make(map[int32]kgo.Offset)
	for p := range o.partitions {
		partitions[int32(p)] = kgo.NewOffset().AtStart()
	}
	return map[string]map[int32]kgo.Offset{o.topic: partitions}
}

func consume(o options) {
	settings := []kgo.Opt{kgo.SeedBrokers(o.bootstrap), kgo.ConsumePartitions(assignment(o))}
	if o.profile == "tuned" {
		settings = append(settings, kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(1<<20), kgo.DisableClientMetrics())
	}
	client, err := kgo.NewClient(settings...)
	check(err)
	m := newMeter(o)
	ctx := context.Background()
	for m.records < o.total() {
		fetches := client.PollFetches(ctx)
		check(fetches.Err())
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				if o.shape == "keys" {
					m.part(r.Key)
					for _, h := range r.Headers {
						m.bytes += int64(len(h.Key))
						m.part(h.Value)
					}
				}
				m.value(r.Value)
			}
		})
	}
	m.finish()
	client.Close()
}

func producerOptions(o options, linger time.Duration) []kgo.Opt {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	settings := []kgo.Opt{
		kgo.SeedBrokers(o.bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(codecs[o.codec]),
	}
	if o.profile == "tuned" {
		settings = append(settings, kgo.ProducerLinger(linger), kgo.ProducerBatchMaxBytes(1_000_000),
			kgo.MaxBufferedRecords(100_000), kgo.DisableClientMetrics())
	}
	return settings
}

func produce(o options) {
	client, err := kgo.NewClient(producerOptions(o, 5*time.Millisecond)...)
	check(err)
	v := load(o)
	ctx := context.Background()
	pool := sync.Pool{New: func() any { return new(kgo.Record) }}
	var acknowledged atomic.Int64
	done := func(r *kgo.Record, err error) {
		check(err)
		acknowledged.Add(1)
		*r = kgo.Record{Headers: r.Headers[:0]}
		pool.Put(r)
	}
	partition := int32(0)
	write := func(count int64) {
		for range count {
			value := v.next()
			r := pool.Get().(*kgo.Record)
			r.Topic, r.Partition, r.Value = o.topic, partition, value
			if v.keys {
				r.Key = value[:16]
				for h, name := range headerNames {
					r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: value[16+8*h : 24+8*h]})
				}
			}
			if partition++; int(partition) == o.partitions {
				partition = 0
			}
			client.Produce(ctx, r, done)
		}
		check(client.Flush(ctx))
	}
	m := newMeter(o)
	write(o.warm)
	m.begin, m.begun = now(), true
	write(o.records)
	m.end, m.ended = now(), true
	write(o.tail)
	m.records, m.bytes, m.checksum = acknowledged.Load(), v.contentBytes(), v.checksum
	m.finish()
	client.Close()
}

func latency(o options) {
	settings := append(producerOptions(o, 0), kgo.ConsumePartitions(assignment(o)), kgo.ProducerLinger(0))
	client, err := kgo.NewClient(settings...)
	check(err)
	epoch := time.Now()
	total := o.warm + o.records
	ctx := context.Background()
	go func() {
		v := load(o)
		step := time.Second / time.Duration(o.rate)
		start := time.Now()
		for index := range total {
			time.Sleep(time.Until(start.Add(step * time.Duration(index))))
			value := slices.Clone(v.next())
			binary.LittleEndian.PutUint64(value, uint64(time.Since(epoch)))
			client.Produce(ctx, &kgo.Record{Topic: o.topic, Partition: int32(index % int64(o.partitions)), Value: value},
				func(_ *kgo.Record, err error) { check(err) })
		}
		check(client.Flush(ctx))
	}()
	var seen int64
	nanos := make([]int64, 0, o.records)
	for seen < total {
		fetches := client.PollFetches(ctx)
		check(fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			seen++
			if seen > o.warm {
				nanos = append(nanos, int64(time.Since(epoch))-int64(binary.LittleEndian.Uint64(r.Value)))
			}
		})
	}
	slices.Sort(nanos)
	at := func(permille int) float64 { return float64(nanos[min(len(nanos)*permille/1000, len(nanos)-1)]) / 1000 }
	report(o, fmt.Sprintf(`"records":%d,"window_records":%d,"p50_us":%.1f,"p99_us":%.1f,"p999_us":%.1f`,
		seen, len(nanos), at(500), at(990), at(999)))
}

func main() {
	o := parse(os.Args[1:])
	switch o.role {
	case "consume":
		consume(o)
	case "produce":
		produce(o)
	case "latency":
		latency(o)
	default:
		check(fmt.Errorf("no role %q", o.role))
	}
}
