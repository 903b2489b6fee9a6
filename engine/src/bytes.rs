//! Numbers as little-endian byte strings, for what a checkpoint keeps.

macro_rules! number_bytes {
    ($module:ident, $number:ty, $doc:literal) => {
        #[doc = $doc]
        pub(crate) mod $module {
            use serde::{Deserialize, Deserializer, Serializer, de::Error};
            use serde_bytes::ByteBuf;

            pub(crate) fn serialize<S: Serializer>(
                values: &[$number],
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                serializer.serialize_bytes(&bytes)
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Vec<$number>, D::Error> {
                let bytes = ByteBuf::deserialize(deserializer)?;
                let (numbers, rest) = bytes.as_chunks::<{ size_of::<$number>() }>();
                if !rest.is_empty() {
                    return Err(D::Error::custom("a byte string that ends inside a number"));
                }
                Ok(numbers.iter().map(|bytes| <$number>::from_le_bytes(*bytes)).collect())
            }
        }
    };
}

number_bytes!(doubles, f64, "64-bit floats.");
number_bytes!(floats, f32, "32-bit floats.");
number_bytes!(times, i64, "64-bit integers.");
