//! One contract for the server and its clients: the events, written for TypeScript and as AsyncAPI.
//!
//! Events are declared once, as Rust types that implement [`TypedEvent`](crate::TypedEvent) and
//! schemars' `JsonSchema`. A namespace says which of them it [receives](crate::Namespace::receives)
//! and [sends](crate::Namespace::sends):
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use tower_socketio::{Namespace, Socket, SocketIo, SocketIoBuilder, TypedEvent};
//!
//! /// Says something to the others.
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct Say {
//!     text: String,
//!     /// The message that this one answers.
//!     answers: Option<u32>,
//! }
//!
//! impl TypedEvent for Say {
//!     const NAME: &'static str = "say";
//!     type Reply = u32;
//! }
//!
//! /// Somebody has said something.
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct Said {
//!     number: u32,
//!     text: String,
//! }
//!
//! impl TypedEvent for Said {
//!     const NAME: &'static str = "said";
//!     type Reply = ();
//! }
//!
//! async fn say(Say { text, .. }: Say, socket: Socket) -> u32 {
//!     let number = 1;
//!     socket.broadcast().send(Said { number, text });
//!     number
//! }
//!
//! fn server() -> SocketIoBuilder {
//!     let chat = Namespace::new()
//!         .on_typed(say)
//!         .receives::<Say>()
//!         .sends::<Said>();
//!     SocketIo::builder().namespace("/chat", chat)
//! }
//!
//! let file = server().contract().typescript().unwrap();
//! assert!(file.contains("export interface ChatClientToServerEvents {"));
//! assert!(file.contains("say: (data: Say, ack: (reply: number) => void) => void;"));
//! assert!(file.contains("answers?: number | null;"));
//! ```
//!
//! The official client takes the interfaces as they are:
//!
//! ```ts
//! import { io, Socket } from "socket.io-client";
//! import type { ChatClientToServerEvents, ChatServerToClientEvents } from "./events";
//!
//! const chat: Socket<ChatServerToClientEvents, ChatClientToServerEvents> = io("/chat");
//! chat.on("said", ({ number, text }) => console.log(number, text));
//! const number = await chat.emitWithAck("say", { text: "hello" });
//! ```
//!
//! # Tests
//!
//! Three tests of three lines find a drift before a client finds it. Commit the file, and assert that
//! it is current. This also fails if the declarations and the handlers do not agree, and if two
//! declarations contradict each other:
//!
//! ```no_run
//! # use tower_socketio::{Namespace, SocketIo, SocketIoBuilder};
//! # fn server() -> SocketIoBuilder { SocketIo::builder().namespace("/", Namespace::new()) }
//! #[test]
//! # fn hidden() {}
//! fn the_types_of_the_clients_are_current() {
//!     server().contract().assert_typescript("web/events.d.ts");
//! }
//! # the_types_of_the_clients_are_current();
//! ```
//!
//! `UPDATE_CONTRACT=1 cargo test` writes the file. A [`Watch`] finds events that are sent and not
//! declared, and arguments of other types, also of events that are sent by their name, in any test that
//! makes the server send:
//!
//! ```
//! # use tower_socketio::{Namespace, SocketIo, SocketIoBuilder};
//! # fn server() -> SocketIoBuilder { SocketIo::builder().namespace("/", Namespace::new()) }
//! use tower_socketio::contract::Watch;
//!
//! let watch = Watch::new();
//! let (layer, io) = server().watch_contract(&watch).build();
//! // What the test does. Then:
//! watch.assert_kept();
//! ```
//!
//! # Names
//!
//! | of                       | in TypeScript                                                       |
//! |--------------------------|---------------------------------------------------------------------|
//! | `/`                      | `ClientToServerEvents`, `ServerToClientEvents`                      |
//! | `/chat`                  | `ChatClientToServerEvents`, `ChatServerToClientEvents`              |
//! | `/orders/{shop}`         | `OrdersShopClientToServerEvents`, …                                 |
//! | `namespace_if`           | `MatchedClientToServerEvents`, …                                    |
//! | a type                   | its own name                                                        |
//! | a type that clients write otherwise than they read it | `UserFromServer` and `UserToServer`    |
//! | two types of one name    | one if they are equal, or else `User` and `User2`                   |
//!
//! # Types
//!
//! Serde's attributes count: `rename`, `rename_all`, `tag`, `untagged`, `flatten`, `default`, `skip`
//! and their forms for one direction. Comments of Rust become comments in TypeScript.
//!
//! | Rust                                  | sent by the server         | sent by a client           |
//! |---------------------------------------|----------------------------|----------------------------|
//! | `String`, `char`                      | `string`                   | the same                   |
//! | integers up to 64 bits, floats        | `number`                   | the same                   |
//! | `bool`, `()`                          | `boolean`, `null`          | the same                   |
//! | a field that is an `Option<T>`        | `field: T \| null`         | `field?: T \| null`        |
//! | the same with `skip_serializing_if`   | `field?: T \| null`        | `field?: T \| null`        |
//! | a field with `serde(default)`         | `field: T`                 | `field?: T`                |
//! | `bytes::Bytes`                        | `ArrayBuffer \| Uint8Array` | `ArrayBuffer \| Uint8Array \| Blob` |
//! | `Vec<u8>`, for serde a list of numbers | `number[]`                | the same                   |
//! | lists and sets, tuples                | `T[]`, `[A, B]`            | the same                   |
//! | maps; keys are strings in JSON        | `{ [key: string]: T }`     | the same                   |
//! | enums                                 | unions of strings and objects | the same                |
//! | `serde_json::Value`                   | `unknown`                  | the same                   |
//! | types of `chrono`, `uuid` and `url`   | `string`                   | the same                   |
//!
//! - JavaScript has the exact value of an integer up to 2^53. For larger ones use a newtype that is
//!   written as a string. A 128-bit integer is refused.
//! - For types of `chrono`, `uuid` and `url` turn on schemars' features `chrono04`, `uuid1` and
//!   `url2`. A field with `serde(with = …)` needs `schemars(with = "…")`, which names a type of the
//!   same form. For bytes in a `Vec<u8>` that `serde_bytes` writes, that is `bytes::Bytes`.
//! - In Node.js, `Uint8Array` is a `Buffer`. `new Uint8Array(bytes)` reads both forms.
//! - A map whose keys are structs, tuples, lists or variants with data cannot be written as JSON, and
//!   is refused. It is not found within an internally tagged, an untagged or a flattened type. There
//!   serde also cannot read a map whose keys are integers: use keys that are a `String`.
//! - A field that is an `Option` with serde's `with` or `deserialize_with` is required by serde, and
//!   optional here, unless it also has `serde(default)`.
//! - A type that serde converts from and into `bytes::Bytes` by `try_from` and `into` is `number[]`
//!   here: use `serde(transparent)`.
//!
//! - A flattened map beside a flattened enum, or in a variant of a tagged one, has values of the type `unknown`: TypeScript
//!   cannot say "all other properties".
//!
//! # Arguments and replies
//!
//! | Rust                                      | TypeScript                                           |
//! |-------------------------------------------|------------------------------------------------------|
//! | an event of type `T`                      | `(data: T, …) => void`                               |
//! | a tuple struct with [`SPREAD`](crate::TypedEvent::SPREAD) | `(arg1: A, arg2: B, …) => void`      |
//! | the same with `schemars(title = "x")` at a field | `(x: A, …) => void`                           |
//! | `Reply = R`                               | a last parameter `ack: (reply: R) => void`           |
//! | `Reply = ()`, sent by a client            | a last parameter `ack: () => void`, or none          |
//! | `Reply = ()`, sent by the server          | a last parameter `ack?: () => void`                  |
//!
//! - If `Reply` is not `()`, a client has to pass a callback, or call `emitWithAck`, which infers the
//!   type of the reply. `timeout(…)` adds the error in front of it, by the client's own types.
//! - The error of a handler arrives in place of the reply, as `{ error: string }`, with `data` if it has
//!   any. The types do not say so: a client that expects errors tests for it.
//! - The offset that [`Recovery`](crate::Recovery) appends to an event is not in the types. It is in
//!   the place of an `ack` that the server does not ask for: test whether that is a function.
//! - An event of the server with a reply is sent by `ask`. By `send` it has no `ack`, which the types do
//!   not say.
//!
//! # AsyncAPI
//!
//! [`Contract::asyncapi`] writes a document of AsyncAPI 3 from the same source. A namespace is a
//! channel, an event is a message with a reply. The document is written in the view of the server:
//! its operation `receive` is what clients send. A payload is the one argument of an event. If it has
//! several, the payload is their list, and the message has `x-spread: true`. Bytes have the format
//! `binary`.

mod asyncapi;
mod check;
mod declared;
mod error;
mod keys;
mod model;
mod names;
mod shape;
mod typescript;
mod views;
mod watch;

pub(crate) use self::check::NamespaceContract;
pub(crate) use self::declared::Declarations;
pub(crate) use self::watch::Emitted;

pub use self::check::Contract;
pub use self::error::ContractError;
pub use self::watch::Watch;
