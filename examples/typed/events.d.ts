// Events of a server, written from its Rust types by tower-socketio. Do not edit.

/** Bytes that a client receives: an `ArrayBuffer` in a browser, a `Buffer` in Node.js. */
export type BytesFromServer = ArrayBuffer | Uint8Array;

/** Bytes that a client sends. */
export type BytesToServer = ArrayBuffer | Uint8Array | Blob;

/** What a client sends in `/`. */
export interface ClientToServerEvents {
  /** Joins a room. The reply is the number of people in it. */
  join: (data: Join, ack: (reply: number) => void) => void;
  /** Leaves a room, if the client confirms it. */
  leave: (data: Leave, ack: (reply: boolean) => void) => void;
  /** The position of somebody's pointer. */
  pointer: (...args: [room: string, x: number, y: number] | [room: string, x: number, y: number, ack: () => void]) => void;
  /** Sends a message to a room. */
  post: (data: Post, ack: (reply: Receipt) => void) => void;
}

/** What the server sends in `/`. */
export interface ServerToClientEvents {
  /** Asks whether the client wants to leave a room. */
  confirm: (data: Confirm, ack: (reply: boolean) => void) => void;
  /** A new message. */
  "message:posted": (data: Posted, ack?: () => void) => void;
  /** The position of somebody's pointer. */
  pointer: (room: string, x: number, y: number, ack?: () => void) => void;
}

/** Asks whether the client wants to leave a room. */
export interface Confirm {
  question: string;
}

/** What a message consists of. */
export type ContentFromServer =
  | { kind: "text"; text: string }
  | { altText: string | null; bytes: BytesFromServer; kind: "image" };

/** What a message consists of. */
export type ContentToServer =
  | { kind: "text"; text: string }
  | { altText?: string | null; bytes: BytesToServer; kind: "image" };

/** Joins a room. The reply is the number of people in it. */
export interface Join {
  room: string;
}

/** Leaves a room, if the client confirms it. */
export interface Leave {
  room: string;
}

/** Sends a message to a room. */
export interface Post {
  /** The number of the message that this one answers. */
  answers?: number | null;
  content: ContentToServer;
  room: string;
}

/** A new message. */
export interface Posted {
  answers: number | null;
  content: ContentFromServer;
  number: number;
}

/** The message has been sent. */
export interface Receipt {
  number: number;
}
