// Scripts about what HTTP answers carry: CORS, cookies, JSONP, hooks.

import { script } from "./script.js";

const ONE = { headers: { origin: "https://one.example" } };
const TWO = { headers: { origin: "https://two.example" } };
const OTHER = { headers: { origin: "https://other.example" } };
const ASKED = {
  "access-control-request-method": "POST",
  "access-control-request-headers": "x-any",
};
const HANDSHAKE = "/socket.io/?EIO=4&transport=polling";

export const http = [
  script("no CORS unless it is configured", "default", [
    ["a", "open", ONE],
    ["a", "ask", "OPTIONS", HANDSHAKE, ONE],
  ]),
  script("CORS for any origin", "any origin", [
    ["a", "open", ONE],
    ["a", "post", "40", OTHER],
    ["a", "get", ONE],
    ["b", "open"],
    ["c", "ask", "GET", "/socket.io/?EIO=4", ONE],
    ["d", "ws", ONE],
  ]),
  script("a preflight for any origin", "any origin", [
    ["a", "ask", "OPTIONS", HANDSHAKE, { headers: { ...ONE.headers, ...ASKED } }],
    ["a", "ask", "OPTIONS", HANDSHAKE, ONE],
    ["a", "ask", "OPTIONS", "/socket.io/", ONE],
  ]),
  script("CORS for some origins", "some origins", [
    ["a", "open", ONE],
    ["a", "post", "40", TWO],
    ["a", "get", ONE],
    ["b", "open"],
    ["c", "ask", "GET", "/socket.io/?EIO=4", TWO],
    ["d", "ws", ONE],
  ]),
  script("CORS for another origin", "some origins", [["a", "open", OTHER]]),
  script("a WebSocket from another origin", "some origins", [["a", "ws", OTHER]]),
  script("a WebSocket from another origin where nothing is configured", "default", [
    ["a", "ws", OTHER],
  ]),
  script("a preflight for some origins", "some origins", [
    ["a", "ask", "OPTIONS", HANDSHAKE, { headers: { ...ONE.headers, ...ASKED } }],
    ["a", "ask", "OPTIONS", HANDSHAKE, OTHER],
    ["a", "ask", "OPTIONS", HANDSHAKE],
  ]),
  script("a cookie", "cookie", [
    ["a", "open"],
    ["a", "post", "40"],
    ["a", "get"],
    ["b", "ws"],
    ["c", "ask", "GET", "/socket.io/?EIO=4"],
  ]),
  script("a cookie of one's own", "another cookie", [["a", "open"]]),
  script("a body for JSONP", "jsonp", [
    ["a", "open", { query: "&j=5" }],
    ["a", "post", "d=40", FORM()],
    ["a", "get"],
    ["a", "post", `d=${encodeURIComponent('42["echo","a\u2028b<\\\\n>"]')}`, FORM()],
    ["a", "get"],
    ["a", "post", "x=1", FORM()],
    ["a", "post", `d=${encodeURIComponent('42["echo",1]\x1e42["echo",2]')}`, FORM()],
    ["a", "receive", 2],
  ]),
  script("the index of JSONP has digits only", "jsonp", [
    ["a", "open", { query: "&j=1;alert(1)//2" }],
    ["b", "open", { query: "&j=x" }],
    ["c", "open", { query: "&j=" }],
  ]),
  script("a refusal in JSONP", "jsonp", [["a", "ask", "GET", "/socket.io/?EIO=4&j=1"]]),
  script("an application that allows requests", "hooks", [
    ["a", "open"],
    ["a", "post", "40"],
    ["a", "get"],
    ["b", "open", { headers: { "x-blocked": "yes" } }],
    ["c", "open", { headers: { "x-blocked": "why" } }],
    ["d", "ws"],
    ["a", "post", "4", { headers: { "x-blocked": "yes" } }],
  ]),
  script("an application that forbids a WebSocket", "hooks", [
    ["a", "ws", { headers: { "x-blocked": "yes" } }],
    ["b", "ws", { headers: { "x-blocked": "why" } }],
  ]),
  script("a long answer is compressed", "default", [
    ["a", "open", { headers: { "accept-encoding": "gzip" } }],
    ["a", "post", "40"],
    ["a", "get", { headers: { "accept-encoding": "gzip" } }],
    ["a", "post", `42["echo","${"x".repeat(2000)}"]`],
    ["a", "get", { headers: { "accept-encoding": "gzip, deflate, br" } }],
    ["a", "post", `42["echo","${"x".repeat(2000)}"]`],
    ["a", "get", { headers: { "accept-encoding": "deflate" } }],
    ["a", "post", `42["echo","${"x".repeat(2000)}"]`],
    ["a", "get", { headers: { "accept-encoding": "br" } }],
    ["a", "post", `42["echo","${"x".repeat(2000)}"]`],
    ["a", "get"],
  ]),
  script("an answer of just the length to be compressed", "default", [
    ["a", "open"],
    ["a", "post", "40"],
    ["a", "get"],
    ["a", "post", `42["echo","${"x".repeat(1023 - 15)}"]`],
    ["a", "get", { headers: { "accept-encoding": "gzip" } }],
    ["a", "post", `42["echo","${"x".repeat(1024 - 15)}"]`],
    ["a", "get", { headers: { "accept-encoding": "gzip" } }],
  ]),
  script("an answer that is not to be compressed", "default", [
    ["a", "open"],
    ["a", "post", "40"],
    ["a", "get"],
    ["a", "post", '42["plain",2000]'],
    ["a", "get", { headers: { "accept-encoding": "gzip" } }],
  ]),
  script("files of the client", "files", [
    ["a", "ask", "GET", "/socket.io/socket.io.js"],
    ["a", "ask", "GET", "/socket.io/socket.io.min.js?buster=1"],
    ["a", "ask", "GET", "/socket.io/socket.io.min.js.map"],
    ["a", "ask", "GET", "/socket.io/socket.io.esm.min.js"],
    ["a", "ask", "GET", "/socket.io/socket.io.msgpack.min.js"],
    ["a", "ask", "HEAD", "/socket.io/socket.io.js"],
  ]),
  script("files of the client, compressed", "files", [
    ["a", "ask", "GET", "/socket.io/socket.io.min.js", { headers: { "accept-encoding": "gzip" } }],
    ["a", "ask", "GET", "/socket.io/socket.io.js", { headers: { "accept-encoding": "deflate" } }],
  ]),
  script("files of the client that the browser has", "files", [
    ["a", "ask", "GET", "/socket.io/socket.io.js", { headers: { "if-none-match": '"4.8.4"' } }],
    ["a", "ask", "GET", "/socket.io/socket.io.js", { headers: { "if-none-match": 'W/"4.8.4"' } }],
  ]),
  script("a file that there is not", "files", [["a", "ask", "GET", "/socket.io/other.js"]]),
  script("a server that does not have the client's files", "default", [
    ["a", "ask", "GET", "/socket.io/socket.io.js"],
  ]),
  script("a server that offers no upgrade", "no upgrades", [
    ["a", "open"],
    ["b", "ws"],
  ]),
  script("an upgrade that was not offered", "no upgrades", [
    ["a", "open"],
    ["a", "upgrade"],
    ["a", "post", "40"],
    ["a", "get"],
  ]),
];

function FORM() {
  return { headers: { "content-type": "application/x-www-form-urlencoded" } };
}
