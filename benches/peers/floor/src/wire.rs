//! A connection and the bytes on it.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

/// A blocking connection. Buffers are the caller's, and used again.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    correlation: i32,
    expected: i32,
}

impl Connection {
    pub(crate) fn open(bootstrap: &str) -> Result<Self> {
        let stream = TcpStream::connect(bootstrap).with_context(|| bootstrap.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, correlation: 0, expected: 0 })
    }

    /// A second handle of the same connection: one sends, the other reads.
    pub(crate) fn split(self) -> Result<(Self, Self)> {
        let reader = Self { stream: self.stream.try_clone()?, correlation: 0, expected: self.expected };
        Ok((self, reader))
    }

    /// Starts a request in `out`, which is emptied.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>, api: i16, version: i16) {
        out.clear();
        put_i32(out, 0);
        out.extend_from_slice(&api.to_be_bytes());
        out.extend_from_slice(&version.to_be_bytes());
        put_i32(out, self.correlation);
        put_str(out, "floor");
        self.correlation += 1;
    }

    /// Gives the finished request in `out` the next correlation id, to be sent again.
    pub(crate) fn begin_again(&mut self, out: &mut [u8]) {
        out[8..12].copy_from_slice(&self.correlation.to_be_bytes());
        self.correlation += 1;
    }

    /// Sends the request in `out`.
    pub(crate) fn send(&mut self, out: &mut [u8]) -> Result<()> {
        seal(out);
        self.stream.write_all(out).context("write")
    }

    /// Reads the next answer into `buffer`, which only grows. Returns what follows the correlation id.
    pub(crate) fn receive<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).context("read")?;
        let mut head = Reader(&head);
        let length = usize::try_from(head.i32()?)?.checked_sub(4).context("a short frame")?;
        ensure!(head.i32()? == self.expected, "an answer out of turn");
        self.expected += 1;
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let body = &mut buffer[..length];
        self.stream.read_exact(body).context("read")?;
        Ok(body)
    }
}

/// Writes the length in front.
pub(crate) fn seal(out: &mut [u8]) {
    let length = (out.len() - 4) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_str(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(&(value.len() as i16).to_be_bytes());
    out.extend_from_slice(value.as_bytes());
}

/// Reads from the front of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    #[inline(always)]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        match self.0.split_at_checked(length) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(short()),
        }
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.0.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(*taken)
            }
            None => Err(short()),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn string(&mut self) -> Result<&'a str> {
        let length = self.i16()?;
        Ok(std::str::from_utf8(self.take(usize::try_from(length.max(0))?)?)?)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.i32()?;
        self.take(usize::try_from(length.max(0))?)
    }

    /// A zigzag varint: one and two bytes at once, longer ones elsewhere.
    #[inline(always)]
    pub(crate) fn varint(&mut self) -> Result<i64> {
        match *self.0 {
            [first, ref rest @ ..] if first < 0x80 => {
                self.0 = rest;
                Ok(zigzag(u64::from(first)))
            }
            [first, second, ref rest @ ..] if second < 0x80 => {
                self.0 = rest;
                Ok(zigzag(u64::from(first & 0x7f) | u64::from(second) << 7))
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Result<i64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(zigzag(value));
            }
        }
        Err(anyhow::anyhow!("a varint without end"))
    }
}

#[inline(always)]
fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cold]
fn short() -> anyhow::Error {
    anyhow::anyhow!("the answer is cut short")
}

/// Writes a zigzag varint into `out` at `at` and returns where it ends.
#[inline(always)]
pub(crate) fn varint_at(out: &mut [u8; 64], mut at: usize, value: i64) -> usize {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out[at & 63] = value as u8 | 0x80;
        at += 1;
        value >>= 7;
    }
    out[at & 63] = value as u8;
    at + 1
}

/// The bytes of a zigzag varint.
#[inline(always)]
pub(crate) fn varint_length(value: i64) -> usize {
    let value = ((value << 1) ^ (value >> 63)) as u64;
    (70 - (value | 1).leading_zeros() as usize) / 7
}
