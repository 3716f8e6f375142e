//! [`Message`]: protobuf, as far as traces and profiles need it.

/// The wire type of a field.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;

/// A protobuf message that is being written.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The lowest seven bits, and that more follow.
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    pub(crate) fn number(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    /// A repeated field of numbers.
    pub(crate) fn numbers(&mut self, field: u64, values: impl IntoIterator<Item = u64>) {
        let mut packed = Self::default();
        values.into_iter().for_each(|value| packed.varint(value));
        self.message(field, packed);
    }

    pub(crate) fn fixed64(&mut self, field: u64, value: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn message(&mut self, field: u64, message: Self) {
        self.bytes(field, &message.0);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lengths_are_those_of_protobuf() {
        let mut message = Message::default();
        message.number(1, 150);
        message.bytes(2, b"testing");
        message.fixed64(3, 1);
        // The examples of the encoding's documentation.
        assert_eq!(&message.0[..3], [0x08, 0x96, 0x01]);
        assert_eq!(&message.0[3..12], b"\x12\x07testing");
        assert_eq!(&message.0[12..], [0x19, 1, 0, 0, 0, 0, 0, 0, 0]);
        let mut packed = Message::default();
        packed.numbers(6, [3, 270, 86942]);
        assert_eq!(packed.into_bytes(), [0x32, 6, 0x03, 0x8e, 0x02, 0x9e, 0xa7, 0x05]);
    }
}
