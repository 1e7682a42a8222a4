//! Properties of the codecs: round trips, limits, damage, and what the other side's encoders write.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use flate2::{GzBuilder, write::GzEncoder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use milena_protocol::ErrorKind;
use milena_protocol::compression::{
    Compression, compress, compress_v0, decompress, decompress_into, decompress_message_set,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{Read, Write};

const CODECS: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const PLENTY: usize = 1 << 26;

fn pack(codec: Compression, level: Option<i32>, input: &[u8]) -> Vec<u8> {
    let mut out = b"prefix".to_vec();
    compress(codec, level, input, &mut out).unwrap();
    assert_eq!(&out[..6], b"prefix", "appended, not replaced");
    out.split_off(6)
}

/// Text-like bytes that compress, with noise between.
fn sample(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(size + 64);
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        write!(
            out,
            "{{\"user\":{},\"page\":\"/item/{}\",\"id\":\"{state:016x}\"}}",
            state % 1000,
            (state >> 20) % 50
        )
        .unwrap();
    }
    out.truncate(size);
    out
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..600),
        (0..200_000usize, any::<u64>()).prop_map(|(size, seed)| sample(size, seed)),
        (any::<u8>(), 0..300_000usize).prop_map(|(byte, size)| vec![byte; size]),
        // Around the block sizes of snappy and lz4.
        (32_766..32_771usize).prop_map(|size| sample(size, 7)),
        (65_534..65_539usize).prop_map(|size| sample(2 * size, 7)),
        (65_534..65_539usize, any::<u64>()).prop_map(|(size, seed)| noise(size, seed)),
    ]
}

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn level(codec: Compression, pick: u32) -> Option<i32> {
    let levels: &[i32] = match codec {
        Compression::Gzip => &[1, 2, 5, 6, 9],
        Compression::Lz4 => &[1, 9, 17],
        Compression::Zstd => &[-131_072, -5, -1, 0, 1, 2, 3, 4, 6, 7, 9, 13],
        Compression::None | Compression::Snappy => &[],
    };
    levels.get(pick as usize % (levels.len() + 1)).copied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn what_is_compressed_is_decompressed(input in data(), pick: u32) {
        for codec in CODECS {
            let level = level(codec, pick);
            let packed = pack(codec, level, &input);
            let out = decompress(codec, &packed, PLENTY).unwrap();
            prop_assert!(out == input, "{} {:?}: {} bytes", codec, level, input.len());
            // Exactly at the limit is fine, one below is not.
            prop_assert!(decompress(codec, &packed, input.len()).unwrap() == input);
            if let Some(below) = input.len().checked_sub(1) {
                prop_assert_eq!(decompress(codec, &packed, below).unwrap_err().kind(), ErrorKind::TooLarge);
            }
        }
    }

    #[test]
    fn damage_never_panics(input in data(), at: prop::sample::Index, flip in 1..=255u8, cut: prop::sample::Index) {
        for codec in CODECS {
            let mut packed = pack(codec, None, &input);
            let place = at.index(packed.len());
            packed[place] ^= flip;
            if let Ok(out) = decompress(codec, &packed, 1 << 20) {
                prop_assert!(out.len() <= 1 << 20 && out.capacity() <= 1 << 20);
            }
            packed.truncate(cut.index(packed.len()));
            let _ = decompress(codec, &packed, 1 << 20);
        }
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..400)) {
        // Noise alone, and noise behind each codec's first bytes.
        let heads: [&[u8]; 7] = [
            b"", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01",
            b"\x04\x22\x4d\x18\x60\x40\x82", b"\x28\xb5\x2f\xfd\x00\x58", b"\x28\xb5\x2f\xfd\xe0", b"\xff\xff\xff\xff\x0f",
        ];
        for codec in CODECS {
            for head in heads {
                let bytes = [head, &noise].concat();
                if let Ok(out) = decompress(codec, &bytes, 100_000) {
                    prop_assert!(out.capacity() <= 100_000);
                }
            }
        }
    }

    #[test]
    fn any_lz4_frame_is_read(input in data(), linked: bool, size in 4..=7u8, sums: (bool, bool), sized: bool, twice: bool) {
        let block_size = match size {
            4 => BlockSize::Max64KB,
            5 => BlockSize::Max256KB,
            6 => BlockSize::Max1MB,
            _ => BlockSize::Max4MB,
        };
        let info = FrameInfo::new()
            .block_mode(if linked { BlockMode::Linked } else { BlockMode::Independent })
            .block_size(block_size)
            .block_checksums(sums.0)
            .content_checksum(sums.1)
            .content_size(sized.then_some(input.len() as u64));
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&input).unwrap();
        let mut packed = encoder.finish().unwrap();
        let mut expected = input.clone();
        if twice {
            // A skippable frame, and another frame: linked blocks do not reach back across it.
            packed.extend_from_slice(b"\x5a\x2a\x4d\x18\x03\0\0\0abc");
            packed.extend_from_slice(&pack(Compression::Lz4, None, &input));
            expected.extend_from_slice(&input);
        }
        prop_assert!(decompress(Compression::Lz4, &packed, PLENTY).unwrap() == expected);
    }

    #[test]
    fn our_lz4_frames_are_read_by_others(input in data()) {
        let mut out = Vec::new();
        FrameDecoder::new(&pack(Compression::Lz4, None, &input)[..]).read_to_end(&mut out).unwrap();
        prop_assert!(out == input);
    }
}

