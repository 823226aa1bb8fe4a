//! The official parsers, in a process of Node.js that runs `tests/interop/judge.js`.
//!
//! A question is an operation, which has one byte, and its operands. Questions are sent in batches.
//! The process reads the whole batch, and then answers all questions.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::value::{Number, Text, Value};

pub(crate) struct Judge {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Judge {
    pub(crate) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/judge.js");
        let mut process = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Node.js 20 or later is installed");
        Self {
            questions: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().expect("piped")),
            process,
        }
    }

    /// Sends questions, and returns their answers in the same order.
    pub(crate) fn ask(&mut self, questions: &[Writer]) -> Vec<Vec<u8>> {
        let mut batch = Writer::default();
        for question in questions {
            batch.bytes(&question.0);
        }
        let pipe = self.questions.as_mut().expect("open until the end");
        pipe.write_all(&(batch.0.len() as u32).to_le_bytes())
            .and_then(|()| pipe.write_all(&batch.0))
            .expect("the judge reads");

        let mut len = [0; 4];
        self.answers
            .read_exact(&mut len)
            .expect("the judge answers");
        let mut answers = vec![0; u32::from_le_bytes(len) as usize];
        self.answers
            .read_exact(&mut answers)
            .expect("a whole answer");
        let mut reader = Reader(&answers);
        questions.iter().map(|_| reader.bytes().to_vec()).collect()
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // The process ends when its input ends.
        drop(self.questions.take());
        let _ = self.process.wait();
    }
}

#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn operation(letter: u8) -> Self {
        Self(vec![letter])
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u32).to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &Text) {
        self.count(2 * text.0.len());
        self.0
            .extend(text.0.iter().flat_map(|unit| unit.to_le_bytes()));
    }

    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Undefined => self.byte(b'u'),
            Value::Null => self.byte(b'n'),
            Value::Bool(false) => self.byte(b'f'),
            Value::Bool(true) => self.byte(b't'),
            Value::Number(Number(number)) => {
                self.byte(b'd');
                self.0.extend_from_slice(&number.to_le_bytes());
            }
            Value::Text(text) => {
                self.byte(b's');
                self.text(text);
            }
            Value::Bytes(bytes) => {
                self.byte(b'b');
                self.bytes(bytes);
            }
            Value::Array(values) => {
                self.byte(b'a');
                self.count(values.len());
                values.iter().for_each(|value| self.value(value));
            }
            Value::Object(entries) => {
                self.byte(b'o');
                self.count(entries.len());
                for (key, value) in entries {
                    self.text(key);
                    self.value(value);
                }
            }
        }
    }
}

/// Reads an answer. An unexpected answer is a panic, because the judge is part of the test.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn split(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.split(1)[0]
    }

    pub(crate) fn count(&mut self) -> usize {
        let (len, rest) = self.0.split_first_chunk().expect("a count");
        self.0 = rest;
        u32::from_le_bytes(*len) as usize
    }

    pub(crate) fn bytes(&mut self) -> &'a [u8] {
        let len = self.count();
        self.split(len)
    }

    fn text(&mut self) -> Text {
        let units = self.bytes().chunks_exact(2);
        Text(
            units
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                .collect(),
        )
    }

    fn number(&mut self) -> Number {
        let (bits, rest) = self.0.split_first_chunk().expect("a number");
        self.0 = rest;
        Number(f64::from_le_bytes(*bits))
    }

    pub(crate) fn value(&mut self) -> Value {
        match self.byte() {
            b'u' => Value::Undefined,
            b'n' => Value::Null,
            b'f' => Value::Bool(false),
            b't' => Value::Bool(true),
            b'd' => Value::Number(self.number()),
            b's' => Value::Text(self.text()),
            b'b' => Value::Bytes(self.bytes().to_vec()),
            b'a' => Value::Array((0..self.count()).map(|_| self.value()).collect()),
            b'o' => {
                let count = self.count();
                let entries: BTreeMap<_, _> =
                    (0..count).map(|_| (self.text(), self.value())).collect();
                Value::Object(entries)
            }
            tag => panic!("an answer with a value of the kind {tag}"),
        }
    }
}
