//! Writes the contract that `tests/interop/contract.test.js` gives to TypeScript's compiler:
//! `cargo run --example contract --features schema -- FOLDER`
//!
//! The types have everything that is easy to get wrong.

#![allow(dead_code, reason = "only the forms of the types matter")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tower_socketio::{Namespace, SocketIo, SocketIoBuilder, TypedEvent};

macro_rules! event {
    ($type:ty, $name:literal) => {
        event!($type, $name, ());
    };
    ($type:ty, $name:literal, $reply:ty $(, $spread:ident)?) => {
        impl TypedEvent for $type {
            const NAME: &'static str = $name;
            $(const $spread: bool = true;)?
            type Reply = $reply;
        }
    };
}

/// An `Option`, which is not the same in both directions.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Optional {
    nullable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u32>,
    #[serde(default)]
    defaulted: bool,
}
event!(Optional, "optional");

/// Integers of 64 bits.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Numbers {
    unsigned: u64,
    signed: i64,
    size: usize,
    float: f64,
    letter: char,
}
event!(Numbers, "numbers");

#[derive(Serialize, Deserialize, JsonSchema)]
struct Picture {
    image: Bytes,
    thumbnail: Option<Bytes>,
    /// A list of numbers.
    histogram: Vec<u8>,
}
event!(Picture, "picture", Bytes);

#[derive(Serialize, Deserialize, JsonSchema)]
struct Add {
    a: i32,
    b: i32,
}
event!(Add, "add", i32);

#[derive(Serialize, Deserialize, JsonSchema)]
struct Typing {
    room: String,
}
event!(Typing, "typing");

/// Asks the client.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Confirm {
    question: String,
}
event!(Confirm, "confirm", bool);

/// Several arguments, one with a label.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Move(#[schemars(title = "x")] i32, Option<i32>, Color);
event!(Move, "move", bool, SPREAD);

/// No argument.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Ping;
event!(Ping, "ping", (), SPREAD);

/// A tuple is one argument, and so is a list.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Pair(String, u32);
event!(Pair, "pair");

#[derive(Serialize, Deserialize, JsonSchema)]
struct Words(Vec<String>);
event!(Words, "words");

/// A color.
#[derive(Serialize, Deserialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
enum Color {
    Red,
    DarkGreen,
}

/// External tags.
#[derive(Serialize, Deserialize, JsonSchema)]
enum External {
    /// Nothing.
    Unit,
    Newtype(u32),
    Tuple(u32, String),
    Struct {
        a: bool,
    },
}

/// Internal tags.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Internal {
    Empty,
    Text { text: String },
    Other(Typing),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "value")]