#[test]
fn every_cut_is_noticed() {
    let input = sample(3000, 3);
    for codec in CODECS {
        let packed = pack(codec, None, &input);
        for end in 0..packed.len() {
            match decompress(codec, &packed[..end], PLENTY) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Codec, "{codec} at {end}: {error}"),
                // The xerial framing has no end mark; a stream without blocks is the empty one.
                Ok(out) => {
                    assert!(codec == Compression::Snappy && end == 16 && out.is_empty(), "{codec} at {end}");
                }
            }
        }
        // A codec's context survives the errors before.
        assert_eq!(decompress(codec, &packed, PLENTY).unwrap(), input);
        assert_eq!(pack(codec, None, &input), packed);
    }
}

#[test]
fn bombs_are_errors() {
    let zeros = vec![0u8; 48 << 20];
    for codec in CODECS {
        let packed = pack(codec, None, &zeros);
        let error = decompress(codec, &packed, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{codec}: {error}");
        assert!(error.to_string().contains("limit of 1048576 bytes"), "{error}");
        let out = decompress(codec, &packed, zeros.len()).unwrap();
        assert!(out == zeros && out.capacity() <= zeros.len(), "{codec}");
    }
}

#[test]
fn a_false_size_reserves_little() {
    // Each claims far more than its bytes can hold.
    let lz4 = {
        let mut encoder = FrameEncoder::with_frame_info(FrameInfo::new().content_size(Some(0)), Vec::new());
        encoder.write_all(b"").unwrap();
        let mut frame = encoder.finish().unwrap();
        frame[6..14].copy_from_slice(&100_000_000u64.to_le_bytes());
        let descriptor = frame[4..14].to_vec();
        frame[14] = (twox_hash::XxHash32::oneshot(0, &descriptor) >> 8) as u8;
        frame
    };
    let claims: [(Compression, &[u8]); 3] = [
        (Compression::Lz4, &lz4),
        (Compression::Snappy, b"\x80\x80\x80\x30\x00a"),
        // Single segment, a size of 8 bytes: 100,000,000; one raw block of nothing, the last.
        (Compression::Zstd, b"\x28\xb5\x2f\xfd\xe0\x00\xe1\xf5\x05\0\0\0\0\x01\0\0"),
    ];
    for (codec, bytes) in claims {
        let error = decompress(codec, bytes, 1 << 30).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec, "{codec}: {error}");
    }
}

