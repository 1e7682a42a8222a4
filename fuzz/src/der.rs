//! A few lines of DER for the targets that play a KDC or a broker.

fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag, 0x84];
    bytes.extend((contents.len() as u32).to_be_bytes());
    bytes.extend(contents);
    bytes
}

pub fn application(number: u8, contents: Vec<u8>) -> Vec<u8> {
    element(0x60 | number, &contents)
}

pub fn field(number: u8, contents: Vec<u8>) -> Vec<u8> {
    element(0xa0 | number, &contents)
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

pub fn integer(value: u8) -> Vec<u8> {
    element(2, &[value & 0x7f])
}

pub fn octets(bytes: &[u8]) -> Vec<u8> {
    element(4, bytes)
}

pub fn string(text: &str) -> Vec<u8> {
    element(0x1b, text.as_bytes())
}

pub fn object_id(bytes: &[u8]) -> Vec<u8> {
    element(6, bytes)
}

pub fn time(text: &str) -> Vec<u8> {
    element(0x18, text.as_bytes())
}