enum Adjacent {
    Number(u32),
    Pair(u32, u32),
    Nothing,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Text(String),
    Object { id: u32 },
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Common {
    id: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Flat {
    #[serde(flatten)]
    common: Common,
    #[serde(flatten)]
    internal: Internal,
    name: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct FlatMap {
    name: String,
    #[serde(flatten)]
    rest: HashMap<String, u32>,
}

/// A flattened map, beside a flattened enum.
#[derive(Serialize, Deserialize, JsonSchema)]
struct FlatBoth {
    name: String,
    #[serde(flatten)]
    internal: Internal,
    #[serde(flatten)]
    rest: HashMap<String, u32>,
}

/// The same with any values, and no other field.
#[derive(Serialize, Deserialize, JsonSchema)]
struct FlatAny {
    #[serde(flatten)]
    internal: Internal,
    #[serde(flatten)]
    rest: HashMap<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct FlatOpen {
    name: String,
    #[serde(flatten)]
    rest: HashMap<String, serde_json::Value>,
}

/// A map within a tag.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum TaggedMap {
    Counts(HashMap<String, u32>),
    Named(FlatCounts),
}

/// An enum that may be missing.
#[derive(Serialize, Deserialize, JsonSchema)]
struct FlatOptional {
    name: String,
    #[serde(flatten)]
    internal: Option<Internal>,
}

/// A map within a union, and within a newtype.
#[derive(Serialize, Deserialize, JsonSchema)]
struct FlatUnion {
    id: String,
    #[serde(flatten)]
    body: CountsOrText,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum CountsOrText {
    Counts(FlatCounts),
    Text { text: String },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum TaggedNewtype {
    Counts(Wrapper),
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Wrapper(FlatCounts);

#[derive(Serialize, Deserialize, JsonSchema)]
struct FlatCounts {
    total: u32,
    #[serde(flatten)]
    counts: HashMap<String, u32>,
}

/// A union with comments inside of another one.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Nested {
    /// A number.
    Number(u32),
    /// Some text.
    Text(Option<Described>),
    #[schemars(with = "Inner")]
    /// A union with comments.
    Inner(Inner),
}

/// Has comments.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
enum Inner {
    /// The first.
    First,
    /// The second.
    Second,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
enum Described {
    /// One.
    One,
    /// Two.
    Two,
}

/// Contains itself in maps and lists.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Json {
    Text(String),
    List(Vec<Self>),
    Object(HashMap<String, Self>),
}

/// A type with a name of TypeScript.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "keyof")]
struct Keyof {
    a: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "unique")]
struct Unique {
    a: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Record")]
struct Record {
    a: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Shapes {
    flat_both: FlatBoth,
    flat_any: FlatAny,
    flat_open: FlatOpen,
    tagged_map: TaggedMap,
    flat_optional: FlatOptional,
    flat_union: FlatUnion,
    tagged_newtype: TaggedNewtype,
    nested: Nested,
    json: Json,
    keyof: Keyof,
    unique: Unique,
    record: Record,
}
event!(Shapes, "shapes");

#[derive(Serialize, Deserialize, JsonSchema)]
struct Enums {
    color: Color,
    external: External,
    internal: Internal,
    adjacent: Adjacent,
    untagged: Untagged,
    flat: Flat,
    flat_map: FlatMap,
}
event!(Enums, "enums");

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    user_name: String,
    #[serde(rename(serialize = "out", deserialize = "in"))]
    both_ways: u32,
    #[serde(alias = "mail")]
    email: String,
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    large: u128,
    #[serde(skip)]
    secret: u32,
}
event!(Attributes, "attributes");

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(n: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(n)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

mod first {
    use super::{Deserialize, JsonSchema, Serialize};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Message {
        text: String,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Same {
        id: u32,
    }
}

mod second {
    use super::{Deserialize, JsonSchema, Serialize};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Message {
        number: u32,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Same {
        id: u32,
    }
}

/// Two types of one name, twice.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Names {
    first: first::Message,
    second: second::Message,
    same: first::Same,
    also: second::Same,
}
event!(Names, "names");

/// A name that is no identifier.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Joined {
    name: String,
}
event!(Joined, "user:joined");

#[derive(Serialize, Deserialize, JsonSchema)]
struct Maps {
    by_id: HashMap<u64, String>,
    by_name: BTreeMap<String, Vec<i64>>,
    by_color: HashMap<Color, bool>,
}
event!(Maps, "maps");

#[derive(Serialize, Deserialize, JsonSchema)]
struct Formats {
    when: chrono::DateTime<chrono::Utc>,
    id: uuid::Uuid,
    page: url::Url,
}
event!(Formats, "formats");

/// An event with `*/` in its comment.
///
/// And a second paragraph.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Documented {
    /// The first field.
    #[deprecated]
    first: u32,
    tree: Tree,
    anything: serde_json::Value,
    /// Of fixed length.
    three: [f32; 3],
}
event!(Documented, "documented");

/// Contains itself.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Tree {
    children: Vec<Self>,
    parent: Option<Box<Self>>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Order {
    item: String,
}
event!(Order, "order", Page<Order>);

/// A generic type.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Page<T> {
    items: Vec<T>,
    next: Option<u32>,
}

async fn any() {}

fn server() -> SocketIoBuilder {
    // Everything in both directions.
    let main = Namespace::new()
        .fallback(any)
        .receives::<Optional>()
        .receives::<Numbers>()
        .receives::<Picture>()
        .receives::<Add>()
        .receives::<Typing>()
        .receives::<Confirm>()
        .receives::<Move>()
        .receives::<Ping>()
        .receives::<Pair>()
        .receives::<Words>()
        .receives::<Enums>()
        .receives::<Shapes>()
        .receives::<Attributes>()
        .receives::<Names>()
        .receives::<Joined>()
        .receives::<Maps>()
        .receives::<Formats>()
        .receives::<Documented>()
        .sends::<Optional>()
        .sends::<Numbers>()
        .sends::<Picture>()
        .sends::<Add>()
        .sends::<Typing>()
        .sends::<Confirm>()
        .sends::<Move>()
        .sends::<Ping>()
        .sends::<Pair>()
        .sends::<Words>()
        .sends::<Enums>()
        .sends::<Shapes>()
        .sends::<Attributes>()
        .sends::<Names>()
        .sends::<Joined>()
        .sends::<Maps>()
        .sends::<Formats>()
        .sends::<Documented>();
    let orders = Namespace::new().fallback(any).receives::<Order>();
    let matched = Namespace::new().sends::<Typing>();
    SocketIo::builder()
        .namespace("/", main)
        .namespace("/orders/{shop}", orders)
        .namespace("/m²/{*rest}", Namespace::new().sends::<Typing>())
        .namespace("/untyped", Namespace::new().on("any", any))
        .namespace_if(async |_| true, matched)
}

fn main() {
    let folder = std::env::args().nth(1).expect("a folder");
    let folder = PathBuf::from(folder);
    let contract = server().contract();
    let write = |file: &str, text: Result<String, _>| {
        std::fs::write(folder.join(file), text.expect("a contract")).expect("the folder");
    };
    write("events.d.ts", contract.typescript());
    write("asyncapi.json", contract.asyncapi("Fixtures", "1.0.0"));
}