#[test]
fn gzip_members_and_optional_fields_are_read() {
    let mut packed = Vec::new();
    for part in [&b"one "[..], b"", b"two"] {
        let builder =
            GzBuilder::new().filename("records").comment("by another").extra(vec![1, 2, 3]).mtime(7);
        let mut encoder: GzEncoder<Vec<u8>> = builder.write(Vec::new(), flate2::Compression::best());
        encoder.write_all(part).unwrap();
        packed.extend_from_slice(&encoder.finish().unwrap());
    }
    assert_eq!(decompress(Compression::Gzip, &packed, 7).unwrap(), b"one two");
    assert_eq!(decompress(Compression::Gzip, &packed, 6).unwrap_err().kind(), ErrorKind::TooLarge);
    let last = packed.len() - 6;
    packed[last] ^= 1;
    assert_eq!(
        decompress(Compression::Gzip, &packed, 99).unwrap_err().kind(),
        ErrorKind::Codec,
        "wrong checksum"
    );
}

#[test]
fn snappy_comes_in_two_framings() {
    let input = sample(100_000, 5);
    let mut raw = snap::raw::Encoder::new();
    assert_eq!(decompress(Compression::Snappy, &raw.compress_vec(&input).unwrap(), PLENTY).unwrap(), input);

    let header = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    let mut framed = Vec::new();
    // Blocks of any size, an empty one too, and a second stream behind the first.
    for part in input.chunks(30_000) {
        framed.extend_from_slice(header);
        for block in part.chunks(17_000).chain([&[][..]]) {
            let block = raw.compress_vec(block).unwrap();
            framed.extend_from_slice(&(block.len() as u32).to_be_bytes());
            framed.extend_from_slice(&block);
        }
    }
    assert_eq!(decompress(Compression::Snappy, &framed, PLENTY).unwrap(), input);
    framed[15] = 2;
    let error = decompress(Compression::Snappy, &framed, PLENTY).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");

    // What we write begins like snappy-java's streams and has blocks of 32 KiB.
    let packed = pack(Compression::Snappy, None, &input);
    assert_eq!(&packed[..16], header);
    let first = u32::from_be_bytes(packed[16..20].try_into().unwrap()) as usize;
    assert_eq!(snap::raw::decompress_len(&packed[20..20 + first]).unwrap(), 32 * 1024);
}

#[test]
fn what_an_lz4_frame_may_not_be() {
    let reason = |bytes: &[u8]| decompress(Compression::Lz4, bytes, PLENTY).unwrap_err().to_string();
    let good = pack(Compression::Lz4, None, b"some bytes");
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        reason(&bytes)
    };
    assert!(changed(0, 0x02).contains("begin no frame"), "the legacy format");
    assert!(changed(4, 0x20).contains("another version"));
    assert!(changed(4, 0x61).contains("dictionary"));
    assert!(changed(5, 0x30).contains("block size"));
    assert!(changed(6, 0x83).contains("header's checksum"));
    assert!(
        changed(9, 0x01).contains("cut short") || changed(9, 0x01).contains("larger"),
        "a block of 64 KiB and more"
    );
    assert!(reason(&good[..good.len() - 4]).contains("cut short"), "no end mark");
    for (info, place) in [
        (FrameInfo::new().content_checksum(true), "content's checksum"),
        (FrameInfo::new().block_checksums(true), "block's checksum"),
    ] {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(b"some bytes").unwrap();
        let mut bytes = encoder.finish().unwrap();
        // The last literal, in front of the end mark and the four bytes of either checksum.
        let at = bytes.len() - 9;
        bytes[at] ^= 1;
        assert!(reason(&bytes).contains(place));
    }
}

