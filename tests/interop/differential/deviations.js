// Where ours differs from Node's, and why.

/** What differs wherever it comes: the text of one side is read as if it were the other's. */
export const everywhere = [
  {
    why: "a close frame says why the server closes; Node's is empty, and the client learns nothing",
    of: "ours",
    text: /closed (?:1002 (?:parse error|transport error|ping timeout|protocol violation)|1001 server shutting down)$/,
    as: "closed 1005",
  },
  {
    why: "a close frame for a broken rule of WebSocket says which; Node's has the code only",
    of: "ours",
    text: /closed (1002|1007|1009) .+$/,
    as: "closed $1",
  },
  {
    why: "who breaks the protocol is closed by the server; Node says so, or `forced close`, by the transport",
    of: "node",
    text: /: forced close$/,
    as: ": forced server close",
  },
  {
    why: "caches are told that files come compressed or not",
    of: "ours",
    text: / \| vary: accept-encoding$/,
    as: "",
  },
  {
    why: "a refused WebSocket gets the same status and type as any refused request; Node's is plain text, always 400",
    of: "ours",
    text: /refused 40[03](.*)content-type: application\/json/,
    as: "refused 400$1content-type: text/html",
  },
  {
    why: "a refused WebSocket gets the same body as any refused request; Node's is the message alone",
    of: "ours",
    text: /refused \{"code":\d,"message":"(.*)"\}$/,
    as: "refused $1",
  },
];

/**
 * By the title of a script: the lines of the transcript that only Node's has (`- `) and those that
 * only ours has (`+ `). A deviation that is no longer there, or is another one, fails.
 */
