//! Splits MessagePack into tokens.

use rmp::Marker;

use crate::protocol::DecodeError;

/// A reader of MessagePack.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A scalar, or the beginning of an array or a map.
#[derive(Clone, Copy)]
pub(super) enum Token<'a> {
    Nil,
    Undefined,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// Milliseconds since 1970.
    Date(i64),
    Extension(i8, &'a [u8]),
    Array(u32),
    Map(u32),
}

impl<'a> Reader<'a> {
    pub(super) const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Returns the bytes that were not read yet.
    #[cfg(feature = "msgpack")]
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    // Inlined, the token of a small value is never stored.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Token<'a>, DecodeError> {
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Token::Nil,
            Marker::False => Token::Bool(false),
            Marker::True => Token::Bool(true),
            Marker::FixPos(number) => Token::Unsigned(number.into()),
            Marker::FixNeg(number) => Token::Signed(number.into()),
            Marker::U8 => Token::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Token::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Token::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Self::integer(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Self::integer(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Self::integer(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Self::integer(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(len) => Token::Text(self.split(len.into())?),
            Marker::Str8 => Token::Text(self.sized::<1>()?),
            Marker::Str16 => Token::Text(self.sized::<2>()?),
            Marker::Str32 => Token::Text(self.sized::<4>()?),
            Marker::Bin8 => Token::Bytes(self.sized::<1>()?),
            Marker::Bin16 => Token::Bytes(self.sized::<2>()?),
            Marker::Bin32 => Token::Bytes(self.sized::<4>()?),
            Marker::FixArray(len) => Token::Array(len.into()),
            Marker::Array16 => Token::Array(self.len::<2>()?),
            Marker::Array32 => Token::Array(self.len::<4>()?),
            Marker::FixMap(len) => Token::Map(len.into()),
            Marker::Map16 => Token::Map(self.len::<2>()?),
            Marker::Map32 => Token::Map(self.len::<4>()?),
            Marker::FixExt1 => match self.extension(1)? {
                (0, _) => Token::Undefined,
                (kind, data) => Token::Extension(kind, data),
            },
            Marker::FixExt8 => match self.extension(8)? {
                (0, &[a, b, c, d, e, f, g, h]) => {
                    Token::Date(i64::from_be_bytes([a, b, c, d, e, f, g, h]))
                }
                (kind, data) => Token::Extension(kind, data),
            },
            Marker::FixExt2 => self.fixed_extension(2)?,
            Marker::FixExt4 => self.fixed_extension(4)?,
            Marker::FixExt16 => self.fixed_extension(16)?,
            Marker::Ext8 => self.sized_extension::<1>()?,
            Marker::Ext16 => self.sized_extension::<2>()?,
            Marker::Ext32 => self.sized_extension::<4>()?,
            Marker::Reserved => return Err(DecodeError::new("message is not MessagePack")),
        })
    }

    /// Steps over the elements of the array or map that a token begins, at any depth. The elements
    /// are counted, so that depth costs nothing.
    #[cfg(feature = "msgpack")]
    pub(super) fn skip_rest(&mut self, token: Token<'_>) -> Result<(), DecodeError> {
        let mut left = token.values();
        while left > 0 {
            left += self.next()?.values();
            left -= 1;
        }
        Ok(())
    }

    const fn integer(number: i64) -> Token<'a> {
        if number < 0 {
            return Token::Signed(number);
        }
        Token::Unsigned(number.unsigned_abs())
    }

    fn fixed_extension(&mut self, len: usize) -> Result<Token<'a>, DecodeError> {
        let (kind, data) = self.extension(len)?;
        Ok(Token::Extension(kind, data))
    }

    /// Reads an extension after its marker: its length of `N` bytes, its type and its data. An
    /// extension of type 0 is an `ArrayBuffer`.
    fn sized_extension<const N: usize>(&mut self) -> Result<Token<'a>, DecodeError> {
        let len = self.len::<N>()? as usize;
        Ok(match self.extension(len)? {
            (0, data) => Token::Bytes(data),
            (kind, data) => Token::Extension(kind, data),
        })
    }

    fn extension(&mut self, len: usize) -> Result<(i8, &'a [u8]), DecodeError> {
        let kind = i8::from_be_bytes(self.array()?);
        Ok((kind, self.split(len)?))
    }

    /// Reads a length of `N` bytes, and as many bytes.
    fn sized<const N: usize>(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.len::<N>()?;
        self.split(len as usize)
    }

    fn len<const N: usize>(&mut self) -> Result<u32, DecodeError> {
        let bytes: [u8; N] = self.array()?;
        Ok(bytes
            .iter()
            .fold(0, |len, &byte| len << 8 | u32::from(byte)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*array)
    }

    fn split(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(bytes)
    }
}

impl Token<'_> {
    /// Returns the number of values in the array or map, including its keys.
    pub(super) const fn values(self) -> u64 {
        match self {
            Self::Array(len) => len as u64,
            Self::Map(len) => 2 * len as u64,
            _ => 0,
        }
    }
}

const TRUNCATED: DecodeError = DecodeError::new("message ends too early");