#[test]
fn zstd_frames_of_streams_are_read() {
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};
    // The last compresses far better than any first guess of its size.
    for (size, zeros) in
        [(0, false), (1, false), (100, false), (20_000, false), (3_000_000, false), (900_000, true)]
    {
        let input = if zeros { vec![0; size] } else { sample(size, 11) };
        let mut all = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let mut expected = Vec::new();
        for (content_size, checksum) in [(false, false), (false, true), (true, true)] {
            let mut frame = Vec::new();
            let mut encoder: FrameCompressor = FrameCompressor::new(CompressionLevel::Default);
            encoder.set_content_size_flag(content_size);
            encoder.set_content_checksum(checksum);
            encoder.compress_independent_frame_into(&input, &mut frame);
            assert!(decompress(Compression::Zstd, &frame, PLENTY).unwrap() == input, "{size}");
            if checksum {
                let mut damaged = frame.clone();
                *damaged.last_mut().unwrap() ^= 1;
                let error = decompress(Compression::Zstd, &damaged, PLENTY).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
            }
            all.extend_from_slice(&frame);
            expected.extend_from_slice(&input);
        }
        assert!(decompress(Compression::Zstd, &all, PLENTY).unwrap() == expected);
        assert!(decompress(Compression::Zstd, &all, expected.len()).unwrap() == expected);
    }
}

#[test]
fn a_limit_below_the_content_is_always_told_as_such() {
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};
    for (seed, size) in [(1, 3000), (2, 150_000), (3, 400_000)] {
        for mut input in [sample(size, seed), noise(size, seed), vec![7; size]] {
            let middle = input.len() / 2;
            input[middle..middle + 200].fill(b'x');
            let mut frame = Vec::new();
            let mut encoder: FrameCompressor = FrameCompressor::new(CompressionLevel::Default);
            encoder.set_content_size_flag(false);
            encoder.compress_independent_frame_into(&input, &mut frame);
            let all = [
                (Compression::Zstd, frame),
                (Compression::Gzip, pack(Compression::Gzip, None, &input)),
                (Compression::Snappy, pack(Compression::Snappy, None, &input)),
                (Compression::Lz4, pack(Compression::Lz4, None, &input)),
            ];
            for (codec, packed) in all {
                for step in 0..300 {
                    let max = size * step / 300 + step % 7;
                    let error = decompress(codec, &packed, max.min(size - 1)).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::TooLarge, "{codec} {max} of {size}: {error}");
                }
                assert!(decompress(codec, &packed, size).unwrap() == input);
            }
        }
    }
}

#[test]
fn levels_are_checked() {
    for (codec, fine, wrong) in [
        (Compression::Gzip, vec![1, 9, -1], vec![0, 10, -2]),
        (Compression::Lz4, vec![1, 17], vec![0, 18]),
        (Compression::Zstd, vec![-131_072, 22], vec![-131_073, 23]),
        (Compression::Snappy, vec![], vec![0, 1]),
        (Compression::None, vec![], vec![1]),
    ] {
        codec.check_level(None).unwrap();
        for level in fine {
            codec.check_level(Some(level)).unwrap();
        }
        for level in wrong {
            let mut out = vec![1];
            assert_eq!(
                compress(codec, Some(level), b"x", &mut out).unwrap_err().kind(),
                ErrorKind::Unsupported
            );
            assert_eq!(out, [1]);
        }
    }
    let input = sample(200_000, 1);
    assert!(pack(Compression::Gzip, Some(9), &input).len() < pack(Compression::Gzip, Some(1), &input).len());
    assert!(pack(Compression::Zstd, Some(9), &input).len() < pack(Compression::Zstd, Some(-5), &input).len());
}

