//! Record batches of format 2: written and read with nothing kept.

use anyhow::{Context, Result, ensure};
use contract::{Codec, HEADER_NAMES, Meter, Shape, Values};
use structured_zstd::decoding::FrameDecoder as ZstdDecoder;
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

use crate::wire::{Reader, put_i32, put_i64, varint_at, varint_length};

/// How much of the work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The bytes are moved.
    Raw,
    /// And their checksums made or verified.
    Crc,
    /// And records encoded or walked, and compressed or decompressed.
    Full,
}

impl Stage {
    pub(crate) fn parse(mode: &str) -> Result<Self> {
        match mode {
            "raw" => Ok(Self::Raw),
            "crc" => Ok(Self::Crc),
            "full" | "" => Ok(Self::Full),
            _ => anyhow::bail!("the floor has the stages raw, crc and full, not {mode:?}"),
        }
    }
}

/// Before the records: base offset, length, leader epoch, magic, CRC, attributes, last delta, two times, producer, count.
const HEAD: usize = 61;

/// The attribute of a batch that is no data: the marker at the end of a transaction.
const CONTROL: i16 = 1 << 5;

/// The state of the codecs, made once.
pub(crate) struct Codecs {
    codec: Codec,
    plain: Vec<u8>,
    packed: Vec<u8>,
    compressor: FrameCompressor,
    decoder: ZstdDecoder,
}

impl Codecs {
    pub(crate) fn new(codec: Codec) -> Self {
        Self {
            codec,
            plain: Vec::new(),
            packed: Vec::new(),
            compressor: FrameCompressor::new(CompressionLevel::from_level(3)),
            decoder: ZstdDecoder::new(),
        }
    }

    /// Appends a batch of `records` values to `out`.
    pub(crate) fn write(
        &mut self,
        out: &mut Vec<u8>,
        values: &mut Values,
        records: u64,
        shape: Shape,
        now: i64,
    ) -> Result<()> {
        let start = out.len();
        out.resize(start + HEAD, 0);
        if self.codec == Codec::None {
            write_records(out, values, records, shape);
        } else {
            self.plain.clear();
            write_records(&mut self.plain, values, records, shape);
            self.compress(out)?;
        }
        self.write_head(out, start, records, now);
        Ok(())
    }

    /// Appends a batch of one record without key.
    pub(crate) fn write_one(&mut self, out: &mut Vec<u8>, value: &[u8], now: i64) {
        let start = out.len();
        out.resize(start + HEAD, 0);
        write_plain(out, 0, value);
        self.write_head(out, start, 1, now);
    }

    fn write_head(&self, out: &mut [u8], start: usize, records: u64, now: i64) {
        let attributes: i16 = match self.codec {
            Codec::None => 0,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        };
        let mut head = Vec::with_capacity(HEAD);
        put_i64(&mut head, 0);
        put_i32(&mut head, (out.len() - start - 12) as i32);
        put_i32(&mut head, -1);
        head.push(2);
        put_i32(&mut head, 0);
        head.extend_from_slice(&attributes.to_be_bytes());
        put_i32(&mut head, records as i32 - 1);
        put_i64(&mut head, now);
        put_i64(&mut head, now);
        put_i64(&mut head, -1);
        head.extend_from_slice(&(-1_i16).to_be_bytes());
        put_i32(&mut head, -1);
        put_i32(&mut head, records as i32);
        out[start..start + HEAD].copy_from_slice(&head);
        stamp_crc(&mut out[start..]);
    }

    fn compress(&mut self, out: &mut Vec<u8>) -> Result<()> {
        use std::io::Write;

        match self.codec {
            Codec::None => out.extend_from_slice(&self.plain),
            Codec::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
                encoder.write_all(&self.plain)?;
                encoder.finish()?;
            }
            Codec::Zstd => {
                self.compressor.compress_independent_frame_into(&self.plain, &mut self.packed);
                out.extend_from_slice(&self.packed);
            }
        }
        Ok(())
    }

    /// Reads a partition's batches, in the floor's stage; `full` gives every record to the meter. Returns the next offset.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        stage: Stage,
        shape: Shape,
        meter: &mut Meter,
    ) -> Result<Option<i64>> {
        let mut rest = bytes;
        let mut next = None;
        while let Some((head, _)) = rest.split_first_chunk::<HEAD>() {
            let mut reader = Reader(head);
            let base = reader.i64()?;
            let length = usize::try_from(reader.i32()?)? + 12;
            // A broker cuts the last batch at the limit.
            let Some((batch, behind)) = rest.split_at_checked(length) else { break };
            rest = behind;
            reader.take(5)?;
            let crc = reader.i32()? as u32;
            let attributes = reader.i16()?;
            next = Some(base + i64::from(reader.i32()?) + 1);
            let count = u32::from_be_bytes(head[57..61].try_into()?);
            if stage != Stage::Raw {
                ensure!(crc32c::crc32c(&batch[21..]) == crc, "the CRC of the batch at {base}");
            }
            if attributes & CONTROL != 0 {
                continue;
            }
            if stage != Stage::Full {
                meter.skip(u64::from(count));
                continue;
            }
            let body = &batch[HEAD..];
            match attributes & 7 {
                0 => read_records(body, count, shape, meter)?,
                codec => {
                    self.decompress(codec, body)?;
                    read_records(&self.plain, count, shape, meter)?;
                }
            }
        }
        Ok(next)
    }

    fn decompress(&mut self, codec: i16, body: &[u8]) -> Result<()> {
        use std::io::Read;

        match codec {
            3 => {
                self.plain.clear();
                lz4_flex::frame::FrameDecoder::new(body).read_to_end(&mut self.plain).context("lz4")?;
            }
            4 => {
                // The frames of the floor's own topics say how large they are; a guess grows once.
                let guess = self.plain.capacity().max(body.len() * 8);
                self.plain.resize(guess, 0);
                let written = loop {
                    match self.decoder.decode_all(body, &mut self.plain) {
                        Ok(written) => break written,
                        Err(_) if self.plain.len() < 64 << 20 => self.plain.resize(self.plain.len() * 2, 0),
                        Err(error) => anyhow::bail!("zstd: {error:?}"),
                    }
                };
                self.plain.truncate(written);
            }
            other => anyhow::bail!("codec {other}"),
        }
        Ok(())
    }
}

