//! The protobuf wire format over borrowed slices: fields are found and written, messages are never decoded.
//!
//! Reading is one flat walk a message (nested messages are walked only when asked for), so nothing from outside
//! decides a recursion depth, and every length is checked against the bytes that are there.

/// How a field's value is laid out on the wire. Groups (3, 4) are not used by Kubernetes and are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little endian.
    Fixed64([u8; 8]),
    /// Wire type 2: a string, bytes or a message.
    Bytes(&'a [u8]),
    /// Wire type 5, little endian.
    Fixed32([u8; 4]),
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The field's number, 1..=2^29-1.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// The whole record as it stood in the message: tag, length and value.
    pub record: &'a [u8],
}

impl<'a> Field<'a> {
    /// The value of a length-delimited field.
    ///
    /// # Errors
    /// When the field is of another wire type.
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::NotBytes { field: self.number }),
        }
    }

    /// The value of a string field.
    ///
    /// # Errors
    /// When the field is not length-delimited or not UTF-8.
    pub fn string(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::NotUtf8 { field: self.number })
    }
}

/// Why bytes are not the protobuf message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends inside a tag, a length or a value.
    #[error("truncated protobuf: the message ends inside the field that begins at byte {at}")]
    Truncated {
        /// Where the field begins, in bytes from the start of its message.
        at: usize,
    },
    /// A variable-length integer of more than 64 bits.
    #[error("malformed protobuf: an over-long integer in the field that begins at byte {at}")]
    Varint {
        /// Where the field begins, in bytes from the start of its message.
        at: usize,
    },
    /// A field number of 0 or above 2^29-1, or a wire type that is unknown or a group.
    #[error("malformed protobuf: tag {tag:#x} at byte {at} is not a usable field")]
    Tag {
        /// Where the tag stands.
        at: usize,
        /// The tag as read.
        tag: u64,
    },
    /// A field that must be a string or a message has another wire type.
    #[error("protobuf field {field} is not length-delimited")]
    NotBytes {
        /// The field's number.
        field: u32,
    },
    /// A string field that is not UTF-8.
    #[error("protobuf field {field} is not UTF-8")]
    NotUtf8 {
        /// The field's number.
        field: u32,
    },
}

const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// Iterator over the fields of one message. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

/// The fields of `message`, in the order they stand there.
#[must_use]
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { message, at: 0 }
}

/// The last field with this number in `message` (protobuf's rule for singular fields); `None` when there is none.
///
/// # Errors
/// When the message is malformed.
pub fn last(message: &[u8], number: u32) -> Result<Option<Field<'_>>, WireError> {
    let mut found = None;
    for field in fields(message) {
        let field = field?;
        if field.number == number {
            found = Some(field);
        }
    }
    Ok(found)
}

impl<'a> Fields<'a> {
    fn varint(&mut self, start: usize) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.message.get(self.at) else {
                return Err(WireError::Truncated { at: start });
            };
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Varint { at: start })
    }

    fn take(&mut self, length: u64, start: usize) -> Result<&'a [u8], WireError> {
        let rest = &self.message[self.at..];
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
        let length = length.ok_or(WireError::Truncated { at: start })?;
        self.at += length;
        Ok(&rest[..length])
    }

    fn take_fixed<const N: usize>(&mut self, start: usize) -> Result<[u8; N], WireError> {
        let bytes = self.take(N as u64, start)?;
        Ok(bytes.try_into().expect("take returns as many bytes as asked for"))
    }

    fn step(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.at;
        let tag = self.varint(start)?;
        let bad_tag = WireError::Tag { at: start, tag };
        let number = tag >> 3;
        if number == 0 || number > MAX_FIELD_NUMBER {
            return Err(bad_tag);
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(start)?),
            1 => Value::Fixed64(self.take_fixed(start)?),
            2 => {
                let length = self.varint(start)?;
                Value::Bytes(self.take(length, start)?)
            }
            5 => Value::Fixed32(self.take_fixed(start)?),
            _ => return Err(bad_tag),
        };
        let number = u32::try_from(number).map_err(|_| bad_tag)?;
        Ok(Field { number, value, record: &self.message[start..self.at] })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.at = self.message.len();
        }
        Some(step)
    }
}

/// The integers of a packed list: one after another, without tags. Ends after the first error.
pub fn packed_varints(packed: &[u8]) -> impl Iterator<Item = Result<u64, WireError>> {
    let mut rest = fields(packed);
    std::iter::from_fn(move || {
        let start = rest.at;
        if start >= packed.len() {
            return None;
        }
        let value = rest.varint(start);
        if value.is_err() {
            rest.at = packed.len();
        }
        Some(value)
    })
}

/// Bytes that [`put_varint`] writes for this value.
#[must_use]
pub fn varint_length(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Bytes that [`put_bytes`] writes for a value of `length` bytes in field `number`.
#[must_use]
pub fn bytes_field_length(number: u32, length: usize) -> usize {
    varint_length(u64::from(number) << 3) + varint_length(length as u64) + length
}

/// Appends a variable-length integer.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends the tag and the length of a length-delimited field; its `length` bytes follow.
pub fn put_bytes_head(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, length as u64);
}

/// Appends a whole length-delimited field: a string, bytes or an encoded message.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_bytes_head(out, number, value.len());
    out.extend_from_slice(value);
}

/// Appends a whole integer field.
pub fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<Field<'_>>, WireError> {
        fields(message).collect()
    }

    #[test]
    fn varints_are_as_long_as_announced() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_length(value), "{value}");
            let mut message = Vec::new();
            put_varint_field(&mut message, 1, value);
            assert_eq!(read(&message).expect("a field")[0].value, Value::Varint(value));
        }
    }

    #[test]
    fn every_malformed_field_is_named() {
        let cases: [(&[u8], WireError); 7] = [
            (b"\x0a", WireError::Truncated { at: 0 }),
            (b"\x0a\0\x0a\x02a", WireError::Truncated { at: 2 }),
            (b"\x0d\0\0\0", WireError::Truncated { at: 0 }),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", WireError::Truncated { at: 0 }),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", WireError::Varint { at: 0 }),
            (b"\x02\0", WireError::Tag { at: 0, tag: 2 }),
            (b"\x0b", WireError::Tag { at: 0, tag: 11 }),
        ];
        for (message, error) in cases {
            assert_eq!(read(message), Err(error));
        }
    }

    #[test]
    fn the_last_of_a_singular_field_counts() {
        let mut message = Vec::new();
        put_bytes(&mut message, 2, b"first");
        put_bytes(&mut message, 2, b"second");
        assert_eq!(last(&message, 2).expect("well formed").map(|field| field.string()), Some(Ok("second")));
        assert_eq!(last(&message, 3), Ok(None));
    }
}