#[test]
fn names_and_numbers() {
    for codec in Compression::ALL {
        assert_eq!(codec.to_string().parse::<Compression>().unwrap(), codec);
        assert_eq!(codec.name().to_uppercase().parse::<Compression>().unwrap(), codec);
        assert_eq!(Compression::from_attributes(codec.code() | 0x78).unwrap(), codec);
    }
    assert!("brotli".parse::<Compression>().unwrap_err().to_string().contains("one of none, gzip"));
    for other in 5..8 {
        assert_eq!(Compression::from_attributes(other).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn every_level_round_trips() {
    let inputs = [Vec::new(), b"x".to_vec(), sample(70_000, 21), noise(40_000, 22), vec![0; 200_000]];
    for (codec, levels) in [
        (Compression::Gzip, (-1..=9).filter(|&level| level != 0).collect::<Vec<_>>()),
        (Compression::Lz4, (1..=17).collect()),
        (Compression::Zstd, [-131_072, -1000, -100].into_iter().chain(-7..=22).collect()),
    ] {
        let mut sizes = Vec::new();
        for &level in &levels {
            for input in &inputs {
                let packed = pack(codec, Some(level), input);
                assert!(decompress(codec, &packed, input.len()).unwrap() == *input, "{codec} {level}");
            }
            sizes.push(pack(codec, Some(level), &inputs[2]).len());
        }
        // The rule of a codec without levels: they are taken and change nothing.
        let differ = sizes.iter().any(|&size| size != sizes[0]);
        assert_eq!(differ, codec != Compression::Lz4, "{codec}: {sizes:?}");
    }
}

#[test]
fn a_used_buffer_holds_nothing_of_before() {
    let inputs = [sample(90_000, 1), Vec::new(), sample(10, 2), noise(150_000, 3), sample(3000, 4)];
    for codec in CODECS {
        let mut out = b"something else".to_vec();
        for input in &inputs {
            let packed = pack(codec, None, input);
            decompress_into(codec, &packed, PLENTY, &mut out).unwrap();
            assert!(out == *input, "{codec}");
            decompress_into(codec, &packed[1..], PLENTY, &mut out).unwrap_err();
            assert!(out.is_empty(), "{codec}: nothing after an error");
            // A buffer that is larger than the limit does not raise it.
            out.resize(200_000, 7);
            if let Some(below) = input.len().checked_sub(1) {
                let error = decompress_into(codec, &packed, below, &mut out).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TooLarge, "{codec}");
            }
            out.resize(200_000, 7);
        }
    }
}

#[test]
fn lz4_of_before_0_10_is_written_and_read() {
    let input = sample(100_000, 9);
    let ours = pack(Compression::Lz4, None, &input);
    let mut old = Vec::new();
    compress_v0(Compression::Lz4, None, &input, &mut old).unwrap();
    // KIP-57: hash of magic number and descriptor instead of the descriptor alone; nothing else differs.
    assert_eq!(
        (&ours[..7], &old[..7]),
        (&b"\x04\x22\x4d\x18\x60\x40\x82"[..], &b"\x04\x22\x4d\x18\x60\x40\x1a"[..])
    );
    assert_eq!(ours[7..], old[7..]);
    assert_eq!((twox_hash::XxHash32::oneshot(0, &old[..6]) >> 8) as u8, old[6]);

    for frame in [&ours, &old] {
        assert!(decompress_message_set(Compression::Lz4, frame, PLENTY).unwrap() == input);
    }
    let error = decompress(Compression::Lz4, &old, PLENTY).unwrap_err();
    assert!(error.to_string().contains("header's checksum"), "{error}");
    old[6] ^= 1;
    decompress_message_set(Compression::Lz4, &old, PLENTY).unwrap_err();

    // A descriptor with the content's size is hashed as a whole.
    let info = FrameInfo::new().content_size(Some(input.len() as u64));
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(&input).unwrap();
    let mut sized = encoder.finish().unwrap();
    sized[14] = (twox_hash::XxHash32::oneshot(0, &sized[..14]) >> 8) as u8;
    assert!(decompress_message_set(Compression::Lz4, &sized, PLENTY).unwrap() == input);

    // The other codecs have no such past.
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Zstd] {
        let (mut now, mut then) = (Vec::new(), Vec::new());
        compress(codec, None, &input, &mut now).unwrap();
        compress_v0(codec, None, &input, &mut then).unwrap();
        assert!(now == then && decompress_message_set(codec, &then, PLENTY).unwrap() == input, "{codec}");
    }
}

/// A stream of several parts: its codec, its name, its bytes, what they hold, and where a cut leaves a whole stream.
type Foreign = (Compression, &'static str, Vec<u8>, Vec<u8>, Vec<usize>);

/// Streams of several parts, as other encoders write them.
fn foreign() -> Vec<Foreign> {
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};
    let (one, two) = (sample(900, 31), sample(1100, 32));
    let both = [&one[..], &two].concat();
    let mut streams = Vec::new();

    let member = |part: &[u8]| {
        let builder = GzBuilder::new().filename("a").comment("b").extra(vec![1, 2, 3]);
        let mut encoder: GzEncoder<Vec<u8>> = builder.write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    let first = member(&one);
    let packed = [&first[..], &member(&two)].concat();
    streams.push((Compression::Gzip, "two members", packed, both.clone(), vec![first.len()]));

    let mut encoder = snap::raw::Encoder::new();
    let mut packed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    let mut ends = vec![packed.len()];
    for part in both.chunks(700) {
        let block = encoder.compress_vec(part).unwrap();
        packed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        packed.extend_from_slice(&block);
        ends.push(packed.len());
    }
    ends.pop();
    streams.push((Compression::Snappy, "several blocks", packed, both.clone(), ends));
    let raw = encoder.compress_vec(&both).unwrap();
    streams.push((Compression::Snappy, "a raw block", raw, both.clone(), vec![]));

    let large = sample(140_000, 33);
    for (name, info) in [
        ("linked blocks", FrameInfo::new().block_mode(BlockMode::Linked)),
        ("all checksums", FrameInfo::new().block_checksums(true).content_checksum(true)),
        ("a stated size", FrameInfo::new().content_size(Some(large.len() as u64))),
    ] {
        let info = info.block_size(BlockSize::Max64KB);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&large).unwrap();
        streams.push((Compression::Lz4, name, encoder.finish().unwrap(), large.clone(), vec![]));
    }

    let frame = |part: &[u8], size, checksum| {
        let mut frame = Vec::new();
        let mut encoder: FrameCompressor = FrameCompressor::new(CompressionLevel::Default);
        encoder.set_content_size_flag(size);
        encoder.set_content_checksum(checksum);
        encoder.compress_independent_frame_into(part, &mut frame);
        frame
    };
    let skippable = &b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..];
    let first = frame(&one, false, true);
    let packed = [&first[..], skippable, &frame(&two, true, false)].concat();
    let ends = vec![first.len(), first.len() + skippable.len()];
    streams.push((Compression::Zstd, "two frames and a skippable one", packed, both, ends));
    streams
}

