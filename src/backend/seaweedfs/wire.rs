//! Protocol Buffers, as far as the few messages of [`super::metadata`] need them.
//!
//! What is read is kept as the bytes that came, and a change is appended to them: parsers merge what is said twice, with
//! the later word winning (protobuf.dev, "Encoding", "Last One Wins"). So a field that this program does not know is
//! never lost in a round trip.

/// A message that is being written.
#[derive(Debug, Default, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// An empty message.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// One that goes on from what was read.
    pub(super) fn from_read(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Adds text, bytes, or a message that is written already.
    pub(super) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Adds text.
    pub(super) fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    /// Adds a number of any of the plain types (`int64`, `uint32`, `bool`, an enumeration).
    pub(super) fn number(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// Adds a message.
    pub(super) fn message(self, field: u32, value: Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// Adds an entry of a `map<string, bytes>`.
    pub(super) fn pair(self, field: u32, key: &str, value: &[u8]) -> Self {
        self.message(field, Self::new().text(1, key).bytes(2, value))
    }

    /// What was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Of a plain type.
    Number(u64),
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
    /// Of a type with a fixed width, which no field has that is asked for here.
    Fixed,
}

/// What was read is no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the answer is not the message that belongs there")]
pub(super) struct Malformed;

/// The fields of a message, in their order.
///
/// # Errors
/// [`Malformed`].
pub(super) fn fields(mut bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = read_varint(&mut bytes)?;
        let field = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            0 => Value::Number(read_varint(&mut bytes)?),
            1 => take(&mut bytes, 8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)?).map_err(|_| Malformed)?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            5 => take(&mut bytes, 4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed),
        };
        found.push((field, value));
    }
    Ok(found)
}

/// The last value of a field of bytes; empty where it is not said, as Protocol Buffers have it.
///
/// # Errors
/// [`Malformed`].
pub(super) fn bytes_of(message: &[u8], field: u32) -> Result<&[u8], Malformed> {
    let last = fields(message)?.into_iter().rev().find_map(|(number, value)| match value {
        Value::Bytes(bytes) if number == field => Some(bytes),
        _ => None,
    });
    Ok(last.unwrap_or_default())
}

/// The last value of a field of a plain type; 0 where it is not said.
///
/// # Errors
/// [`Malformed`].
pub(super) fn number_of(message: &[u8], field: u32) -> Result<u64, Malformed> {
    let last = fields(message)?.into_iter().rev().find_map(|(number, value)| match value {
        Value::Number(value) if number == field => Some(value),
        _ => None,
    });
    Ok(last.unwrap_or_default())
}

/// The value of a key in a `map<string, bytes>`.
///
/// # Errors
/// [`Malformed`].
pub(super) fn pair_of<'a>(message: &'a [u8], field: u32, key: &str) -> Result<Option<&'a [u8]>, Malformed> {
    for (number, value) in fields(message)?.into_iter().rev() {
        let Value::Bytes(pair) = value else { continue };
        if number == field && bytes_of(pair, 1)? == key.as_bytes() {
            return bytes_of(pair, 2).map(Some);
        }
    }
    Ok(None)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    // The longest has ten bytes.
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_written_as_its_specification_shows() {
        // protobuf.dev, "Encoding": `a: 150` of field 1, and `b: "testing"` of field 2.
        let written = Message::new().number(1, 150).text(2, "testing").into_bytes();
        assert_eq!(written, [&[0x08, 0x96, 0x01, 0x12, 0x07][..], b"testing"].concat());
        assert_eq!(fields(&written), Ok(vec![(1, Value::Number(150)), (2, Value::Bytes(b"testing"))]));
    }

    #[test]
    fn what_is_appended_wins_and_what_is_not_known_stays() {
        let read = Message::new().number(99, 7).text(9, "old").pair(5, "key", b"old").into_bytes();
        let changed = Message::from_read(&read).text(9, "new").pair(5, "key", b"new").into_bytes();
        assert_eq!(bytes_of(&changed, 9), Ok(&b"new"[..]));
        assert_eq!(pair_of(&changed, 5, "key"), Ok(Some(&b"new"[..])));
        assert_eq!(pair_of(&changed, 5, "other"), Ok(None));
        assert_eq!(number_of(&changed, 99), Ok(7));
    }

    proptest! {
        #[test]
        fn no_answer_of_a_server_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = fields(&bytes);
            let _ = pair_of(&bytes, 5, "key");
        }

        #[test]
        fn a_number_is_read_as_it_was_written(number in any::<u64>(), field in 1_u32..1000) {
            let written = Message::new().number(field, number).into_bytes();
            prop_assert_eq!(number_of(&written, field), Ok(number));
        }
    }
}
