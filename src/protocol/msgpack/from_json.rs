//! Converts JSON and attachments to MessagePack.

use bytes::Bytes;
use rmp::{Marker, encode};

use crate::protocol::placeholder::{Placeholder, parse_num, placeholders};
use crate::protocol::scan::{Invalid, Scanner, replace_lone_surrogates};

/// Writes JSON as MessagePack, with attachments in place of their placeholders.
pub(super) fn write_json(out: &mut Vec<u8>, json: &[u8], attachments: &[Bytes]) {
    let start = out.len();
    if FromJson::new(out, json, attachments).convert().is_err() {
        // A value has made serde_json write invalid JSON. Nil is sent in place of all the JSON.
        out.truncate(start);
        out.push(Marker::Null.to_u8());
    }
}

/// A conversion of JSON to MessagePack, with attachments in place of their placeholders.
///
/// The depth is not bounded, because the server has written the JSON.
struct FromJson<'a> {
    out: &'a mut Vec<u8>,
    json: &'a [u8],
    scanner: Scanner<'a>,
    attachments: &'a [Bytes],
    /// The arrays and objects around the position of the scanner, from the outermost.
    open: Vec<Unfinished>,
    /// The markers that need more than the one byte that is reserved, and their positions.
    markers: Vec<(usize, Vec<u8>)>,
}

/// An array or an object whose closing bracket was not reached yet.
struct Unfinished {
    /// The position of its marker.
    start: usize,
    /// The number of values so far, including keys.
    values: u32,
}

impl<'a> FromJson<'a> {
    fn new(out: &'a mut Vec<u8>, json: &'a [u8], attachments: &'a [Bytes]) -> Self {
        Self {
            out,
            json,
            scanner: Scanner::new(json, 0),
            attachments,
            open: Vec::new(),
            markers: Vec::new(),
        }
    }

    fn convert(mut self) -> Result<(), Invalid> {
        for place in self.places()? {
            self.copy(place.object.start)?;
            self.count();
            self.attachment(&place)?;
        }
        self.copy(self.json.len())?;
        self.insert_markers();
        Ok(())
    }

    /// Returns the outermost placeholders, from left to right.
    fn places(&self) -> Result<Vec<Placeholder>, Invalid> {
        if self.attachments.is_empty() {
            return Ok(Vec::new());
        }
        let mut places = placeholders(self.json)?;
        places.sort_unstable_by_key(|place| place.object.start);
        places.dedup_by(|inner, outer| inner.object.start < outer.object.end);
        Ok(places)
    }

    /// Writes the bytes that a placeholder stands for, and steps over the placeholder.
    fn attachment(&mut self, place: &Placeholder) -> Result<(), Invalid> {
        let num = parse_num(&self.json[place.num.clone()]).ok_or(Invalid::Syntax)?;
        let bytes = self.attachments.get(num).ok_or(Invalid::Syntax)?;
        infallible(encode::write_bin(self.out, bytes));
        self.scanner = Scanner::new(self.json, place.object.end);
        Ok(())
    }

    /// Writes the JSON up to `end`.
    fn copy(&mut self, end: usize) -> Result<(), Invalid> {
        loop {
            let next = self.scanner.peek();
            let start = self.scanner.position();
            let Some(byte) = next.filter(|_| start < end) else {
                return Ok(());
            };
            self.scanner.next();
            match byte {
                b',' | b':' => {}
                b']' | b'}' => self.close(byte == b'}')?,
                _ => {
                    self.count();
                    self.value(byte, start)?;
                }
            }
        }
    }

    /// Counts a value or a key in the innermost open array or object.
    fn count(&mut self) {
        if let Some(outer) = self.open.last_mut() {
            outer.values += 1;
        }
    }