/// Writes the checksum of a batch into its head.
pub(crate) fn stamp_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn write_records(out: &mut Vec<u8>, values: &mut Values, records: u64, shape: Shape) {
    for delta in 0..records as i64 {
        let value = values.next_value();
        if shape == Shape::Keys {
            write_keyed(out, delta, value);
        } else {
            write_plain(out, delta, value);
        }
    }
}

#[inline(always)]
fn write_plain(out: &mut Vec<u8>, delta: i64, value: &[u8]) {
    let size = value.len() as i64;
    // Attributes, time 0, offset, no key, value, no headers.
    let length = 4 + varint_length(delta) + varint_length(size) + value.len();
    let mut head = [0; 64];
    let mut at = varint_at(&mut head, 0, length as i64);
    at = varint_at(&mut head, at + 2, delta);
    at = varint_at(&mut head, at, -1);
    at = varint_at(&mut head, at, size);
    out.extend_from_slice(&head[..at & 63]);
    out.extend_from_slice(value);
    out.push(0);
}

fn write_keyed(out: &mut Vec<u8>, delta: i64, value: &[u8]) {
    let key = Values::key(value);
    let headers = Values::headers(value);
    let heads: usize = HEADER_NAMES.iter().map(|name| 1 + name.len() + 1 + 8).sum();
    let size = value.len() as i64;
    let length = 3 + varint_length(delta) + 1 + key.len() + varint_length(size) + value.len() + heads;
    let mut head = [0; 64];
    let mut at = varint_at(&mut head, 0, length as i64);
    at = varint_at(&mut head, at + 2, delta);
    at = varint_at(&mut head, at, key.len() as i64);
    out.extend_from_slice(&head[..at & 63]);
    out.extend_from_slice(key);
    let at = varint_at(&mut head, 0, size);
    out.extend_from_slice(&head[..at & 63]);
    out.extend_from_slice(value);
    out.push(6);
    for (name, header) in headers {
        out.push(name.len() as u8 * 2);
        out.extend_from_slice(name.as_bytes());
        out.push(16);
        out.extend_from_slice(header);
    }
}

fn read_records(body: &[u8], count: u32, shape: Shape, meter: &mut Meter) -> Result<()> {
    let mut reader = Reader(body);
    for _ in 0..count {
        let length = reader.varint()?;
        let mut record = Reader(reader.take(length as usize)?);
        record.take(1)?;
        record.varint()?;
        record.varint()?;
        let key = field(&mut record)?;
        let value = field(&mut record)?.context("a record without value")?;
        if shape == Shape::Keys {
            read_keyed(&mut record, key, meter)?;
        }
        meter.value(value);
    }
    ensure!(reader.0.is_empty(), "bytes behind the last record");
    Ok(())
}

fn read_keyed(record: &mut Reader<'_>, key: Option<&[u8]>, meter: &mut Meter) -> Result<()> {
    meter.part(key.context("a record without key")?);
    let headers = record.varint()?;
    for _ in 0..headers {
        meter.name(field(record)?.context("a header without name")?);
        meter.part(field(record)?.context("a header without value")?);
    }
    Ok(())
}

#[inline(always)]
fn field<'a>(record: &mut Reader<'a>) -> Result<Option<&'a [u8]>> {
    let length = record.varint()?;
    if length < 0 { Ok(None) } else { record.take(length as usize).map(Some) }
}

/// Calls `f` with each value in a partition's batches, which are not compressed.
pub(crate) fn for_each_value(bytes: &[u8], mut f: impl FnMut(&[u8])) -> Result<()> {
    let mut rest = Reader(bytes);
    while rest.0.len() >= HEAD {
        rest.take(8)?;
        let length = usize::try_from(rest.i32()?)?;
        // A broker cuts the last batch at the limit.
        let Ok(batch) = rest.take(length) else { break };
        let mut records = Reader(batch.get(HEAD - 12..).context("a short batch")?);
        while !records.0.is_empty() {
            let length = records.varint()?;
            let mut record = Reader(records.take(length as usize)?);
            record.take(1)?;
            record.varint()?;
            record.varint()?;
            field(&mut record)?;
            f(field(&mut record)?.context("a record without value")?);
        }
    }
    Ok(())
}