#[test]
fn foreign_streams_are_read_and_no_cut_passes() {
    for (codec, name, packed, content, ends) in foreign() {
        assert!(decompress(codec, &packed, content.len()).unwrap() == content, "{codec}, {name}");
        // Every byte of a short stream; of a long one those near its ends, and a hundred elsewhere.
        let (whole, step) = (packed.len(), packed.len() / 100 + 1);
        let near = |end: usize| whole < 3000 || end < 100 || whole - end < 100 || end.is_multiple_of(step);
        for end in (0..whole).filter(|&end| near(end)) {
            match decompress(codec, &packed[..end], PLENTY) {
                Ok(part) => {
                    assert!(
                        ends.contains(&end) && content.starts_with(&part),
                        "{codec}, {name}: cut at {end}"
                    );
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Codec, "{codec}, {name}: cut at {end}: {error}");
                }
            }
        }
    }
}

#[test]
fn what_follows_the_data_is_treated_as_java_does() {
    for codec in CODECS {
        let input = sample(5000, 8);
        let packed = pack(codec, None, &input);
        for rest in [&[0u8; 5][..], b"garbage behind", &[0xff; 40]] {
            let outcome = decompress(codec, &[&packed[..], rest].concat(), PLENTY);
            match codec {
                // `GZIPInputStream` and Kafka's `Lz4BlockInputStream` stop at the end of the data.
                Compression::Gzip | Compression::Lz4 => assert!(outcome.unwrap() == input, "{codec}"),
                // `SnappyInputStream` and zstd-jni read on.
                _ => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Codec, "{codec}"),
            }
        }
    }
}