    /// Writes the value that begins with this byte. For an array or an object, reserves the byte of
    /// its marker.
    fn value(&mut self, first: u8, start: usize) -> Result<(), Invalid> {
        match first {
            b'[' if self.scanner.peek() == Some(b']') => self.empty(Marker::FixArray(0)),
            b'{' if self.scanner.peek() == Some(b'}') => self.empty(Marker::FixMap(0)),
            b'[' | b'{' => {
                self.open.push(Unfinished {
                    start: self.out.len(),
                    values: 0,
                });
                self.out.push(Marker::Reserved.to_u8());
            }
            b'"' => {
                let escaped = self.scanner.string()?;
                write_string(
                    self.out,
                    &self.json[start..self.scanner.position()],
                    escaped,
                );
            }
            b't' => self.literal(b"rue", Marker::True)?,
            b'f' => self.literal(b"alse", Marker::False)?,
            b'n' => self.literal(b"ull", Marker::Null)?,
            first => {
                self.scanner.number(first)?;
                write_number(self.out, &self.json[start..self.scanner.position()]);
            }
        }
        Ok(())
    }

    /// Writes an empty array or object, and steps over its closing bracket.
    fn empty(&mut self, marker: Marker) {
        self.scanner.next();
        self.out.push(marker.to_u8());
    }

    fn literal(&mut self, rest: &[u8], marker: Marker) -> Result<(), Invalid> {
        self.scanner.literal(rest)?;
        self.out.push(marker.to_u8());
        Ok(())
    }

    /// Writes the marker of an array or an object, whose number of values is now known.
    fn close(&mut self, object: bool) -> Result<(), Invalid> {
        let Unfinished { start, values } = self.open.pop().ok_or(Invalid::Syntax)?;
        let mut marker = Vec::new();
        match (object, values) {
            (true, 0..=31) => self.out[start] = Marker::FixMap((values / 2) as u8).to_u8(),
            (false, 0..=15) => self.out[start] = Marker::FixArray(values as u8).to_u8(),
            (true, _) => infallible(encode::write_map_len(&mut marker, values / 2)),
            (false, _) => infallible(encode::write_array_len(&mut marker, values)),
        }
        if !marker.is_empty() {
            self.markers.push((start, marker));
        }
        Ok(())
    }

    /// Inserts the long markers, in one pass.
    fn insert_markers(&mut self) {
        if self.markers.is_empty() {
            return;
        }
        self.markers.sort_unstable_by_key(|(start, _)| *start);
        let mut whole = Vec::with_capacity(self.out.len() + 4 * self.markers.len());
        let mut done = 0;
        for (start, marker) in &self.markers {
            whole.extend_from_slice(&self.out[done..*start]);
            whole.extend_from_slice(marker);
            done = start + 1;
        }
        whole.extend_from_slice(&self.out[done..]);
        *self.out = whole;
    }
}

/// Writes a JSON string.
fn write_string(out: &mut Vec<u8>, quoted: &[u8], escaped: bool) {
    let plain = &quoted[1..quoted.len() - 1];
    if !escaped {
        return write_text(out, &String::from_utf8_lossy(plain));
    }
    let text: String = serde_json::from_slice(&replace_lone_surrogates(quoted)).unwrap_or_default();
    write_text(out, &text);
}

/// Writes a JSON number. A number without a fraction or an exponent, of at most 64 bits, becomes an
/// integer.
fn write_number(out: &mut Vec<u8>, digits: &[u8]) {
    let digits = String::from_utf8_lossy(digits);
    if let Ok(number) = digits.parse::<u64>() {
        write_unsigned(out, number);
    } else if let Ok(number) = digits.parse::<i64>() {
        infallible(encode::write_sint(out, number));
    } else {
        infallible(encode::write_f64(out, digits.parse().unwrap_or(f64::NAN)));
    }
}

pub(super) fn write_unsigned(out: &mut Vec<u8>, number: u64) {
    infallible(encode::write_uint(out, number));
}

pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    infallible(encode::write_str(out, text));
}

/// Drops the result of a write to memory, which cannot fail.
fn infallible<T, E>(result: Result<T, E>) {
    drop(result.ok());
}