export const deviations = {
  "a handshake by WebSocket without EIO is refused": {
    why: "refused before the 101; Node writes a response of HTTP into the open WebSocket",
    differs: [
      "- a: 101",
      "- a: closed 1006",
      "+ a: refused 400 | content-type: text/html",
      "+ a: refused Unsupported protocol version",
      "- b: 101",
      "- b: closed 1006",
      "+ b: refused 400 | content-type: text/html",
      "+ b: refused Unsupported protocol version",
    ],
  },
  "polling as transport of an upgrade request": {
    why: "refused at once; Node accepts the WebSocket and closes it",
    differs: [
      "- b: 101",
      "+ b: refused 400 | content-type: text/html",
      "+ b: refused Bad request",
      "- b: closed 1005",
    ],
  },
  "polling as transport of an upgrade request with a sid": {
    why: "refused at once; Node accepts the WebSocket and closes it",
    differs: [
      "- a: 101",
      "+ a: refused 400 | content-type: text/html",
      "+ a: refused Bad request",
      "- a: closed 1005",
    ],
  },
  "the path may go on": {
    why: "the slash at the end of the path may be missing",
    differs: [
      "- a: 404",
      "+ a: 400 | content-type: application/json",
      "+ a: {\"code\":0,\"message\":\"Transport unknown\"}",
    ],
  },
  "bytes in an odd base64": {
    why: "what is not base64 is a parse error; Node's decoder passes over what it cannot read, and delivers other bytes",
    differs: [
      "- a: bAQI=",
      "- a: bAQ==",
      "- a: b/+8=",
      "+ a: 400 | content-type: application/json",
      "+ a: {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  },
  "an empty packet in a body ends the session": {
    why: "what handlers answer to a client that breaks the protocol in the same body goes nowhere; Node's run before the rest of the body is read",
    differs: [
      "- a: 4a",
      "+ a: 1",
    ],
  },
  "what is before a bad packet is delivered": {
    why: "what handlers answer to a client that breaks the protocol in the same body goes nowhere; Node's run before the rest of the body is read",
    differs: [
      "- a: 4a",
      "+ a: 1",
    ],
  },
  "other methods than GET and POST on a session": {
    why: "the client's mistake is a 400 that says so, not an empty 500",
    differs: [
      "- a: 500",
      "+ a: 400 | content-type: application/json",
      "+ a: {\"code\":2,\"message\":\"Bad handshake method\"}",
      "- a: 500",
      "+ a: 400 | content-type: application/json",
      "+ a: {\"code\":2,\"message\":\"Bad handshake method\"}",
      "- a: 500",
      "+ a: 400 | content-type: application/json",
      "+ a: {\"code\":2,\"message\":\"Bad handshake method\"}",
    ],
  },
  "messages before and after a close packet": {
    why: "what handlers answer to a client that closes in the same body goes nowhere; Node's run before the rest of the body is read",
    differs: [
      "- a: 4before",
      "+ a: 6",
    ],
  },
  "the server closes, without a GET": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "the server sends and closes, without a GET": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "a POST while the server is closing": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "a body at the limit and above it": {
    why: "a body that is too large is refused and nothing of it is taken, so the session can go on; Node's ends",
    differs: [
      "- a: 400 | content-type: application/json",
      "- a: {\"code\":1,\"message\":\"Session ID unknown\"}",
      "+ a: 200 | cache-control: no-store | content-type: text/html",
      "+ a: ok",
      "- a: 400 | content-type: application/json",
      "- a: {\"code\":1,\"message\":\"Session ID unknown\"}",
      "+ a: 42[\"echoed\",\"still here\"]",
    ],
  },
  "a body in chunks above the limit": {
    why: "a body that is too large is refused and nothing of it is taken, so the session can go on; Node's ends",
    differs: [
      "- a: 400 | content-type: application/json",
      "- a: {\"code\":1,\"message\":\"Session ID unknown\"}",
      "+ a: 200 | cache-control: no-store | content-type: text/html",
      "+ a: ok",
      "- a: 400 | content-type: application/json",
      "- a: {\"code\":1,\"message\":\"Session ID unknown\"}",
      "+ a: 42[\"echoed\",\"still here\"]",
    ],
  },
  "a body is counted in bytes": {
    why: "a body that is too large is refused and nothing of it is taken, so the session can go on; Node's ends",
    differs: [
      "- a: 400 | content-type: application/json",
      "- a: {\"code\":1,\"message\":\"Session ID unknown\"}",
      "+ a: 200 | cache-control: no-store | content-type: text/html",
      "+ a: ok",
      "- a: 400 | content-type: application/json",
      "- a: {\"code\":1,\"message\":\"Session ID unknown\"}",
      "+ a: 42[\"echoed\",\"€€€€€€€€€€€€€€€€€€€€€€€€€€€€€\"]",
    ],
  },
  "a close packet by WebSocket": {
    why: "a client that says it closes is believed; Node goes on until the heartbeat fails",
    differs: [
      "- a: 4after",
      "+ a: closed 1005",
    ],
  },
  "a WebSocket handshake without a key": {
    why: "the body is that of any bad request",
    differs: [
      "- a: refused Missing or invalid Sec-WebSocket-Key header",
      "+ a: refused Bad request",
    ],
  },
  "a WebSocket handshake with a bad key": {
    why: "the body is that of any bad request",
    differs: [
      "- a: refused Missing or invalid Sec-WebSocket-Key header",
      "+ a: refused Bad request",
    ],
  },
  "a WebSocket handshake of another version": {
    why: "version 13 is the standard, 8 was a draft; the body is that of any bad request",
    differs: [
      "- a: refused 400 | content-type: text/html | sec-websocket-version: 13, 8",
      "- a: refused Missing or invalid Sec-WebSocket-Version header",
      "+ a: refused 400 | content-type: text/html | sec-websocket-version: 13",
      "+ a: refused Bad request",
    ],
  },
  "an upgrade packet before the probe": {
    why: "an upgrade needs a probe, as the protocol says; Node does without",
    differs: [
      "- a: 4x",
      "+ a: closed 1005",
    ],
  },
  "a second probe on the same WebSocket": {
    why: "one probe an upgrade, as the protocol says; Node answers any number",
    differs: [
      "- a: 3probe",
      "+ a: closed 1005",
    ],
  },
  "the server closes during an upgrade, before the probe": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "CORS for another origin": {
    why: "a page of an origin that is not allowed gets no session; with Node only the browser keeps the answer from it, and WebSockets not at all",
    differs: [
      "- a: 200 | access-control-allow-credentials: true | access-control-expose-headers: x-told | cache-control: no-store | content-type: text/plain; charset=UTF-8 | vary: origin",
      "- a: 0{\"sid\":\"<sid 1>\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}",
      "+ a: 403 | access-control-allow-credentials: true | access-control-expose-headers: x-told | content-type: application/json | vary: origin",
      "+ a: {\"code\":4,\"message\":\"Origin not allowed\"}",
    ],
  },
  "a WebSocket from another origin": {
    why: "a page of an origin that is not allowed gets no session; with Node only the browser keeps the answer from it, and WebSockets not at all",
    differs: [
      "- a: 101 | access-control-allow-credentials: true | access-control-expose-headers: x-told | vary: origin",
      "- a: 0{\"sid\":\"<sid 1>\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}",
      "+ a: refused 400 | access-control-allow-credentials: true | access-control-expose-headers: x-told | content-type: text/html | vary: origin",
      "+ a: refused Origin not allowed",
    ],
  },
  "a WebSocket from another origin where nothing is configured": {
    why: "a page of an origin that is not allowed gets no session; with Node only the browser keeps the answer from it, and WebSockets not at all",
    differs: [
      "- a: 101",
      "- a: 0{\"sid\":\"<sid 1>\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}",
      "+ a: refused 400 | content-type: text/html",
      "+ a: refused Origin not allowed",
    ],
  },
  "an upgrade that was not offered": {
    why: "an upgrade that is switched off is refused; Node's switch only hides it",
    differs: [
      "- a: 101",
      "+ a: refused 400 | content-type: text/html",
      "+ a: refused Bad request",
    ],
  },
  "an event of a client that still waits for its connection": {
    why: "the event waits for the connect handler; Node closes the connection",
    differs: [
      "- a: closed 1005",
      "+ a: 40{\"sid\":\"<id 1>\"}",
      "+ a: 42[\"echoed\",1]",
    ],
  },
  "two connections at once to one namespace": {
    why: "the second breaks the protocol, also while the first is under way; Node makes two sockets of them",
    differs: [
      "- a: 40{\"sid\":\"<id 1>\"}",
      "- a: 40{\"sid\":\"<id 2>\"}",
      "+ a: closed 1005",
    ],
  },
  "a client leaves and comes again in one body": {
    why: "leaving and coming again takes effect in the order of the packets; Node closes if they come at once",
    differs: [
      "- a: 1",
      "+ a: 40{\"sid\":\"<id 2>\"}",
    ],
  },
  "the client leaves and closes in one body": {
    why: "the client left the namespace before it closed; Node mixes the two up if they come at once",
    differs: [
      "- a: transport close",
      "+ a: client namespace disconnect",
    ],
  },
  "what is sent to a client that the server made leave": {
    why: "nothing is sent to a client that has left; Node sends the event all the same",
    differs: [
      "- a: 42[\"bye\",\"too late\"]",
    ],
  },
  "the server closes a client's connection by polling": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "the server closes a client's connection with a GET waiting": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "the server closes a client's connection that nobody polls": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "the server closes a client's connection during an upgrade": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "an event that comes when the server has made the client leave": {
    why: "an event that was under way when the server made its client leave breaks no rule; Node closes the connection",
    differs: [
      "- a: closed 1005",
      "+ a: 40{\"sid\":\"<id 2>\"}",
    ],
  },
  "events come back as they were": {
    why: "arguments that a handler passes on keep the text they came in; Node writes them anew, and means the same",
    differs: [
      "- a: 42[\"echoed\",\"é€😀 \\u0000\\\"\\\\\"]",
      "- a: 42[\"echoed\",1,[2]]",
      "+ a: 42[\"echoed\",\"é€😀\\u2028\\u0000\\\"\\\\\"]",
      "+ a: 42[\"echoed\", 1 , [ 2 ] ]",
    ],
  },
  "numbers come back as they were": {
    why: "arguments that a handler passes on keep the text they came in; Node writes them anew, and means the same",
    differs: [
      "- a: 42[\"echoed\",0,-1,1.5,1000,123456789012345,-0.001]",
      "+ a: 42[\"echoed\",0,-1,1.5,1e3,123456789012345,-0.001]",
    ],
  },
  "numbers beyond what JavaScript knows": {
    why: "arguments that a handler passes on keep their text, and lose no digits",
    differs: [
      "- a: 42[\"echoed\",12345678901234567000,null,0,1]",
      "+ a: 42[\"echoed\",12345678901234567890,1e999,-0,1.0]",
    ],
  },
  "the last of two keys of the same name": {
    why: "arguments that a handler passes on keep the text they came in; Node writes them anew, and means the same",
    differs: [
      "- a: 42[\"echoed\",{\"a\":2}]",
      "+ a: 42[\"echoed\",{\"a\":1,\"a\":2}]",
    ],
  },
  "an event that nobody listens to, with an acknowledgement": {
    why: "who waits for an answer is told that there is no handler; Node lets it wait",
    differs: [
      "+ a: 431[{\"error\":\"no handler for this event\"}]",
    ],
  },
  "an acknowledgement of a number too large": {
    why: "an id above 64 bits is refused; Node answers with another one, which the client does not know",
    differs: [
      "- a: 431.2345678901234568e+29[1]",
      "+ a: closed 1009",
    ],
  },
  "an acknowledgement that comes when the client has left": {
    why: "nothing is sent to a client that has left; Node sends the acknowledgement all the same",
    differs: [
      "- a: 431[\"late\",false]",
    ],
  },
  "an attachment that is used twice": {
    why: "an attachment is named once, as every encoder does it: named often it would multiply what a client sends",
    differs: [
      "- a: 452-[\"echoed\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]",
      "- a: <01>",
      "- a: <01>",
      "+ a: closed 1005",
    ],
  },
  "an attachment that is not used": {
    why: "bytes that a handler passes on are passed on, also those that no argument names",
    differs: [
      "- a: 431[1]",
      "+ a: 461-1[1]",
      "+ a: <01>",
    ],
  },
  "attachments out of order": {
    why: "arguments that a handler passes on keep the text they came in; Node writes them anew, and means the same",
    differs: [
      "- a: 452-[\"echoed\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]",
      "- a: <02>",
      "+ a: 452-[\"echoed\",{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]",
      "+ a: <02>",
    ],
  },
  "a placeholder with more in it": {
    why: "arguments that a handler passes on keep the text they came in; Node writes them anew, and means the same",
    differs: [
      "- a: 451-[\"echoed\",{\"_placeholder\":true,\"num\":0}]",
      "+ a: 451-[\"echoed\",{\"_placeholder\":true,\"num\":0,\"x\":1}]",
    ],
  },
  "something like a placeholder": {
    why: "bytes that a handler passes on are passed on, also those that no argument names",
    differs: [
      "- a: 42[\"echoed\",{\"_placeholder\":false,\"num\":0},{\"num\":0}]",
      "+ a: 451-[\"echoed\",{\"_placeholder\":false,\"num\":0},{\"num\":0}]",
      "+ a: <01>",
    ],
  },
  "ten attachments": {
    why: "bytes that a handler passes on are passed on, also those that no argument names",
    differs: [
      "- a: 42[\"echoed\",1]",
      "+ a: 4510-[\"echoed\",1]",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
      "+ a: <01>",
    ],
  },
  "eleven attachments": {
    why: "a packet above a limit is too big, also by its number of attachments",
    differs: [
      "- a: closed 1005",
      "+ a: closed 1009",
      "- a: forced server close",
      "+ a: transport error",
    ],
  },
  "attachments in the words of floating point": {
    why: "a number of attachments has digits only",
    differs: [
      "- a: 42[\"echoed\",1]",
      "+ a: closed 1005",
    ],
  },
  "an unknown packet type before the connection": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- b: 6",
    ],
  },
  "a second connection to a namespace by polling": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "an event without a payload": {
    why: "an event must have a payload, as the protocol says; Node passes over it",
    differs: [
      "+ a: closed 1005",
    ],
  },
  "an acknowledgement without a payload": {
    why: "an acknowledgement must have a payload, as the protocol says; Node passes over it",
    differs: [
      "+ a: closed 1005",
    ],
  },
  "the server sends and closes, with a GET waiting": {
    why: "what a handler sends at once leaves at once; Node answers the poll with the first message alone, and puts a noop before the close packet",
    differs: [
      "- a rest",
      "- a: 6",
      "+ a rest",
    ],
  },
  "files of the client that the browser has": {
    why: "a 304 has the headers that the file would have, as RFC 9110 wants it",
    differs: [
      "- a: 304",
      "+ a: 304 | cache-control: public, max-age=0 | etag: \"4.8.4\"",
      "- a: 304",
      "+ a: 304 | cache-control: public, max-age=0 | etag: \"4.8.4\"",
    ],
  },
  "a broadcast while a client still waits for its connection": {
    why: "who has joined a room in its connect handler misses nothing of it: what comes before it is in follows when it is",
    differs: [
      "+ b: 42/room-sc977dd9a,[\"early\"]",
    ],
  },
  "a body of bytes from a client of version 2": {
    why: "a poll that finds the server closing gets the close packet; Node puts a noop before it, to have something to send",
    differs: [
      "- a: 6",
    ],
  },
  "a body of bytes that is broken": {
    why: "what is no packet is a parse error; Node takes any first byte but 0 for that of bytes",
    differs: [
      "- b: still there",
      "+ b: 400 | content-type: application/json",
      "+ b: {\"code\":1,\"message\":\"Session ID unknown\"}",
    ],
  },
  "recovery: a client comes back and gets what it missed": {
    why: "CONNECT comes before what was missed; the official client keeps what comes before CONNECT, and hears it twice if its connection is lost in between",
    differs: [
      "+ b: 40{\"sid\":\"<id 1>\",\"pid\":\"<pid 1>\"}",
      "- b: 40{\"sid\":\"<id 1>\",\"pid\":\"<pid 1>\"}",
    ],
  },
  "recovery: a client comes back by polling": {
    why: "CONNECT comes before what was missed; the official client keeps what comes before CONNECT, and hears it twice if its connection is lost in between",
    differs: [
      "- b: 42[\"said\",1,\"<offset 2>\"]",
      "+ b: 42[\"said\",1,\"<offset 2>\"]",
    ],
  },
  "recovery: bytes that were missed": {
    why: "CONNECT comes before what was missed; the official client keeps what comes before CONNECT, and hears it twice if its connection is lost in between",
    differs: [
      "+ b: 40{\"sid\":\"<id 1>\",\"pid\":\"<pid 1>\"}",
      "- b: 40{\"sid\":\"<id 1>\",\"pid\":\"<pid 1>\"}",
    ],
  },
  "recovery: what was not for the client is not missed": {
    why: "CONNECT comes before what was missed; the official client keeps what comes before CONNECT, and hears it twice if its connection is lost in between",
    differs: [
      "- b: 42[\"said\",5,\"<offset 2>\"]",
      "+ b: 42[\"said\",5,\"<offset 2>\"]",
    ],
  },
  "recovery: a client comes back a second time": {
    why: "CONNECT comes before what was missed; the official client keeps what comes before CONNECT, and hears it twice if its connection is lost in between",
    differs: [
      "- c: 42[\"said\",1,\"<offset 3>\"]",
      "+ c: 42[\"said\",1,\"<offset 3>\"]",
    ],
  },
  "recovery: a client that has not been sent anything yet": {
    why: "a client that has seen no event yet misses all that came; Node recovers only those that have",
    differs: [
      "- b: 40{\"sid\":\"<id 2>\",\"pid\":\"<pid 2>\"}",
      "+ b: 40{\"sid\":\"<id 1>\",\"pid\":\"<pid 1>\"}",
      "+ b: 42[\"said\",1,\"<offset 1>\"]",
    ],
  },
  "recovery: two clients with one private id": {
    why: "a socket has one client; Node leaves two sockets with one id",
    differs: [
      "+ b: closed 1005",
    ],
  },
  "recovery: a private id of a client that is still there": {
    why: "the private id says who it is: a client often is back before the server notices that its connection is gone; Node makes a new socket of it",
    differs: [
      "- b: 40{\"sid\":\"<id 2>\",\"pid\":\"<pid 2>\"}",
      "+ b: 40{\"sid\":\"<id 1>\",\"pid\":\"<pid 1>\"}",
      "- b: 431[false]",
      "+ b: 431[true]",
      "+ a: closed 1005",
    ],
  },
};
