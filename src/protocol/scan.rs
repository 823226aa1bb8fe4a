//! Scans JSON without deserializing it: checks that it is valid, and finds positions in it.
//!
//! serde_json can skip a value too, but it allocates for nested values, does not bound their depth,
//! reports no positions, and builds an error that is not used. The scanner needs one pass and does
//! not allocate, at any depth: the open brackets are bits of a number.

use std::borrow::Cow;

use super::DecodeError;

/// The maximum depth of nested arrays and objects, which is that of serde_json.
pub(super) const MAX_DEPTH: u32 = 127;

/// The reason why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    Syntax,
    Depth,
}

impl From<Invalid> for DecodeError {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Syntax => Self::new("payload is not valid JSON"),
            Invalid::Depth => Self::limit("payload is nested too deeply"),
        }
    }
}

/// A position in a JSON text, which moves forward.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
    /// Whether a string had the escape of a surrogate, alone or in a pair.
    has_surrogates: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8], at: usize) -> Self {
        Self {
            text,
            at,
            has_surrogates: false,
        }
    }

    /// Returns whether a string so far has the escape of a surrogate.
    pub(super) fn has_surrogates(&self) -> bool {
        self.has_surrogates
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Steps over white space, and returns the next byte.
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                next => return next.copied(),
            }
        }
    }

    /// Steps over white space and one byte, and returns the byte.
    pub(super) fn next(&mut self) -> Option<u8> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    /// Steps over one value of any kind.
    pub(super) fn value(&mut self) -> Result<(), Invalid> {
        let mut open = OpenBrackets::default();
        self.begin(&mut open)?;
        self.finish(open)
    }

    /// Steps over the rest of an array, from the end of one of its values.
    pub(super) fn rest_of_array(&mut self) -> Result<(), Invalid> {
        self.finish(OpenBrackets::ARRAY)
    }

    /// Steps over the rest of a string, after its opening quote. Returns whether it has escapes.
    pub(super) fn string(&mut self) -> Result<bool, Invalid> {
        let mut escaped = false;
        loop {
            self.skip_plain();
            match self.byte() {
                Some(b'"') => return Ok(escaped),
                Some(b'\\') => self.escape()?,
                // A control character, or the end.
                _ => return Err(Invalid::Syntax),
            }
            escaped = true;
        }
    }

    /// Steps over the rest of a number, after its `first` byte.
    pub(super) fn number(&mut self, first: u8) -> Result<(), Invalid> {
        let first = match first {
            b'-' => self.byte().ok_or(Invalid::Syntax)?,
            first => first,
        };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.at += self.count_digits(),
            _ => return Err(Invalid::Syntax),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Returns the end of the value. Fails if anything but white space follows.
    pub(super) fn end(&mut self) -> Result<usize, Invalid> {
        let end = self.at;
        self.peek().map_or(Ok(end), |_| Err(Invalid::Syntax))
    }

    /// Steps over a scalar, or over the opening brackets up to the first scalar in them.
    fn begin(&mut self, open: &mut OpenBrackets) -> Result<(), Invalid> {
        loop {
            match self.next().ok_or(Invalid::Syntax)? {
                b'"' => return self.string().map(drop),
                b't' => return self.literal(b"rue"),
                b'f' => return self.literal(b"alse"),
                b'n' => return self.literal(b"ull"),
                b'[' => open.push(false)?,
                b'{' => open.push(true)?,
                first => return self.number(first),
            }
            if self.peek() == Some(open.bracket()) {
                // `finish` closes an empty array or object.
                return Ok(());
            }
            if open.in_object() {
                self.key()?;
            }
        }
    }

    /// Steps over the rest of all open arrays and objects, from the end of a value.
    fn finish(&mut self, mut open: OpenBrackets) -> Result<(), Invalid> {
        while open.depth > 0 {
            match self.next() {
                Some(b',') => {
                    if open.in_object() {
                        self.key()?;
                    }
                    self.begin(&mut open)?;
                }
                Some(bracket) if bracket == open.bracket() => open.pop(),
                _ => return Err(Invalid::Syntax),
            }
        }
        Ok(())
    }

    /// Steps over a key and its colon.
    fn key(&mut self) -> Result<(), Invalid> {
        self.expect(b'"')?;
        self.string()?;
        self.expect(b':')
    }

    pub(super) fn expect(&mut self, wanted: u8) -> Result<(), Invalid> {
        match self.next() {
            Some(byte) if byte == wanted => Ok(()),
            _ => Err(Invalid::Syntax),
        }
    }

    pub(super) fn literal(&mut self, rest: &[u8]) -> Result<(), Invalid> {
        if !self.text[self.at..].starts_with(rest) {
            return Err(Invalid::Syntax);
        }
        self.at += rest.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Invalid> {
        let count = self.count_digits();
        self.at += count;
        if count == 0 {
            return Err(Invalid::Syntax);
        }
        Ok(())
    }

    fn count_digits(&self) -> usize {
        let rest = &self.text[self.at..];
        rest.iter().take_while(|b| b.is_ascii_digit()).count()
    }

    fn escape(&mut self) -> Result<(), Invalid> {
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => self.hex(),
            _ => Err(Invalid::Syntax),
        }
    }

    fn hex(&mut self) -> Result<(), Invalid> {
        match self.text[self.at..].first_chunk::<4>() {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {
                self.has_surrogates |= matches!(digits, [b'd' | b'D', b'8'..=b'f', ..]);
                self.at += digits.len();
                Ok(())
            }
            _ => Err(Invalid::Syntax),
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Steps over the bytes of a string up to a quote, a backslash or a control character: sixteen
    /// at a time, then eight.
    fn skip_plain(&mut self) {
        while let Some(block) = self.text[self.at..].first_chunk::<16>() {
            // Without branches, so that the bytes are compared together.
            let special = |byte| u8::from((byte == b'"') | (byte == b'\\') | (byte < 0x20));
            if block.iter().fold(0, |any, byte| any | special(*byte)) != 0 {
                break;
            }
            self.at += block.len();
        }
        while let Some(eight) = self.text[self.at..].first_chunk() {
            let special = special(u64::from_le_bytes(*eight));
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += eight.len();
        }
        let rest = &self.text[self.at..];
        let plain = |byte: &&u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
        self.at += rest.iter().take_while(plain).count();
    }
}

/// Returns eight bytes with the high bit set where `bytes` has a quote, a backslash or a control
/// character. Bits above the lowest set bit may be wrong, because the subtractions borrow.
const fn special(bytes: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;

    let quote = bytes ^ (ONES * b'"' as u64);
    let backslash = bytes ^ (ONES * b'\\' as u64);
    let control = bytes.wrapping_sub(ONES * 0x20) & !bytes;
    let found =
        control | (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    found & (ONES << 7)
}

/// Replaces each lone surrogate by U+FFFD, whose escape has the same length.
///
/// A JavaScript string may begin or end within a surrogate pair. `JSON.stringify` writes such a
/// lone surrogate as an escape. A Rust string cannot hold it, and serde_json refuses it.
///
/// `json` must be valid, so that each backslash stands in a string.
pub(super) fn replace_lone_surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    let mut replaced = Cow::Borrowed(json);
    let mut at = 0;
    while let Some(plain) = memchr::memchr(b'\\', &json[at..]) {
        at += plain;
        let (escape, after) = json[at..].split_at(ESCAPE.min(json.len() - at));
        at += match (surrogate(escape), surrogate(after)) {
            // The rest of a longer escape is digits.
            (None, _) => 2,
            (Some(Surrogate::High), Some(Surrogate::Low)) => 2 * ESCAPE,
            (Some(_), _) => {
                replaced.to_mut()[at..at + ESCAPE].copy_from_slice(b"\\ufffd");
                ESCAPE
            }
        };
    }
    replaced
}

/// The length of the escape of one UTF-16 unit.
const ESCAPE: usize = 6;

/// One of the two units of a surrogate pair.
enum Surrogate {
    High,
    Low,
}

/// Returns the surrogate whose escape a text begins with, if it begins with one.
const fn surrogate(text: &[u8]) -> Option<Surrogate> {
    match text {
        [
            b'\\',
            b'u',
            b'd' | b'D',
            b'8' | b'9' | b'a' | b'b' | b'A' | b'B',
            _,
            _,
            ..,
        ] => Some(Surrogate::High),
        [
            b'\\',
            b'u',
            b'd' | b'D',
            b'c'..=b'f' | b'C'..=b'F',
            _,
            _,
            ..,
        ] => Some(Surrogate::Low),
        _ => None,
    }
}

/// The open brackets, with the innermost in the lowest bit. A set bit is an object's bracket.
#[derive(Clone, Copy, Default)]
struct OpenBrackets {
    objects: u128,
    depth: u32,
}

impl OpenBrackets {
    const ARRAY: Self = Self {
        objects: 0,
        depth: 1,
    };

    fn push(&mut self, object: bool) -> Result<(), Invalid> {
        if self.depth == MAX_DEPTH {
            return Err(Invalid::Depth);
        }
        self.objects = self.objects << 1 | u128::from(object);
        self.depth += 1;
        Ok(())
    }

    const fn pop(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    const fn in_object(self) -> bool {
        self.objects & 1 == 1
    }

    const fn bracket(self) -> u8 {
        if self.in_object() { b'}' } else { b']' }
    }
}

#[cfg(test)]
mod tests;
