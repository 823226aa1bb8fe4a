//! A script: lines of an operation, a number, and a text.
//!
//! ```text
//! OPTIONS
//! s042["echo",1]
//! ```
//!
//! Lines are what libFuzzer's mutations leave whole, and a script can be read. The number is the digit
//! after the operation's letter. In the text, `\n` is a line end, `\\` a backslash, and `\` before
//! another byte stands for itself.

/// An operation of a script.
pub struct Line<'a> {
    pub op: u8,
    pub number: usize,
    pub text: &'a [u8],
}

/// Splits a script into its options and its operations.
pub fn parse(script: &[u8]) -> (&[u8], impl Iterator<Item = Line<'_>>) {
    let mut lines = script.split(|byte| *byte == b'\n');
    let options = lines.next().unwrap_or_default();
    let lines = lines.filter_map(|line| match line {
        [op, number, text @ ..] => Some(Line {
            op: *op,
            number: usize::from(number.wrapping_sub(b'0')),
            text,
        }),
        _ => None,
    });
    (options, lines)
}

impl Line<'_> {
    /// Returns the text without escapes.
    pub fn unescaped(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.text.len());
        let mut rest = self.text;
        while let Some((byte, after)) = rest.split_first() {
            let (byte, after) = match (byte, after) {
                (b'\\', [b'n', after @ ..]) => (b'\n', after),
                (b'\\', [b'\\', after @ ..]) => (b'\\', after),
                _ => (*byte, after),
            };
            rest = after;
            text.push(byte);
        }
        text
    }

    /// Returns the number that the text begins with, or 0.
    pub fn amount(&self) -> u64 {
        let digits = self.text.iter().take_while(|byte| byte.is_ascii_digit());
        digits
            .take(9)
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    }
}
